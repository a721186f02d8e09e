"""Measures how long a user waits for help, a dry run, the first step and samples.

    python -m benchmarks.startup [--rounds 5] [--out FILE.json]

The reference for the first step is a program that only imports TensorFlow, builds the
tutorial's networks and does one compiled step. The programs take turns, first with
files in the page cache ("warm") and then, if this process may drop the cache, without
("cold"). A run is stopped as soon as all events have happened.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from benchmarks.results import save, spread
from benchmarks.worker import ROOT

DROP_CACHES = Path("/proc/sys/vm/drop_caches")
POLL_SECONDS = 0.005
ANSWER_SECONDS, FIRST_STEP_RATIO = 0.4, 1.2  # targets
HELP, DRY_RUN, REFERENCE = "--help", "--dry-run", "TensorFlow and one step"
SAMPLES, STEP = "first samples", "first step"
ONE_STEP = """
import pathlib, sys
from gan.run.environment import prepare_tensorflow
prepare_tensorflow()
import numpy as np
from benchmarks.rivals import tutorial_loop
tutorial_loop(np.zeros((32, 28, 28, 1), np.uint8), 32)(1)
pathlib.Path(sys.argv[1], "done").touch()
"""
Event = Callable[[Path], bool]  # whether it has happened in a folder


def logged_losses(folder: Path) -> bool:
    """Whether a step is finished and logged."""
    log = folder / "run" / "log.jsonl"
    return log.exists() and '"loss/d"' in log.read_text(encoding="utf-8")


def programs(folder: Path) -> dict[str, tuple[list[str], dict[str, Event]]]:
    """Returns command lines and events by name; no events: the end of the command."""
    train = [sys.executable, "train.py"]
    log_at_once = ["--set", "run.log_every_steps=1"]
    run = [*train, "--runs-dir", str(folder), "--run", "run", *log_at_once]
    samples = Path("run", "samples", "step-00000000.png")
    return {
        HELP: ([*train, "--help"], {}),
        DRY_RUN: ([*train, "--dry-run"], {}),
        REFERENCE: (
            [sys.executable, "-c", ONE_STEP, str(folder)],
            {REFERENCE: lambda folder: (folder / "done").exists()},
        ),
        "train.py": (
            run,
            {STEP: logged_losses, SAMPLES: lambda folder: (folder / samples).exists()},
        ),
    }


def wait_for_end(command: list[str]) -> float:
    """Returns the seconds from the start of a command to its end."""
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def wait_for(
    command: list[str], folder: Path, events: dict[str, Event]
) -> dict[str, float]:
    """Returns the seconds from the start of a command to each event; then kills it.

    Raises:
        click.ClickException: if it ends before.
    """
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while len(seconds) < len(events):
        ended = process.poll() is not None
        for name in events.keys() - seconds.keys():
            if events[name](folder):
                seconds[name] = time.perf_counter() - start
        if ended and len(seconds) < len(events):
            raise click.ClickException(f"ended too early: {' '.join(command)}")
        time.sleep(POLL_SECONDS)
    process.kill()
    process.wait()
    return seconds


def drop_page_cache() -> bool:
    """Makes the next program read its files from the disk, if that is allowed."""
    os.sync()
    try:
        DROP_CACHES.write_text("3")
    except OSError:
        return False
    return True


def one_round(cold: bool) -> dict[str, float]:
    """Returns the seconds of each event."""
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for program, (command, events) in programs(folder).items():
            if cold:
                drop_page_cache()
            if events:
                seconds |= wait_for(command, folder, events)
            else:
                seconds[program] = wait_for_end(command)
    return seconds


def show(rounds: list[dict[str, float]]) -> None:
    """Prints medians, ranges and targets."""
    for name in rounds[0]:
        times = np.array([seconds[name] for seconds in rounds])
        line = f"{name:>24}: {spread(times)} s"
        if name in (HELP, DRY_RUN):
            line += f" (target: {ANSWER_SECONDS} s)"
        if name in (STEP, SAMPLES):
            ratios = times / np.array([seconds[REFERENCE] for seconds in rounds])
            line += f", {spread(ratios)} times the reference"
        if name == STEP:
            line += f" (target: {FIRST_STEP_RATIO})"
        click.echo(line)


@click.command()
@click.option("--rounds", "num_rounds", default=5, show_default=True)
@click.option("--cold/--warm-only", default=True, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path))
def main(num_rounds: int, cold: bool, out: Path | None) -> None:
    """Compares waiting times."""
    if cold and not drop_page_cache():
        click.echo(f"cold starts not measured: cannot write {DROP_CACHES}")
        cold = False
    results: dict[str, list[dict[str, float]]] = {}
    one_round(cold=False)  # fills the page cache and writes Python's own caches
    for kind in ("warm", "cold") if cold else ("warm",):
        results[kind] = [one_round(kind == "cold") for _ in range(num_rounds)]
        click.echo(f"{kind}, {num_rounds} rounds")
        show(results[kind])
    save(out, {"seconds": results})


if __name__ == "__main__":
    main()
