"""What lies in run folders: the rows of `python -m gan list`, and their removal.

This file reads text alone and does not need TensorFlow.
"""

import fcntl
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan.run.folder import CONFIG, RunError, RunFolder, read_run
from gan.run.manifest import CheckpointError, available, verify

# The entries of a run folder; the marks in front are those of unfinished or damaged
# files.
OWN_ENTRY = re.compile(
    r"(\.tmp-\w+-|corrupt-\w+-)?(config\.json|generator\.keras|log\.jsonl)|\.lock|"
    r"state|best|samples|events\.out\.tfevents\..*"
)


@dataclass(frozen=True)
class RunSummary:
    """One run as `python -m gan list` shows it."""

    name: str  # the path of its folder below the listed one
    state: str  # "running", "finished", "stopped" or "damaged"
    step: int  # of the newest checkpoint, or of the newest log line while it runs
    num_steps: int  # the budget; 0: not known
    score: str  # the logged quality that chose the best checkpoint, or ""
    value: float | None
    alarms: tuple[str, ...]  # those that were raised at any time
    num_bytes: int  # on disk
    parent: str  # the run from which it started, or ""
    problem: str  # why it is damaged, or ""


def list_runs(directory: Path) -> list[RunSummary]:
    """Describes the runs in a folder and in the folders in it, by name.

    Raises:
        RunError: if there is no such folder.
    """
    if not directory.is_dir():
        raise RunError(f"{directory}: no such folder; expected one that holds runs")
    return [summarize(path, directory) for path in sorted(find_runs(directory))]


def find_runs(directory: Path) -> Iterator[Path]:
    """The run folders in a folder, and one level deeper, where studies keep theirs."""
    if is_run(directory):
        yield directory
        return
    for path in directory.iterdir():
        if is_run(path):
            yield path
        elif path.is_dir() and not path.is_symlink():
            yield from filter(is_run, path.iterdir())


def is_run(directory: Path) -> bool:
    """Whether a folder looks like that of a run, damaged or not; a link does not."""
    parts = [(directory / name).exists() for name in (CONFIG, "state", "samples")]
    return sum(parts) >= 2 and not directory.is_symlink()


def summarize(directory: Path, base: Path) -> RunSummary:
    """Reads one run folder."""
    problem, num_steps, parent = "", 0, ""
    try:
        record = read_run(directory)
        num_steps = record.config.train.num_steps
        parent = record.parent.run if record.parent else ""
    except RunError as error:
        problem = str(error)
    running = is_running(directory)
    values, alarms = read_log(directory / "log.jsonl")
    step = int(values.get("step", 0))
    if not running:
        found = available(directory / "state")
        step = found[0][0] if found else 0
        problem = problem or check_newest(directory / "state")
    best = read_best(directory / "best")
    state = "finished" if step >= num_steps else "stopped"
    return RunSummary(
        name=str(directory.relative_to(base)) if directory != base else base.name,
        state="running" if running else "damaged" if problem else state,
        step=step,
        num_steps=num_steps,
        score=best.get("score", ""),
        value=best.get("value"),
        alarms=alarms,
        num_bytes=sum(p.lstat().st_size for p in directory.rglob("*") if p.is_file()),
        parent=parent,
        problem=problem,
    )


def is_running(directory: Path) -> bool:
    """Whether a process owns a run folder; on file systems without locks, never."""
    path = directory / ".lock"
    try:
        if path.is_file():  # a pipe would never end
            with path.open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def check_newest(state: Path) -> str:
    """Why a run cannot go on from its newest checkpoint, or ""."""
    found = available(state)
    if not found and any(state.glob("corrupt-*")):
        return "no valid checkpoint is left"
    try:
        for _, path in found[:1]:
            verify(path)
    except CheckpointError as error:
        return f"{path.name}: {error}"
    return ""


def read_best(directory: Path) -> dict[str, Any]:
    """Step, score and value of the best checkpoint, or nothing."""
    for step, path in available(directory)[:1]:
        try:
            facts = verify(path)["facts"]
            score, value = str(facts["score"]), float(facts["value"])
            return {"step": step, "score": score, "value": value}
        except (CheckpointError, KeyError, TypeError, ValueError):
            break
    return {}


def closing_lines(directory: Path) -> list[str]:
    """What a reader wants to know of a run at its end: quality, alarms, samples."""
    values, alarms = read_log(directory / "log.jsonl")
    lines = []
    if best := read_best(directory / "best"):
        score = best["score"]
        name = score.partition("/")[0]
        others = {
            "last": values.get(score),
            "real images": values.get(f"{score}-floor"),
        }
        known = [f"{k} {v:.3g}" for k, v in others.items() if isinstance(v, float)]
        text = f"best: {name} {best['value']:.3g} at step {best['step']}"
        lines.append(f"{text} ({', '.join(known)})" if known else text)
    if alarms:
        lines.append(
            f"warning: alarms in this run: {', '.join(alarms)}; what to do: "
            "docs/normal.md"
        )
    grids = (directory / "samples").glob("step-*.png")
    return [*lines, f"newest samples: {max(grids, default='none')}"]


def read_log(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The last value of each name in a log, and the names of the alarms in it."""
    last: dict[str, Any] = {}
    alarms = []
    text = path.read_text("utf-8", "replace") if path.is_file() else ""
    for line in text.splitlines():
        try:
            values = json.loads(line)
            last |= values | {"step": int(values["step"])}
            alarms.append(str(values.get("alarm", "ok")).partition(":")[0])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return last, tuple(name for name in dict.fromkeys(alarms) if name != "ok")


def remove_run(directory: Path) -> None:
    """Removes a run folder that no process uses, and nothing that is not of the run.

    Raises:
        RunError: saying what stands in the way.
    """
    check_removable(directory)
    with RunFolder(directory):  # it has the lock, and no entry is a link
        shutil.rmtree(directory)


def check_removable(directory: Path) -> None:
    """Refuses what is in use, and what is not a folder with files of a run alone."""
    if directory.is_symlink():
        raise RunError(f"{directory} is a link; give the folder to which it leads")
    if not is_run(directory):
        raise RunError(f"{directory} is not a run folder; nothing was removed")
    for path in sorted(directory.iterdir()):
        if not OWN_ENTRY.fullmatch(path.name):
            raise RunError(
                f"{path} was not written by a run; move it to another place first"
            )
    if is_running(directory):
        raise RunError(f"{directory} is in use; stop that process first")
