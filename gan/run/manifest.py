"""Checkpoints as files: which are committed, and whether every byte is unchanged.

A checkpoint is a folder `step-00001000/` with TensorFlow's files and a manifest of
their sizes and SHA-256 sums. It is written under a temporary name and appears by one
rename, after everything in it has reached the disk. This file does not need TensorFlow.
"""

import hashlib
import json
import shutil
import uuid
from pathlib import Path
from typing import Any

from config.schema import UserError
from gan.files import fingerprint, read_text

MANIFEST = "manifest.json"
REPLACED = ".old-"  # prefix of a checkpoint while a new one of its step takes its place


class CheckpointError(UserError):
    """A checkpoint cannot be written, or none can be read."""


def available(directory: Path) -> list[tuple[int, Path]]:
    """Steps and folders of all committed checkpoints, newest first, not verified."""
    found = []
    for path in directory.glob("step-*"):
        digits = path.name.removeprefix("step-")
        if path.is_dir() and digits.isdigit():
            found.append((int(digits), path))
    return sorted(found, reverse=True)


def verify(path: Path) -> dict[str, Any]:
    """Checks every file of a checkpoint against its manifest, which it returns."""
    try:
        manifest = json.loads(read_text(path / MANIFEST))
        recorded = manifest.pop("sha256", None)  # early versions wrote none
        if recorded not in (None, checksum(manifest)):
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


def checksum(manifest: dict[str, Any]) -> str:
    """SHA-256 of the manifest's values, with which damage of the manifest is found."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def clean(directory: Path) -> list[Path]:
    """Removes the files that a killed writer left behind, and returns their paths."""
    put_back(directory)
    patterns = (".tmp-*", ".del-*", f"{REPLACED}*")
    found = [path for pattern in patterns for path in directory.glob(pattern)]
    for path in found:
        shutil.rmtree(path, ignore_errors=True)
    return found


def put_back(directory: Path) -> None:
    """Undoes a replacement that was interrupted between its two renames."""
    for path in directory.glob(f"{REPLACED}*"):
        final = directory / path.name.removeprefix(REPLACED)
        if not final.exists():
            path.rename(final)


def set_aside(path: Path) -> Path:
    """Renames a damaged checkpoint to `corrupt-…`, and returns its new path."""
    step = path.name.removeprefix("step-")
    aside = path.with_name(f"corrupt-{step}-{uuid.uuid4().hex[:8]}")
    path.rename(aside)
    return aside


def remove(path: Path) -> None:
    """Removes a checkpoint in such a way that no reader ever finds a part of it."""
    doomed = path.with_name(f".del-{path.name}")
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
