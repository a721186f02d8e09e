"""Verifies a run folder and mends what can be mended, for `python -m gan check`.

Nothing is thrown away but what a killed process left half written: whatever is damaged
gets another name. What a checkpoint says of its run counts more than config.json,
because its manifest is sealed.
"""

import uuid
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tensorflow as tf

from gan.files import write_atomically
from gan.run import checkpoint
from gan.run.checkpoint import CheckpointError
from gan.run.folder import (
    CONFIG,
    RunError,
    RunFacts,
    RunFolder,
    forbidden_changes,
    parse_facts,
    read_run,
)
from gan.sampling import load_exported
from gan.state import TrainState, build_state


@dataclass
class Report:
    """What was found.

    Attributes:
        step: of the newest checkpoint; 0 without one.
        mended: one line for each fault that is none any more.
        broken: one line for each that is left.
    """

    step: int = 0
    mended: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def check_run(folder: RunFolder) -> Report:
    """Checks everything that a resumed run or a reader relies on.

    Args:
        folder: entered (locked) by the caller.
    """
    report = Report()
    for directory in (folder.state, folder.best):
        check_files(directory, report)
    facts = check_config(folder, report)
    if facts:
        size, channels = facts.dataset["image_size"], facts.dataset["channels"]
        state = build_state(facts.config, size, channels)
        check_values(folder, state, report)
        finished = report.step == facts.config.train.num_steps
        check_export(folder.directory / "generator.keras", state, finished, report)
    return report


def check_files(directory: Path, report: Report) -> None:
    """Removes leftovers, and sets damaged checkpoints aside."""
    for path in checkpoint.clean(directory):
        report.mended.append(f"{path}, left by a killed process, removed")
    for _, path in checkpoint.available(directory):
        try:
            checkpoint.verify(path)
        except CheckpointError as error:
            aside = checkpoint.set_aside(path)
            report.mended.append(f"{path} set aside as {aside.name}: {error}")


def check_config(folder: RunFolder, report: Report) -> RunFacts | None:
    """Holds config.json to the newest checkpoint, and writes it again if it differs."""
    sealed = newest_facts(folder.state)
    current, problem = None, ""
    try:
        current = read_run(folder.directory)
        if sealed and (changes := forbidden_changes(sealed, current)):
            problem = f"it differs from the newest checkpoint ({'; '.join(changes)})"
    except RunError as error:
        problem = str(error)
    if not problem:
        return current
    path = folder.directory / CONFIG
    if sealed is None:
        report.broken.append(f"{problem}; no checkpoint knows the configuration")
        return None
    if path.exists():
        set_file_aside(path)
    folder.write_config(sealed)
    report.mended.append(f"{path} written again from the newest checkpoint: {problem}")
    return sealed


def newest_facts(directory: Path) -> RunFacts | None:
    """The configuration that the newest checkpoint keeps; the oldest keep none."""
    for _, path in checkpoint.available(directory):
        try:
            return parse_facts(checkpoint.verify(path)["facts"])
        except ValueError:
            continue
    return None


def check_values(folder: RunFolder, state: TrainState, report: Report) -> None:
    """Restores every checkpoint; `state` is that of the newest one in the end."""
    average = tf.train.Checkpoint(ema_generator=state.ema_generator)
    found = [(path, average) for _, path in checkpoint.available(folder.best)]
    steps = checkpoint.available(folder.state)
    found += [(path, state.checkpoint) for _, path in reversed(steps)]
    for path, reader in found:
        try:
            checkpoint.read(path, reader)
        except CheckpointError as error:
            report.broken.append(str(error))
            continue
        if lost := state.non_finite():
            report.broken.append(f"{path}: {lost[0]} is not finite")
    report.step = steps[0][0] if steps else 0
    if not steps and any(folder.state.glob("corrupt-*")):
        report.broken.append(f"{folder.state}: no valid checkpoint is left")


def check_export(path: Path, state: TrainState, finished: bool, report: Report) -> None:
    """Holds the exported generator to the last checkpoint, and writes it again.

    Args:
        path: of generator.keras.
        state: of the newest checkpoint.
        finished: whether that is the end of the budget, at which it is exported.
        report: gets what was found.
    """
    problem = ""
    if path.exists():
        average = state.ema_generator
        saved = average.get_weights()
        try:
            load_exported(path, average)
            if finished and not all(map(np.array_equal, saved, average.get_weights())):
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
        report.mended.append(
            f"{path} written again from the last checkpoint: {problem}"
        )
    elif problem:
        report.mended.append(f"{path} set aside: {problem}")


def set_file_aside(path: Path) -> None:
    """Renames a damaged file, for whoever wants to know."""
    path.rename(path.with_name(f"corrupt-{uuid.uuid4().hex[:8]}-{path.name}"))
