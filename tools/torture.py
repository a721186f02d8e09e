"""Kills, damages and starves tiny runs at random, and counts what they lost.

    python tools/torture.py --kills 50

Every run is a real training in a process of its own; the bits that it must reach are
those of one run that nothing happened to. The seed decides which faults come in which
order and where bits are flipped; the moment of a kill is the machine's.
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
REFUSED = 7  # exit code of a child that ended with one line for the user
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
# What a killed process can be in the middle of, and where that can be seen.
MOMENTS = {
    "step": "log.jsonl",
    "save": "state/.tmp-*",
    "export": ".tmp-*-generator.keras",
}
KINDS = {
    "index": "state/step-*/ckpt.index",
    "data": "state/step-*/ckpt.data-*",
    "manifest": "state/step-*/manifest.json",
    "config.json": "config.json",
    "generator.keras": "generator.keras",
    "log.jsonl": "log.jsonl",
    "sample grid": "samples/*.png",
}


@dataclass
class Tally:
    """What became of one kind of fault.

    Attributes:
        tried: how often it was done.
        survived: how often the run was there afterwards, within the bound.
        lost: steps done again, the most of all.
        wrong: where other bits than those of the straight run came out.
        unseen: damages that changed nothing that anyone reads.
    """

    tried: int = 0
    survived: int = 0
    lost: int = 0
    unseen: int = 0
    wrong: list[str] = field(default_factory=list)


class Judge:
    """Knows the bits of the run that nothing happened to."""

    def __init__(self, straight: Path) -> None:
        """Reads them from a finished run that kept every checkpoint."""
        import tensorflow as tf

        from gan.run import checkpoint
        from gan.sampling import open_run, sample
        from gan.state import build_state

        tf.get_logger().setLevel("ERROR")  # each run opened compiles its own renderer
        self.state = build_state(settings(), 28, 1)
        self.digests = {0: self.state.digest()}
        for step, path in checkpoint.available(straight / "state"):
            checkpoint.read(path, self.state.checkpoint)
            self.digests[step] = self.state.digest()
        self.draw = lambda run: sample(open_run(run).generator, range(4))
        self.facts, self.images = read_run(straight), self.draw(straight)

    def restore(self, directory: Path, reached: int, tally: Tally, what: str) -> int:
        """Restores as the next start would, and compares; returns the step."""
        from gan.run import checkpoint

        found = checkpoint.restore_newest(directory / "state", self.state.checkpoint)
        step = found.step if found else 0
        lost = reached - step
        tally.lost = max(tally.lost, lost)
        right = not found or self.state.digest() == self.digests[step]
        if not right or lost > SAVE_EVERY:
            tally.wrong.append(f"{what}: step {step} after {reached}, right: {right}")
        else:
            tally.survived += 1
        return step


def settings(keep: int = 3) -> Config:
    """Of the run that is tortured."""
    return load_config(flags={**SETTINGS, "run.keep_checkpoints": keep})


def train_run(directory: Path, keep: int = 3) -> None:
    """The life of a child: trains, or continues, until it is done or dies."""
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
    """Makes children from a process that has imported TensorFlow, not used it."""
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
    """Kills a process a moment after `ready`; False: it had ended before."""
    while not ready():
        if not process.is_alive():
            return False
        time.sleep(0.0005)
    time.sleep(wait_seconds)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    return process.exitcode == -signal.SIGKILL


def last_logged(directory: Path) -> int:
    """The newest step in log.jsonl, 0 without any."""
    path = directory / "log.jsonl"
    text = path.read_text() if path.exists() else ""
    steps = [
        line.partition('"step": ')[2].partition(",")[0] for line in text.split("\n")
    ]
    return max((int(step) for step in steps if step.isdigit()), default=0)


def kill_runs(work: Path, num: int, draws: Any, judge: Judge) -> dict[str, Tally]:
    """Kills one run after the other, each as often as it takes to get through."""
    tallies = {moment: Tally() for moment in MOMENTS}
    directory, runs = work / "killed-0", 0
    while sum(tally.tried for tally in tallies.values()) < num:
        moment = str(draws.choice(list(MOMENTS)))
        tally, pattern = tallies[moment], MOMENTS[moment]
        begun = last_logged(directory)
        ahead = begun + int(draws.integers(1, 2 * SAVE_EVERY))

        def ready(pattern=pattern, directory=directory, ahead=ahead) -> bool:
            if pattern == "log.jsonl":
                return last_logged(directory) >= ahead
            return any(directory.glob(pattern))

        process = start(train_run, directory)
        if kill_when(process, ready, float(draws.uniform(0, 0.03))):
            tally.tried += 1
            judge.restore(directory, last_logged(directory), tally, f"kill in {moment}")
        if moment == "export" or process.exitcode == 0:
            if finish(directory) != 0 or not is_whole(directory, judge):
                tally.wrong.append(f"{directory} does not end as the straight run")
            runs += 1
            directory = work / f"killed-{runs}"
    return tallies


def is_whole(directory: Path, judge: Judge) -> bool:
    """Whether a finished run has the straight one's bits, and so has its export."""
    final = judge.restore(directory, NUM_STEPS, Tally(), "") == NUM_STEPS
    same = final and judge.state.digest() == judge.digests[NUM_STEPS]
    leftovers = [*directory.rglob(".tmp-*"), *directory.rglob(".del-*")]
    shutil.rmtree(directory / "state")
    return (
        same and not leftovers and np.array_equal(judge.draw(directory), judge.images)
    )


def damage_files(run: Path, num: int, draws: Any, judge: Judge) -> dict[str, Tally]:
    """Flips one bit of a file at a time, each kind in turn, in copies of a run."""
    tallies = {kind: Tally() for kind in KINDS}
    for number in range(num):
        kind = list(KINDS)[number % len(KINDS)]
        copy = run.with_name("damaged")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run, copy)
        path = sorted(copy.glob(KINDS[kind]))[-1]
        place = flip(path, draws)
        tallies[kind].tried += 1
        look(copy, kind, f"bit {place} of {path.name}", judge, tallies[kind])
    return tallies


def flip(path: Path, draws: Any) -> int:
    """Flips one random bit of a file; returns its place."""
    content = bytearray(path.read_bytes())
    place = int(draws.integers(8 * len(content)))
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)
    return place


def look(run: Path, kind: str, what: str, judge: Judge, tally: Tally) -> None:
    """Uses a damaged run in the ways in which the file is read."""
    from gan.data.files import read_grids
    from gan.run.log import RunLog

    if kind == "generator.keras":
        shutil.rmtree(run / "state")  # only then is it read
    try:
        if kind in ("index", "data", "manifest"):
            step = judge.restore(run, NUM_STEPS, tally, what)
            tally.unseen += step == NUM_STEPS
            return
        if kind == "log.jsonl":
            with RunLog(run, NUM_STEPS, Console(quiet=True)) as log:
                log.begin(NUM_STEPS, {}, "")
        elif kind == "sample grid":
            read_grids(sorted((run / "samples").glob("*.png")))
        elif not np.array_equal(judge.draw(run), judge.images):
            tally.wrong.append(f"{what}: other pictures")
            return
        elif forbidden_changes(judge.facts, read_run(run)):
            raise RunError("as the next start of the training says")
        tally.unseen += 1
    except (RunError, DataError):
        pass  # one line, and nothing used
    tally.survived += 1


@contextmanager
def small_disk(directory: Path, kib: int) -> Iterator[Callable[[int], None]]:
    """A real file system of `kib` KiB; gives the function that changes its size.

    Raises:
        OSError: where mounting is not allowed.
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


def fill_disks(work: Path, num: int, judge: Judge) -> Tally:
    """Trains on disks that are full after 4 KiB, or somewhat later, then on larger."""
    tally = Tally()
    for kib in np.linspace(4, 900, num).astype(int) // 4 * 4:
        with small_disk(work / "disk", int(kib)) as resize:
            run, what = work / "disk" / "run", f"disk of {kib} KiB"
            tally.tried += 1
            code = finish(run)
            if code not in (0, REFUSED):
                tally.wrong.append(f"{what}: exit code {code}")
            if run.exists():
                judge.restore(run, 0, Tally(), what)
            resize(1 << 16)
            if finish(run) != 0 or not is_whole(run, judge):
                tally.wrong.append(f"{what}: does not end as the straight run")
            else:
                tally.survived += 1
    return tally


@click.command()
@click.option("--kills", default=50, show_default=True, help="processes killed")
@click.option("--damages", default=210, show_default=True, help="bits flipped")
@click.option("--disks", default=12, show_default=True, help="sizes of a full disk")
@click.option("--seed", default=0, show_default=True)
def main(kills: int, damages: int, disks: int, seed: int) -> None:
    """Tortures tiny runs; exit code 1 if anything was lost."""
    draws = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        straight, work = Path(name) / "straight", Path(name)
        if finish(straight, NUM_STEPS) != 0:
            raise click.ClickException("the straight run does not end")
        prepare_tensorflow()
        judge = Judge(straight)
        killed = kill_runs(work, kills, draws, judge)
        damaged = damage_files(straight, damages, draws, judge)
        tallies = {f"SIGKILL in {name}": tally for name, tally in killed.items()}
        tallies |= {f"bit of {name}": tally for name, tally in damaged.items()}
        try:
            tallies["disk full"] = fill_disks(work, disks, judge)
        except OSError as error:
            click.echo(f"no disk was filled: {error}")
    show(tallies, seed)
    sys.exit(any(t.wrong or t.survived < t.tried for t in tallies.values()))


def show(tallies: dict[str, Tally], seed: int) -> None:
    """Prints the table, and each failure in a line."""
    columns = ("fault", "tried", "survived", "unseen", "steps lost", "bits equal")
    table = Table(*columns, box=None)
    for name, tally in tallies.items():
        row = (tally.tried, tally.survived, tally.unseen, tally.lost)
        table.add_row(name, *map(str, row), "no" if tally.wrong else "yes")
    Console().print(table)
    click.echo(f"seed {seed}; bound: {SAVE_EVERY} steps, one checkpoint interval")
    for line in (line for tally in tallies.values() for line in tally.wrong):
        click.echo(line)


if __name__ == "__main__":
    main()
