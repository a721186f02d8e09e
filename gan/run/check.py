"""Verifies a run folder and repairs it where possible, for `python -m gan check`.

Only files that a killed process left half written are removed; a damaged file gets
another name. If config.json and the newest checkpoint differ, the checkpoint is right,
because its manifest has a checksum.
"""

import uuid
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tensorflow as tf

from gan.files import write_atomically
from gan.run import checkpoint
from gan.run.folder import (
    CONFIG,
    RunError,
    RunFolder,
    RunRecord,
    forbidden_changes,
    parse_record,
    read_run,
)
from gan.run.manifest import CheckpointError, available, clean, set_aside, verify
from gan.sampling import load_exported
from gan.state import TrainState, build_state


@dataclass
class Report:
    """The step of the newest checkpoint, and one line for each fault."""

    step: int = 0
    repaired: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def check_run(folder: RunFolder) -> Report:
    """Checks everything that a resumed run or a reader relies on."""
    report = Report()
    for directory in (folder.state, folder.best):
        check_files(directory, report)
    record = check_config(folder, report)
    if record:
        size, channels = record.dataset["image_size"], record.dataset["channels"]
        state = build_state(record.config, size, channels)
        check_checkpoints(folder, state, report)
        finished = report.step == record.config.train.num_steps
        check_export(folder.directory / "generator.keras", state, finished, report)
    return report


def check_files(directory: Path, report: Report) -> None:
    """Removes half-written files, and sets damaged checkpoints aside."""
    for path in clean(directory):
        report.repaired.append(f"{path}, left by a killed process, removed")
    for _, path in available(directory):
        try:
            verify(path)
        except CheckpointError as error:
            aside = set_aside(path)
            report.repaired.append(f"{path} set aside as {aside.name}: {error}")


def check_config(folder: RunFolder, report: Report) -> RunRecord | None:
    """Compares config.json with the newest checkpoint, and rewrites it if needed."""
    expected = newest_record(folder.state)
    current, problem = None, ""
    try:
        current = read_run(folder.directory)
        if expected and (changes := forbidden_changes(expected, current)):
            problem = f"it differs from the newest checkpoint ({'; '.join(changes)})"
    except RunError as error:
        problem = str(error)
    if not problem:
        return current
    path = folder.directory / CONFIG
    if expected is None:
        report.broken.append(f"{problem}; no checkpoint holds the configuration")
        return None
    if path.exists():
        set_file_aside(path)
    folder.write_config(expected)
    source = "written again from the newest checkpoint"
    report.repaired.append(f"{path} {source}: {problem}")
    return expected


def newest_record(directory: Path) -> RunRecord | None:
    """The record in the newest checkpoint that has one; early versions wrote none."""
    for _, path in available(directory):
        try:
            return parse_record(verify(path)["facts"])
        except ValueError:
            continue
    return None


def check_checkpoints(folder: RunFolder, state: TrainState, report: Report) -> None:
    """Restores every checkpoint into `state`, the newest one last."""
    # Earlier versions kept only the averaged generator of the best step.
    average = tf.train.Checkpoint(ema_generator=state.ema_generator)
    found = [(path, average) for _, path in available(folder.best)]
    steps = available(folder.state)
    found += [(path, state.checkpoint) for _, path in reversed(steps)]
    for path, reader in found:
        try:
            checkpoint.read(path, reader, whole=reader is not average)
        except CheckpointError as error:
            report.broken.append(str(error))
            continue
        if names := state.non_finite():
            report.broken.append(f"{path}: {names[0]} is not finite")
    report.step = steps[0][0] if steps else 0
    if not steps and any(folder.state.glob("corrupt-*")):
        report.broken.append(f"{folder.state}: no valid checkpoint is left")


def check_export(path: Path, state: TrainState, finished: bool, report: Report) -> None:
    """Compares the exported generator with the last checkpoint, and repairs it.

    It is written whenever a run ends, and must exist when the run is `finished`.
    """
    problem = ""
    if path.exists():
        average = state.ema_generator
        saved = average.get_weights()
        try:
            load_exported(path, average)
            if not all(map(np.array_equal, saved, average.get_weights())):
                problem = "it differs from the last checkpoint"
        except RunError as error:
            problem = str(error)
        finally:
            average.set_weights(saved)
        if problem:
            set_file_aside(path)
    elif finished:
        problem = "it is missing"
    if problem and finished and not report.broken:
        write_atomically(path, state.ema_generator.save)
        source = "written again from the last checkpoint"
        report.repaired.append(f"{path} {source}: {problem}")
    elif problem:
        report.repaired.append(f"{path} set aside: {problem}")


def set_file_aside(path: Path) -> None:
    """Renames a damaged file to `corrupt-…`."""
    path.rename(path.with_name(f"corrupt-{uuid.uuid4().hex[:8]}-{path.name}"))
