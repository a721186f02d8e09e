"""Measures which share of a run's time is not spent in training steps.

    python -m benchmarks.overhead [--steps 2000] [--out FILE.json]

Runs `train.py` with its default flags in a temporary folder and follows its log.jsonl.
The wall time is that between the first line of losses, when everything is compiled, and
the last one, `--steps` steps later.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.results import save
from benchmarks.worker import ROOT
from config.schema import Config

POLL_SECONDS = 0.01
TARGET = 0.04  # largest share of the wall time for everything but steps
Line = tuple[float, dict[str, Any]]  # seconds at which it appeared, and its content


def follow(command: list[str], log: Path) -> tuple[list[Line], float]:
    """Runs a command and notes when lines of losses appear.

    Returns:
        The lines, and the wall seconds of the command.

    Raises:
        click.ClickException: if the command fails.
    """
    lines: list[Line] = []
    num_read, start = 0, time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
        )
        while True:
            ended = process.poll() is not None
            text = log.read_text(encoding="utf-8") if log.exists() else ""
            whole = text[: text.rfind("\n") + 1].splitlines()
            now = time.perf_counter() - start
            for values in map(json.loads, whole[num_read:]):
                if "loss/d" in values:
                    lines.append((now, values))
            num_read = len(whole)
            if ended:
                break
            time.sleep(POLL_SECONDS)
        if process.returncode:
            output.seek(0)
            raise click.ClickException(output.read())
    return lines, now


def between(first: Line, last: Line) -> dict[str, float]:
    """Returns the seconds between two lines, by kind of work and unaccounted."""
    seconds = {}
    for name, total in last[1].items():
        if name.startswith("time/"):
            kind = name.removeprefix("time/").removesuffix("_seconds")
            seconds[kind] = total - first[1].get(name, 0.0)
    seconds["unaccounted"] = last[0] - first[0] - sum(seconds.values())
    return seconds


@click.command()
@click.option("--steps", "num_steps", default=2000, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path))
def main(num_steps: int, out: Path | None) -> None:
    """Shows how a default run spends its time."""
    config = Config()
    total = num_steps + config.run.log_every_steps
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", "--steps", str(total)]
        command += ["--runs-dir", folder, "--run", "timed"]
        lines, wall = follow(command, Path(folder) / "timed" / "log.jsonl")
    seconds = between(lines[0], lines[-1])
    window = sum(seconds.values())
    click.echo(f"{num_steps} steps took {window:.1f} s")
    for kind, taken in sorted(seconds.items(), key=lambda item: -item[1]):
        click.echo(f"{kind:>16}: {taken:>8.2f} s, {taken / window:>6.2%}")
    share = 1 - seconds["step"] / window
    met = "met" if share <= TARGET else "missed"
    click.echo(f"all but steps: {share:.2%} (target: at most {TARGET:.0%}, {met})")
    ends = wall - window
    click.echo(f"start, first steps and end of the process: {ends:.1f} s more")
    result = {
        "num_steps": num_steps,
        "seconds": seconds,
        "process_seconds": wall,
        "share_besides_steps": share,
    }
    save(out, result)


if __name__ == "__main__":
    main()
