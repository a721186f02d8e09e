"""Files that are there whole or not at all."""

import hashlib
import os
import re
import stat
import uuid
import zipfile
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

MAX_BYTES = 4 << 30  # of arrays from one file; everything is held in memory
TEMPORARY = ".tmp-"  # prefix of a name under which nobody looks for a file


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Calls `write(temporary path)` and renames the result to `path`.

    The temporary name keeps the suffix, on which Keras insists.

    Raises:
        OSError: when the disk refuses; an earlier `path` stays as it was.
    """
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        write(temporary)
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(directory: Path) -> list[Path]:
    """Removes what a killed `write_atomically` left in a folder, and says what."""
    found = [p for p in directory.glob(f"{TEMPORARY}*") if not p.is_dir()]
    for path in found:
        path.unlink()
    return found


def read_text(path: Path, max_bytes: int = 1 << 20) -> str:
    """Text of a file that may be a stranger's.

    Raises:
        OSError: when it cannot be read.
        ValueError: when it is no regular file (a pipe never ends), larger than
            `max_bytes`, or not UTF-8.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes:
        raise ValueError(f"expected a file of at most {max_bytes} bytes")
    return path.read_text(encoding="utf-8")


def read_arrays(
    path: Path, names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """Arrays of an .npz that may be a stranger's.

    Args:
        path: of the file.
        names: of the arrays wanted, as far as they are there; None: all.

    Raises:
        OSError: when it cannot be read.
        ValueError: for whatever is wrong with its content, or more than MAX_BYTES.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            found = [name for name in archive.files if names is None or name in names]
            sizes = {i.filename.removesuffix(".npy"): i for i in archive.zip.infolist()}
            num_bytes = sum(sizes[name].file_size for name in found)
            if num_bytes > MAX_BYTES:
                raise ValueError(f"{num_bytes} bytes, expected at most {MAX_BYTES}")
            arrays = {name: archive[name] for name in found}
    except (EOFError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ValueError(f"not an .npz archive: {error}") from None
    except (MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"damaged: {error}") from None
    for name, array in arrays.items():  # NumPy hands out other members as bytes
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{name} is no array")
    return arrays


def fingerprint(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file.

    Raises:
        OSError: when it is missing, or no regular file.
    """
    if not path.is_file():
        raise OSError(f"{path} is no file")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}


def flush(path: Path) -> None:
    """Waits until a file or folder has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, which TensorFlow's continue for pages.

    Nor does it repeat TensorFlow's name of the function, which hides the reason.
    """
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"\{\{.*?\}\} ?", "", line)[:300]
