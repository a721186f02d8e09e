"""Checkpoints: committed whole or not at all, and verified before they are read.

A checkpoint is a folder `step-00001000/` with TensorFlow's files and a manifest of
their sizes and SHA-256 sums. It is written under a temporary name and appears by one
rename, after everything in it has reached the disk. TensorFlow's own `checkpoint` file
is not used, because a damaged one makes a run start again without a message.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from config.schema import UserError
from gan.files import fingerprint, first_line, flush, read_text, write_atomically
from gan.run.folder import RunFolder, RunRecord
from gan.state import TrainState

MANIFEST = "manifest.json"
RATE_SCALE = "rate_scale/.ATTRIBUTES/VARIABLE_VALUE"  # its key in a checkpoint
REPLACED = ".old-"  # prefix of a checkpoint while a new one of its step takes its place


class CheckpointError(UserError):
    """A checkpoint cannot be written, or none can be read."""


@dataclass(frozen=True)
class Restored:
    """The result of restoring a checkpoint."""

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
    """Commits a checkpoint, and then removes all but the `keep` newest ones.

    A checkpoint of the same step is left as it is, unless `replace` is true. When the
    disk refuses, earlier checkpoints stay as they were.
    """
    final = directory / f"step-{step:08d}"
    if final.exists() and not replace:
        return final
    temporary = directory / f".tmp-{step:08d}-{uuid.uuid4().hex[:8]}"
    try:
        temporary.mkdir(parents=True)
        checkpoint.write(str(temporary / "ckpt"))
        files = sorted(temporary.iterdir())
        sums = {path.name: fingerprint(path) for path in files}
        manifest: dict[str, Any] = {"step": step, "files": sums, "facts": facts}
        manifest["sha256"] = checksum(manifest)
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))
        for path in (*files, temporary / MANIFEST, temporary):
            flush(path)
        if final.exists():
            final.rename(directory / f"{REPLACED}{final.name}")
        temporary.rename(final)  # the commit
        flush(directory)
        clean(directory)
    except (OSError, tf.errors.OpError) as error:
        message = f"checkpoint of step {step} not written: {first_line(error)}"
        raise CheckpointError(message) from error
    finally:  # after the commit there is nothing left to undo
        shutil.rmtree(temporary, ignore_errors=True)
        put_back(directory)
    for _, path in available(directory)[keep:]:
        remove(path)
    return final


def restore_newest(directory: Path, checkpoint: tf.train.Checkpoint) -> Restored | None:
    """Restores the newest valid checkpoint, and sets damaged ones aside.

    Returns:
        None when no checkpoint was ever committed.

    Raises:
        CheckpointError: when none is valid, or the newest holds other variables.
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
    """Restores every variable from a verified checkpoint, or raises."""
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

    It also saved a factor on both learning rates, 1 before any rollback.
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


class RunCheckpoints:
    """The checkpoints of one run, and its exported generator.

    `state/` holds the newest states, from which the run continues; `best/` holds the
    averaged generator with the lowest score so far.
    """

    def __init__(
        self,
        folder: RunFolder,
        state: TrainState,
        record: RunRecord,
        say: Callable[[str], None],
    ) -> None:
        self.folder, self.state, self.record, self.say = folder, state, record, say
        self.best: dict[str, Any] = {}
        clean(folder.best)
        for _, path in available(folder.best)[:1]:
            try:
                kept = verify(path)["facts"]
                score, value = str(kept["score"]), float(kept["value"])
                self.best = {"score": score, "value": value}
            except (CheckpointError, KeyError, TypeError, ValueError) as error:
                say(f"warning: {path}: {error}; the best score so far is not known")

    def save(self, step: int, alarms: dict[str, Any], *, required: bool) -> None:
        """Commits the state after `step` steps."""
        facts = self.record.to_json() | {"alarms": alarms}
        keep = self.record.config.run.keep_checkpoints
        try:
            save(self.folder.state, step, self.state.checkpoint, facts, keep)
        except CheckpointError as error:
            if required:
                raise
            self.say(f"warning: {error}; training goes on")

    def keep_best(self, step: int, score: str, value: float) -> None:
        """Keeps the averaged generator if no earlier one had a lower score."""
        if self.best.get("score") == score and not value < self.best["value"]:
            return
        facts = {"score": score, "value": value}
        average = tf.train.Checkpoint(ema_generator=self.state.ema_generator)
        directory = self.folder.best
        try:
            kept = save(directory, step, average, facts, keep=2, replace=True)
        except CheckpointError as error:
            self.say(f"warning: best {error}")
            return
        self.best = facts
        for _, path in available(directory):
            if path != kept:
                remove(path)

    def export(self) -> None:
        """Writes generator.keras with the averaged weights."""
        path = self.folder.directory / "generator.keras"
        try:
            write_atomically(path, self.state.ema_generator.save)
        except OSError as error:
            raise CheckpointError(f"{path} not written: {error}") from error
