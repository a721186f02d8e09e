"""Writing files whole or not at all, and reading files that are not trusted."""

import errno
import hashlib
import os
import re
import stat
import uuid
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

MAX_BYTES = 4 << 30  # limit for the arrays of one file, which are held in memory
TEMPORARY = ".tmp-"  # prefix of unfinished files, which no reader opens


def without_onnx(path: str | Path, error: ImportError) -> str:
    """What to do where a package is missing that reads or writes an .onnx file."""
    return (
        f"{path}: .onnx needs {error.name}; install it with "
        "pip install -c constraints.txt -e '.[onnx]'"
    )


def counted(number: int, what: str) -> str:
    """A number with its noun: "1 image", "2 images"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Calls `write(temporary path)` and renames the result to `path`.

    After an error an earlier `path` stays as it was. The temporary name keeps the
    suffix, because Keras checks it.
    """
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        write(temporary)
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(directory: Path) -> None:
    """Removes the files that a killed `write_atomically` left in a folder."""
    for path in directory.glob(f"{TEMPORARY}*"):
        if not path.is_dir():
            path.unlink()


def read_text(path: Path, max_bytes: int = 1 << 20) -> str:
    """Reads the text of a file that is not trusted."""
    status = path.stat()
    # A pipe would never end.
    if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes:
        raise ValueError(f"expected a file of at most {max_bytes} bytes")
    return path.read_text(encoding="utf-8")


def read_arrays(
    path: Path, names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """Reads the arrays of these names, or all, from an .npz file that is not trusted.

    Raises:
        OSError or ValueError: if it cannot be read, or has more than MAX_BYTES.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            found = [name for name in archive.files if names is None or name in names]
            sizes = {i.filename.removesuffix(".npy"): i for i in archive.zip.infolist()}
            num_bytes = sum(sizes[name].file_size for name in found)
            if num_bytes > MAX_BYTES:
                raise ValueError(f"{num_bytes} bytes, expected at most {MAX_BYTES}")
            arrays = {name: archive[name] for name in found}
    except (OSError, ValueError):
        raise
    except Exception as error:  # NumPy raises many types for a damaged file
        raise ValueError(f"not an .npz archive: {first_line(error)}") from None
    for name, array in arrays.items():  # NumPy returns members of other types as bytes
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{name} is no array")
    return arrays


def fingerprint(path: Path) -> dict[str, Any]:
    """Returns size in bytes and SHA-256 of a file."""
    if not path.is_file():
        raise OSError(f"{path} is no file")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}


def flush(path: Path) -> None:
    """Waits until a file or folder has reached the disk.

    Some network file systems cannot wait for a folder, and say EINVAL.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text that says why, at most 300 characters.

    Errors of TensorFlow have many lines, and begin with the name of a function in
    double braces, which is left out. Keras puts a line of its own in front, and colors.
    """
    text = re.sub(r"\x1b\[\d+m|\{\{.*?\}\} ?", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("Exception encountered when calling"):
        del lines[0]
    return (lines or [type(error).__name__])[0][:300]
