"""How long a user waits for help, for the plan, for the first step and picture.

    python -m benchmarks.startup [--rounds 5] [--out FILE.json]

The reference for the first step is a program that imports TensorFlow, builds the
tutorial's networks and does one compiled step, and nothing else. Programs take turns,
with files in the page cache ("warm") and, where this process may drop it, without
("cold"). A run is stopped as soon as everything that is waited for has been seen.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

ROOT = Path(__file__).parents[1]
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
POLL_SECONDS = 0.005
ANSWER_SECONDS, FIRST_STEP_RATIO = 0.4, 1.2  # targets
HELP, PLAN, REFERENCE = "--help", "--dry-run", "TensorFlow and one step"
PICTURE, STEP = "first picture", "first step"
ONE_STEP = """
import pathlib, sys
from gan.run.environment import prepare_tensorflow
prepare_tensorflow()
import numpy as np
from benchmarks.rivals import tutorial_loop
tutorial_loop(np.zeros((32, 28, 28, 1), np.uint8), 32)(1)
pathlib.Path(sys.argv[1], "done").touch()
"""
Seen = Callable[[Path], bool]


def logged_losses(folder: Path) -> bool:
    """Whether a step has been finished and logged."""
    log = folder / "run" / "log.jsonl"
    return log.exists() and '"loss/d"' in log.read_text(encoding="utf-8")


def programs(folder: Path) -> dict[str, tuple[list[str], dict[str, Seen]]]:
    """Command lines, and what is waited for by name; nothing: for the end."""
    train = [sys.executable, "train.py"]
    log_at_once = ["--set", "run.log_every_steps=1"]
    run = [*train, "--runs-dir", str(folder), "--run", "run", *log_at_once]
    picture = Path("run", "samples", "step-00000000.png")
    return {
        HELP: ([*train, "--help"], {}),
        PLAN: ([*train, "--dry-run"], {}),
        REFERENCE: (
            [sys.executable, "-c", ONE_STEP, str(folder)],
            {REFERENCE: lambda folder: (folder / "done").exists()},
        ),
        "train.py": (
            run,
            {STEP: logged_losses, PICTURE: lambda folder: (folder / picture).exists()},
        ),
    }


def wait_for_end(command: list[str]) -> float:
    """Seconds from a command to its end."""
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def wait_for(
    command: list[str], folder: Path, events: dict[str, Seen]
) -> dict[str, float]:
    """Seconds from a command to each event; then it is killed.

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
    """Makes the next program read its files from the disk; False: not allowed."""
    os.sync()
    try:
        DROP_CACHES.write_text("3")
    except OSError:
        return False
    return True


def one_round(cold: bool) -> dict[str, float]:
    """Seconds by what was waited for."""
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
    """Prints medians, ranges and what was asked for."""
    for name in rounds[0]:
        times = np.array([seconds[name] for seconds in rounds])
        line = f"{name:>24}: {spread(times)} s"
        if name in (HELP, PLAN):
            line += f" (target: {ANSWER_SECONDS} s)"
        if name in (STEP, PICTURE):
            ratios = times / np.array([seconds[REFERENCE] for seconds in rounds])
            line += f", {spread(ratios)} times the reference"
        if name == STEP:
            line += f" (target: {FIRST_STEP_RATIO})"
        click.echo(line)


def spread(values: np.ndarray) -> str:
    """Median and, in brackets, the range."""
    return f"{np.median(values):.2f} ({values.min():.2f} to {values.max():.2f})"


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
    one_round(cold=False)  # files into the page cache, Python's own caches written
    for kind in ("warm", "cold") if cold else ("warm",):
        results[kind] = [one_round(kind == "cold") for _ in range(num_rounds)]
        click.echo(f"{kind}, {num_rounds} rounds")
        show(results[kind])
    if out:
        result = {
            "cpus": os.cpu_count(),
            "load_average": os.getloadavg()[0],
            "seconds": results,
        }
        out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
