"""Injects faults into tiny runs at random, and counts what the runs lost.

    python -m tools.inject_faults --kills 50

Processes are killed, bits of files are flipped, and disks run full. Every run is a real
training in a process of its own, and must reach the same bits as a reference run
without faults. The seed decides which faults come in which order and which bits are
flipped; the exact moment of a kill depends on the machine.
"""

import functools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from config.loader import load_config
from config.schema import Config
from gan.data.dataset import DataError, load_dataset
from gan.run.environment import prepare_tensorflow
from gan.run.folder import RunError, RunFolder, forbidden_changes, read_run

NUM_STEPS, SAVE_EVERY = 40, 5
REFUSED = 7  # exit code of a training that ended with an error of one line
SETTINGS = {
    "data.limit": 64,
    "model.generator_widths": [8, 8, 4],
    "model.discriminator_widths": [4, 8],
    "model.latent_dim": 8,
    "train.batch_size": 8,
    "train.num_steps": NUM_STEPS,
    "run.log_every_steps": 1,
    "run.evaluate_every_steps": 10,
    "run.checkpoint_every_steps": SAVE_EVERY,
    "run.grid_images": 4,
}
# What a process is doing when it is killed, and the file that shows it.
MOMENTS = {
    "step": "log.jsonl",
    "save": "state/.tmp-*",
    "export": ".tmp-*-generator.keras",
}
# The files in which a bit is flipped.
DAMAGED_FILES = {
    "index": "state/step-*/ckpt.index",
    "data": "state/step-*/ckpt.data-*",
    "manifest": "state/step-*/manifest.json",
    "config.json": "config.json",
    "generator.keras": "generator.keras",
    "log.jsonl": "log.jsonl",
    "sample grid": "samples/*.png",
}


@dataclass
class Outcome:
    """What happened after one kind of fault.

    Attributes:
        tried: number of faults.
        survived: number of faults after which the run went on or was refused, and lost
            at most one checkpoint interval.
        lost_steps: largest number of steps that were lost.
        no_effect: number of flipped bits that changed nothing that is read.
        wrong: one line for each fault after which the run had other bits than the
            reference run.
    """

    tried: int = 0
    survived: int = 0
    lost_steps: int = 0
    no_effect: int = 0
    wrong: list[str] = field(default_factory=list)


class Reference:
    """The bits of a run without faults, with which other runs are compared."""

    def __init__(self, directory: Path) -> None:
        """Reads a finished run that kept every checkpoint."""
        import tensorflow as tf

        from gan.run import checkpoint
        from gan.sampling import open_run, sample
        from gan.state import build_state

        tf.get_logger().setLevel("ERROR")  # a warning for each run that is loaded
        self.state = build_state(settings(), 28, 1)
        self.digests = {0: self.state.digest()}
        for step, path in checkpoint.available(directory / "state"):
            checkpoint.read(path, self.state.checkpoint)
            self.digests[step] = self.state.digest()
        self.make_images = lambda run: sample(open_run(run).generator, range(4))
        self.facts, self.images = read_run(directory), self.make_images(directory)

    def restore(
        self, directory: Path, reached: int, outcome: Outcome, fault: str
    ) -> int:
        """Restores a run as its next start would, and compares the state.

        Args:
            directory: the run folder.
            reached: the last step that the run had finished.
            outcome: counts the result.
            fault: what happened to the run, in words.

        Returns:
            The step that was restored, 0 without a checkpoint.
        """
        from gan.run import checkpoint

        found = checkpoint.restore_newest(directory / "state", self.state.checkpoint)
        step = found.step if found else 0
        lost = reached - step
        outcome.lost_steps = max(outcome.lost_steps, lost)
        right = not found or self.state.digest() == self.digests[step]
        if not right or lost > SAVE_EVERY:
            outcome.wrong.append(
                f"{fault}: step {step} after {reached}, right: {right}"
            )
        else:
            outcome.survived += 1
        return step


def settings(keep: int = 3) -> Config:
    """Returns the settings of the tiny runs."""
    return load_config(flags={**SETTINGS, "run.keep_checkpoints": keep})


def train_run(directory: Path, keep: int = 3) -> None:
    """Trains or continues a run; this is what a child process does."""
    prepare_tensorflow()
    from gan.run.checkpoint import CheckpointError
    from gan.training import train

    config = settings(keep)
    try:
        with RunFolder(directory) as folder:
            train(config, load_dataset(config.data), folder)
    except (RunError, CheckpointError, OSError):
        sys.exit(REFUSED)


@functools.cache
def context() -> Any:
    """Returns the context for child processes.

    They are forked from a server that has imported TensorFlow and never used it, which
    saves each of them the import.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["gan.training", "gan.data.dataset"])
    return made


def start(target: Callable[..., None], *args: Any) -> BaseProcess:
    """Starts a function in a process of its own."""
    process = context().Process(target=target, args=args)
    process.start()
    return process


def finish(directory: Path, keep: int = 3) -> int | None:
    """Trains to the end; returns the exit code."""
    process = start(train_run, directory, keep)
    process.join()
    return process.exitcode


def kill_when(
    process: BaseProcess, ready: Callable[[], bool], wait_seconds: float
) -> bool:
    """Kills a process some time after `ready`; returns False if it ended before."""
    while not ready():
        if not process.is_alive():
            return False
        time.sleep(0.0005)
    time.sleep(wait_seconds)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    return process.exitcode == -signal.SIGKILL


def last_logged(directory: Path) -> int:
    """Returns the newest step in log.jsonl, 0 if there is none."""
    path = directory / "log.jsonl"
    text = path.read_text() if path.exists() else ""
    steps = [
        line.partition('"step": ')[2].partition(",")[0] for line in text.split("\n")
    ]
    return max((int(step) for step in steps if step.isdigit()), default=0)


def kill_runs(
    work: Path, num: int, random: np.random.Generator, reference: Reference
) -> dict[str, Outcome]:
    """Kills one run after the other; each is continued until it is finished."""
    outcomes = {moment: Outcome() for moment in MOMENTS}
    directory, runs = work / "killed-0", 0
    while sum(outcome.tried for outcome in outcomes.values()) < num:
        moment = str(random.choice(list(MOMENTS)))
        outcome, pattern = outcomes[moment], MOMENTS[moment]
        ahead = last_logged(directory) + int(random.integers(1, 2 * SAVE_EVERY))

        def ready(pattern=pattern, directory=directory, ahead=ahead) -> bool:
            if pattern == "log.jsonl":
                return last_logged(directory) >= ahead
            return any(directory.glob(pattern))

        process = start(train_run, directory)
        if kill_when(process, ready, float(random.uniform(0, 0.03))):
            outcome.tried += 1
            reference.restore(
                directory, last_logged(directory), outcome, f"kill in {moment}"
            )
        if moment == "export" or process.exitcode == 0:
            if finish(directory) != 0 or not ends_like(directory, reference):
                outcome.wrong.append(f"{directory} does not end like the reference run")
            runs += 1
            directory = work / f"killed-{runs}"
    return outcomes


def ends_like(directory: Path, reference: Reference) -> bool:
    """Whether state and export of a finished run have the bits of the reference run."""
    final = reference.restore(directory, NUM_STEPS, Outcome(), "") == NUM_STEPS
    same = final and reference.state.digest() == reference.digests[NUM_STEPS]
    leftovers = [*directory.rglob(".tmp-*"), *directory.rglob(".del-*")]
    shutil.rmtree(directory / "state")
    if not same or leftovers:
        return False
    return np.array_equal(reference.make_images(directory), reference.images)


def damage_files(
    run: Path, num: int, random: np.random.Generator, reference: Reference
) -> dict[str, Outcome]:
    """Flips one bit of one file in each of `num` copies of a run, each file in turn."""
    outcomes = {kind: Outcome() for kind in DAMAGED_FILES}
    for number in range(num):
        kind = list(DAMAGED_FILES)[number % len(DAMAGED_FILES)]
        copy = run.with_name("damaged")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run, copy)
        path = sorted(copy.glob(DAMAGED_FILES[kind]))[-1]
        bit = flip_bit(path, random)
        outcomes[kind].tried += 1
        use(copy, kind, f"bit {bit} of {path.name}", reference, outcomes[kind])
    return outcomes


def flip_bit(path: Path, random: np.random.Generator) -> int:
    """Flips one random bit of a file; returns its index."""
    content = bytearray(path.read_bytes())
    bit = int(random.integers(8 * len(content)))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return bit


def use(
    run: Path, kind: str, fault: str, reference: Reference, outcome: Outcome
) -> None:
    """Reads the damaged file of a run in the way in which it is usually read."""
    from gan.data.files import read_grids
    from gan.run.log import RunLog

    if kind == "generator.keras":
        # The export is read only if there is no checkpoint.
        shutil.rmtree(run / "state")
    try:
        if kind in ("index", "data", "manifest"):
            step = reference.restore(run, NUM_STEPS, outcome, fault)
            outcome.no_effect += step == NUM_STEPS
            return
        if kind == "log.jsonl":
            with RunLog(run, NUM_STEPS, Console(quiet=True)) as log:
                log.begin(NUM_STEPS, {}, "")
        elif kind == "sample grid":
            read_grids(sorted((run / "samples").glob("*.png")))
        elif not np.array_equal(reference.make_images(run), reference.images):
            outcome.wrong.append(f"{fault}: other images")
            return
        elif forbidden_changes(reference.facts, read_run(run)):
            raise RunError("the next start would refuse it")
        outcome.no_effect += 1
    except (RunError, DataError):
        pass  # the damage was reported in one line
    outcome.survived += 1


@contextmanager
def small_disk(directory: Path, kib: int) -> Iterator[Callable[[int], None]]:
    """Mounts a file system of `kib` KiB; yields a function that changes its size.

    Raises:
        OSError: if mounting is not allowed.
    """
    directory.mkdir(parents=True, exist_ok=True)

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"mount: {done.stderr.strip()}")

    mount(f"size={kib}k")
    try:
        yield lambda larger: mount(f"remount,size={larger}k")
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def fill_disks(work: Path, num: int, reference: Reference) -> Outcome:
    """Trains on disks of 4 to 900 KiB until they are full, then with more space."""
    outcome = Outcome()
    for kib in np.linspace(4, 900, num).astype(int) // 4 * 4:
        with small_disk(work / "disk", int(kib)) as resize:
            run, fault = work / "disk" / "run", f"disk of {kib} KiB"
            outcome.tried += 1
            code = finish(run)
            if code not in (0, REFUSED):
                outcome.wrong.append(f"{fault}: exit code {code}")
            if run.exists():
                reference.restore(run, 0, Outcome(), fault)
            resize(1 << 16)
            if finish(run) != 0 or not ends_like(run, reference):
                outcome.wrong.append(f"{fault}: does not end like the reference run")
            else:
                outcome.survived += 1
    return outcome


@click.command()
@click.option(
    "--kills", default=50, show_default=True, help="number of processes to kill"
)
@click.option(
    "--damages", default=210, show_default=True, help="number of bits to flip"
)
@click.option(
    "--disks", default=12, show_default=True, help="sizes of disks that run full"
)
@click.option("--seed", default=0, show_default=True)
def main(kills: int, damages: int, disks: int, seed: int) -> None:
    """Injects faults into tiny runs; exit code 1 if anything was lost."""
    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        directory, work = Path(name) / "reference", Path(name)
        if finish(directory, NUM_STEPS) != 0:
            raise click.ClickException("the reference run failed")
        prepare_tensorflow()
        reference = Reference(directory)
        killed = kill_runs(work, kills, random, reference)
        damaged = damage_files(directory, damages, random, reference)
        outcomes = {f"SIGKILL in {name}": outcome for name, outcome in killed.items()}
        outcomes |= {f"bit of {name}": outcome for name, outcome in damaged.items()}
        try:
            outcomes["disk full"] = fill_disks(work, disks, reference)
        except OSError as error:
            click.echo(f"no disk was filled: {error}")
    show(outcomes, seed)
    sys.exit(any(t.wrong or t.survived < t.tried for t in outcomes.values()))


def show(outcomes: dict[str, Outcome], seed: int) -> None:
    """Prints the table, then one line for each failure."""
    columns = ("fault", "tried", "survived", "no effect", "steps lost", "bits equal")
    table = Table(*columns, box=None)
    for name, outcome in outcomes.items():
        row = (outcome.tried, outcome.survived, outcome.no_effect, outcome.lost_steps)
        table.add_row(name, *map(str, row), "no" if outcome.wrong else "yes")
    Console().print(table)
    click.echo(f"seed {seed}; bound: {SAVE_EVERY} steps, one checkpoint interval")
    for line in (line for outcome in outcomes.values() for line in outcome.wrong):
        click.echo(line)


if __name__ == "__main__":
    main()
