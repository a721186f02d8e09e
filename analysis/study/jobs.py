"""Runs the missing parts of a study as processes, side by side, and times them before.

A job gets one GPU where there are any, else its share of the CPU cores. Killing the
study leaves its processes to finish or to be continued: whoever comes next waits for
a run folder that is still in use.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from analysis.study.plan import Method, Plan, Run, has_result
from gan.run.folder import RunFolder, RunInUse

NUM_WARM, NUM_TIMED = 2, 10  # steps
POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Share:
    """What one job may use: a GPU, or these cores.

    Attributes:
        gpu: its number; None: none.
        cores: numbers of CPU cores; empty: all.
    """

    gpu: int | None
    cores: tuple[int, ...]

    def enter(self) -> None:
        """Confines this thread, and the processes that it starts, to the cores."""
        if self.cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, self.cores)

    @property
    def environment(self) -> dict[str, str]:
        """Of a process of this job."""
        gpu = {} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": str(self.gpu)}
        return dict(os.environ) | gpu


def shares(num_jobs: int, num_gpus: int) -> list[Share]:
    """Divides the machine among jobs: one GPU each, or equal parts of the cores."""
    if num_gpus:
        return [Share(job % num_gpus, ()) for job in range(num_jobs)]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if num_jobs == 1 or len(cores) < num_jobs:
        return [Share(None, ())] * num_jobs
    size = len(cores) // num_jobs
    return [
        Share(None, tuple(cores[job * size : (job + 1) * size]))
        for job in range(num_jobs)
    ]


def run_missing(
    plan: Plan,
    folder: Path,
    runs_dir: Path,
    places: Sequence[Share],
    report: Callable[[Run, float, str], None],
) -> int:
    """Runs what has no result yet.

    Args:
        plan: of the study.
        folder: where its results are.
        runs_dir: where run folders are.
        places: one for each job at a time.
        report: called as a run ends, with its seconds and its error, "" if none.

    Returns:
        How many failed.
    """
    free: SimpleQueue[Share] = SimpleQueue()
    for place in places:
        free.put(place)

    def work(run: Run) -> bool:
        place = free.get()
        start = time.monotonic()
        try:
            error = run_process(run, folder, runs_dir, place)
        finally:
            free.put(place)
        report(run, time.monotonic() - start, error)
        return bool(error)

    missing = [run for run in plan.runs if not has_result(folder, run)]
    with ThreadPoolExecutor(len(places)) as pool:
        return sum(pool.map(work, missing))


def run_process(run: Run, folder: Path, runs_dir: Path, place: Share) -> str:
    """Runs one run in a process of its own; returns its last line if it failed."""
    runs_dir.mkdir(parents=True, exist_ok=True)
    wait_until_free(runs_dir / run.name)
    if has_result(folder, run):
        return ""
    place.enter()
    command = [sys.executable, "-m", "analysis", "study", "--out", str(folder)]
    command += ["--runs-dir", str(runs_dir), "--only", run.name]
    log = runs_dir / f"{run.name}.log"
    with log.open("ab") as output:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=place.environment,
        )
    if done.returncode == 0:
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return (
        f"exit code {done.returncode}: {lines[-1] if lines else 'no message'} ({log})"
    )


def wait_until_free(directory: Path) -> None:
    """Waits for a process that an earlier, killed study has left at work here."""
    while directory.exists():
        try:
            with RunFolder(directory):
                return
        except RunInUse:
            time.sleep(POLL_SECONDS)


def seconds_per_step(plan: Plan, method: Method) -> float:
    """Times some training steps of a method, compilation apart."""
    from gan.data.dataset import load_dataset
    from gan.state import build_state
    from gan.step import batch_inputs, make_train_steps

    config = plan.run(method, 0).config
    images = load_dataset(config.data).images_uint8
    train_steps = make_train_steps(config, build_state(config, *images.shape[2:]))

    def run(first: int, number: int) -> float:
        steps = range(first, first + number)
        inputs = batch_inputs(config, steps, len(images))
        start = time.perf_counter()
        train_steps(images, *inputs).numpy()
        return time.perf_counter() - start

    run(0, NUM_WARM)
    return run(NUM_WARM, NUM_TIMED) / NUM_TIMED
