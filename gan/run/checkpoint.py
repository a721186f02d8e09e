"""Checkpoints: committed whole or not at all, and verified before they are read.

The files and their manifest are described in `manifest.py`. TensorFlow's own
`checkpoint` file is not used, because a damaged one makes a run start again without a
message.
"""

import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from config.loader import differences
from config.schema import Config, ConfigError
from gan.files import fingerprint, first_line, flush, write_atomically
from gan.run.folder import FORK, RunError, RunFolder, RunRecord
from gan.run.manifest import (
    MANIFEST,
    REPLACED,
    CheckpointError,
    available,
    checksum,
    clean,
    put_back,
    remove,
    set_aside,
    verify,
)
from gan.run.start import Origin
from gan.state import TrainState, build_state

RATE_SCALE = "rate_scale/.ATTRIBUTES/VARIABLE_VALUE"  # its key in a checkpoint


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
    lasting: Sequence[int] = (),
    replace: bool = False,
) -> Path:
    """Commits a checkpoint, then removes all but the `keep` newest and `lasting` steps.

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
    for number, path in available(directory)[keep:]:
        if number not in lasting:
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


def read(path: Path, checkpoint: tf.train.Checkpoint, *, whole: bool = True) -> None:
    """Restores every variable from a verified checkpoint, or raises.

    It must hold no other variables, unless `whole` is false.
    """
    try:
        with old_rate_scale(path, checkpoint):
            status = checkpoint.read(str(path / "ckpt"))
            if whole:
                status.assert_consumed()
            else:
                status.expect_partial().assert_existing_objects_matched()
    except CheckpointError:
        raise
    # ValueError: of other shapes. AssertionError: of other variables.
    except (ValueError, AssertionError, tf.errors.OpError) as error:
        raise CheckpointError(
            f"{path} is undamaged but holds other variables than this version of the "
            f"code ({first_line(error)}); continue with the version that wrote it, or "
            "start a new run with --run NAME"
        ) from None


def connect(
    folder: RunFolder, record: RunRecord, state: TrainState, origin: Origin | None
) -> tuple[RunRecord, list[str], Restored | None]:
    """Connects a folder with a run, and gives `state` the run's newest checkpoint.

    A run with an origin begins with a checkpoint, so that it never needs its parent
    again.

    Returns:
        The record and the changed settings, as `RunFolder.claim` does, and what was
        restored, if anything.
    """
    if origin:  # before the folder is claimed, because it may refuse
        inherit(origin, record.config, state)
    record, changes = folder.claim(record)
    if origin:
        step, keep = int(state.step.numpy()), record.config.run.keep_checkpoints
        save(folder.state, step, state.checkpoint, record.to_json(), keep)
    restored = restore_newest(folder.state, state.checkpoint)
    if record.parent and not restored:
        raise RunError(
            f"{folder.directory} was {record.parent} and has lost its first state; "
            "remove the folder, and give the command that made it again"
        )
    return record, changes, restored


def inherit(origin: Origin, config: Config, state: TrainState) -> None:
    """Gives a new run the state of its parent, or the weights of its networks.

    Raises:
        ConfigError: when no step is left to train.
        RunError: naming the settings that make other variables than the parent has.
    """
    step, num_steps = origin.parent.step, config.train.num_steps
    if origin.parent.kind == FORK and num_steps <= step:
        raise ConfigError(
            f"train.num_steps: received {num_steps}, expected more than {step}, the "
            "step of the parent; give a larger budget with --steps"
        )
    data, old = origin.record.dataset, origin.record.config
    try:
        if origin.parent.kind == FORK:
            read(origin.path, state.checkpoint)
            return
        source = build_state(old, data["image_size"], data["channels"])
        read(origin.path, source.checkpoint)
        for name in ("generator", "ema_generator", "discriminator"):
            getattr(state, name).set_weights(getattr(source, name).get_weights())
    except (CheckpointError, ValueError) as error:
        *_, size, channels = state.generator.output_shape
        changes = [
            line
            for line in differences(old, config)
            if line.startswith(("model.", "train.precision"))
        ]
        shape = data["image_size"], data["channels"]
        if shape != (size, channels):
            changes.append(
                f"images of {shape[0]} px and {shape[1]} channels -> {size} px and "
                f"{channels}"
            )
        if not changes:
            raise
        raise RunError(
            f"{origin.path}: its state does not fit the networks that these settings "
            f"make: {'; '.join(changes)}; leave them as they are, or start a new run "
            "without a parent"
        ) from error


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


class RunCheckpoints:
    """The checkpoints of one run, and its exported generator.

    `state/` holds the newest states, from which the run continues; `best/` holds the
    state whose averaged generator has the lowest score so far.
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
        run, whole = self.record.config.run, self.state.checkpoint
        keep, lasting = run.keep_checkpoints, run.checkpoint_steps
        try:
            save(self.folder.state, step, whole, facts, keep, lasting=lasting)
        except CheckpointError as error:
            if required:
                raise
            self.say(f"warning: {error}; training goes on")

    def keep_best(self, step: int, score: str, value: float) -> None:
        """Keeps the state if no earlier averaged generator had a lower score."""
        if self.best.get("score") == score and not value < self.best["value"]:
            return
        best = {"score": score, "value": value}
        facts = self.record.to_json() | best
        directory, whole = self.folder.best, self.state.checkpoint
        try:
            kept = save(directory, step, whole, facts, keep=2, replace=True)
        except CheckpointError as error:
            self.say(f"warning: best {error}")
            return
        self.best = best
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
