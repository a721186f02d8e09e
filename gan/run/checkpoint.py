"""State on disk: committed whole or not at all, verified before it is read.

A checkpoint is a folder `step-00001000/` with TensorFlow's files and a manifest of
their sizes and SHA-256 sums. It is written under a temporary name and appears by one
rename, after everything in it has reached the disk. TensorFlow's own `checkpoint` state
file is not used: a torn one makes a run start over in silence.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from gan.files import fingerprint, first_line, flush, read_text

MANIFEST = "manifest.json"
RATE_SCALE = "rate_scale/.ATTRIBUTES/VARIABLE_VALUE"  # its key in a checkpoint
REPLACED = ".old-"  # prefix of a checkpoint while a new one of its step takes its place


class CheckpointError(ValueError):
    """A checkpoint cannot be written, or none can be read."""


@dataclass(frozen=True)
class Restored:
    """What a restore found.

    Attributes:
        step: number of finished steps.
        facts: what the writer recorded about itself.
        warnings: one line for each checkpoint that was set aside.
    """

    step: int
    facts: dict[str, Any]
    warnings: tuple[str, ...]


def save(
    directory: Path,
    step: int,
    checkpoint: tf.train.Checkpoint,
    facts: dict[str, Any],
    keep: int,
    *,
    replace: bool = False,
) -> Path:
    """Commits a checkpoint and removes the oldest beyond `keep`.

    One of the same step stays as it is, unless `replace` says that it is outdated.

    Raises:
        CheckpointError: when the disk refuses; earlier checkpoints stay as they were.
    """
    final = directory / f"step-{step:08d}"
    if final.exists() and not replace:
        return final
    temporary = directory / f".tmp-{step:08d}-{uuid.uuid4().hex[:8]}"
    try:
        temporary.mkdir(parents=True)
        checkpoint.write(str(temporary / "ckpt"))
        files = sorted(temporary.iterdir())
        manifest = {
            "step": step,
            "files": {p.name: fingerprint(p) for p in files},
            "facts": facts,
        }
        manifest["sha256"] = seal(manifest)
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))
        for path in (*files, temporary / MANIFEST, temporary):
            flush(path)
        if final.exists():
            final.rename(directory / f"{REPLACED}{final.name}")
        temporary.rename(final)  # the commit
        flush(directory)
        clean(directory)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        put_back(directory)
        if isinstance(error, (OSError, tf.errors.OpError)):
            raise CheckpointError(
                f"checkpoint of step {step} not written: {first_line(error)}"
            ) from error
        raise
    for _, path in available(directory)[keep:]:
        remove(path)
    return final


def restore_newest(directory: Path, checkpoint: tf.train.Checkpoint) -> Restored | None:
    """Restores the newest valid checkpoint and sets invalid ones aside.

    Returns:
        None when no checkpoint was ever committed.

    Raises:
        CheckpointError: when there were checkpoints and none is valid, or the newest
            valid one holds other variables.
    """
    clean(directory)
    warnings = []
    for step, path in available(directory):
        try:
            manifest = verify(path)
        except CheckpointError as error:
            aside = set_aside(path)
            warnings.append(f"checkpoint {path.name} set aside as {aside}: {error}")
            continue
        read(path, checkpoint)
        return Restored(step, manifest["facts"], tuple(warnings))
    if any(directory.glob("corrupt-*")):
        raise CheckpointError(
            f"{directory}: no valid checkpoint is left "
            f"({'; '.join(warnings) or 'all were set aside earlier'}); "
            "start a new run with --run NAME"
        )
    return None


def read(path: Path, checkpoint: tf.train.Checkpoint) -> None:
    """Restores every variable from a verified checkpoint.

    Raises:
        CheckpointError: when it holds others. Its bytes are those that were written, so
            another version of the code wrote it, and it stays where it is.
    """
    try:
        with old_rate_scale(path, checkpoint):
            checkpoint.read(str(path / "ckpt")).assert_consumed()
    except CheckpointError:
        raise
    # ValueError: of other shapes. AssertionError: of other variables.
    except (ValueError, AssertionError, tf.errors.OpError) as error:
        raise CheckpointError(
            f"{path} is undamaged but holds other variables than this version of the "
            f"code ({first_line(error)}); continue with the version that wrote it, or "
            "start a new run with --run NAME"
        ) from None


@contextmanager
def old_rate_scale(path: Path, checkpoint: tf.train.Checkpoint) -> Iterator[None]:
    """Lets `checkpoint` read what a version with `--on-alarm rollback` wrote.

    Such a version also saved a factor on both learning rates, 1 before any rollback.

    Raises:
        CheckpointError: when the factor is smaller.
    """
    stored = tf.train.load_checkpoint(str(path / "ckpt"))
    if not stored.has_tensor(RATE_SCALE):
        yield
        return
    if (factor := float(stored.get_tensor(RATE_SCALE))) != 1:
        raise CheckpointError(
            f"{path} belongs to a run whose learning rates a rollback multiplied by "
            f"{factor:g}, and rollback was removed; continue with the version that "
            "wrote it, or start a new run with lower rates and --run NAME"
        )
    checkpoint.rate_scale = tf.Variable(1.0)
    try:
        yield
    finally:
        del checkpoint.rate_scale


def available(directory: Path) -> list[tuple[int, Path]]:
    """Steps and folders of committed checkpoints, newest first, not yet verified."""
    found = []
    for path in directory.glob("step-*"):
        digits = path.name.removeprefix("step-")
        if path.is_dir() and digits.isdigit():
            found.append((int(digits), path))
    return sorted(found, reverse=True)


def verify(path: Path) -> dict[str, Any]:
    """Checks every file of a checkpoint against its manifest; returns the manifest.

    Raises:
        CheckpointError: saying which file is wrong and how.
    """
    try:
        manifest = json.loads(read_text(path / MANIFEST))
        sealed = manifest.pop("sha256", None)  # the first versions wrote none
        if sealed not in (None, seal(manifest)):
            raise ValueError
        files, step, facts = (manifest.pop(key) for key in ("files", "step", "facts"))
        if manifest or not isinstance(files, dict) or not isinstance(facts, dict):
            raise TypeError
        name = f"step-{step:08d}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{MANIFEST} is missing or unreadable") from None
    if path.name != name or "ckpt.index" not in files:
        raise CheckpointError(f"{MANIFEST} does not belong to {path.name}")
    for name, expected in files.items():
        if Path(name).name != name:
            raise CheckpointError(f"{MANIFEST} names {name!r} outside the folder")
        try:
            actual = fingerprint(path / name)
        except (OSError, ValueError):
            raise CheckpointError(f"{name} is missing or unreadable") from None
        if actual != expected:
            raise CheckpointError(f"{name} differs from its recorded size or sha256")
    return {"step": step, "files": files, "facts": facts}


def seal(manifest: dict[str, Any]) -> str:
    """SHA-256 of a manifest's values, so that its own damage is seen too."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def clean(directory: Path) -> list[Path]:
    """Removes what a killed writer left behind, and says what."""
    put_back(directory)
    patterns = (".tmp-*", ".del-*", f"{REPLACED}*")
    found = [path for pattern in patterns for path in directory.glob(pattern)]
    for path in found:
        shutil.rmtree(path, ignore_errors=True)
    return found


def put_back(directory: Path) -> None:
    """Undoes a replacement that ended between its two renames."""
    for path in directory.glob(f"{REPLACED}*"):
        final = directory / path.name.removeprefix(REPLACED)
        if not final.exists():
            path.rename(final)


def set_aside(path: Path) -> Path:
    """Renames a damaged checkpoint, for whoever wants to know; returns its new path."""
    step = path.name.removeprefix("step-")
    aside = path.with_name(f"corrupt-{step}-{uuid.uuid4().hex[:8]}")
    path.rename(aside)
    return aside


def remove(path: Path) -> None:
    """Removes a checkpoint so that no reader ever sees half of it."""
    doomed = path.with_name(f".del-{path.name}")
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
