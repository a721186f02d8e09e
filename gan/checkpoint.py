"""State on disk: committed whole or not at all, verified before it is read.

A checkpoint is a folder `step-00001000/` with TensorFlow's files and a manifest of
their sizes and SHA-256 sums. It is written under a temporary name and appears by one
rename, after everything in it has reached the disk. TensorFlow's own `checkpoint` state
file is not used: a torn one makes a run start over in silence.
"""

import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from gan.files import fingerprint, first_line, flush

MANIFEST = "manifest.json"


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
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))
        for path in (*files, temporary / MANIFEST, temporary):
            flush(path)
        if final.exists():
            remove(final)
        temporary.rename(final)  # the commit
        flush(directory)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
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
        CheckpointError: when there were checkpoints and none is valid.
    """
    clean(directory)
    warnings = []
    for step, path in available(directory):
        try:
            manifest = verify(path)
            checkpoint.read(str(path / "ckpt")).assert_consumed()
        # ValueError: damaged, or of other shapes. AssertionError: of other variables.
        except (ValueError, AssertionError, tf.errors.OpError) as error:
            aside = path.with_name(f"corrupt-{step:08d}-{uuid.uuid4().hex[:8]}")
            path.rename(aside)
            reason = first_line(error)
            warnings.append(f"checkpoint {path.name} set aside as {aside}: {reason}")
            continue
        return Restored(step, manifest["facts"], tuple(warnings))
    if any(directory.glob("corrupt-*")):
        raise CheckpointError(
            f"{directory}: no valid checkpoint is left "
            f"({'; '.join(warnings) or 'all were set aside earlier'}); "
            "start a new run with --run NAME"
        )
    return None


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
        manifest = json.loads((path / MANIFEST).read_text())
        files, step = manifest["files"], manifest["step"]
        facts = manifest["facts"]
        if not isinstance(files, dict) or not isinstance(facts, dict):
            raise TypeError
        name = f"step-{step:08d}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
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
    return manifest


def clean(directory: Path) -> None:
    """Removes what a killed writer left behind."""
    for pattern in (".tmp-*", ".del-*"):
        for path in directory.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def remove(path: Path) -> None:
    """Removes a checkpoint so that no reader ever sees half of it."""
    doomed = path.with_name(f".del-{path.name}")
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
