"""One run of a study is trained and measured; several runs go side by side.

Each run is a process of its own, `python -m analysis study --only NAME`, with the
training loop of `train.py`. It gets one GPU if there are any, else its part of the CPU
cores. If the study is killed, its processes may live on, so a later call waits for a
run folder that is still in use.
"""

import dataclasses
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import keras
import numpy as np

from analysis.checkerboard.frequencies import grid_frequencies
from analysis.checkerboard.kernels import imbalance
from analysis.checkerboard.measurement import (
    RealImages,
    measure_against,
    read_real_images,
    reading_to_dict,
)
from analysis.checkerboard.meter import GridReading
from analysis.checkerboard.predictions import predict_by_probe
from analysis.checkerboard.probe import learned_kernel
from analysis.checkerboard.words import decibels
from analysis.geometry.audit import audit_model, upsamplers
from analysis.quality.reference import ReferenceSet
from analysis.samples import from_dataset, sample_generator, upsampling_strides
from analysis.study.plan import (
    RESULTS_FOLDER,
    SECONDARY_ENDPOINT,
    Method,
    Plan,
    PlannedRun,
    RunResult,
    StudyError,
    has_result,
)
from config.schema import Config
from gan.data.dataset import Dataset, latents_from_seeds, load_dataset
from gan.models import build_generator
from gan.run.environment import usable_cores
from gan.run.folder import RunFolder, RunInUse
from gan.run.manifest import available
from gan.sampling import open_run
from gan.state import build_state
from gan.step import batch_inputs, make_train_steps
from gan.training import train

# Number of images whose batch statistics an untrained generator gets.
NUM_STATISTICS = 1000
NUM_KEPT_SAMPLES = 256  # in a result
# End point of the imaging gain of each upsampling; 1 is the last one.
GAIN_KEYS = {1: "floored_gain_db", 2: SECONDARY_ENDPOINT}
# Values that are measured at every kept step, and those of the trained generator only.
WEIGHT_KEYS = "probe_last", "probe_prev", "eta_last", "eta_prev"
CHECKERBOARD_KEYS = ("fixed_pattern_levels", *GAIN_KEYS.values(), *WEIGHT_KEYS)
QUALITY_KEYS = (
    *("fcd", "kcd", "density", "coverage"),
    *("diversity", "class_tv", "num_classes"),
)
NUM_WARM_STEPS, NUM_TIMED_STEPS = 2, 10
POLL_SECONDS = 2.0


def train_and_measure(
    run: PlannedRun, folder: Path, runs_dir: Path, num_images: int
) -> RunResult:
    """Trains a run to its end, or what is left of it, measures it, saves the result."""
    dataset = load_dataset(run.config.data)
    directory = runs_dir / run.name
    with RunFolder(directory) as owned:
        outcome = train(run.config, dataset, owned)
    if outcome.stop:
        raise StudyError(f"{run.name}: {outcome.stop} after step {outcome.step}")
    result = measure_run(run, directory, dataset, num_images)
    result.save(folder / RESULTS_FOLDER)
    return result


def measure_run(
    run: PlannedRun, directory: Path, dataset: Dataset, num_images: int
) -> RunResult:
    """Measures a finished run before its first step and at all steps that it kept."""
    untrained = untrained_generator(run.config, *dataset.images_uint8.shape[2:])
    real = read_real_images(from_dataset(dataset), upsampling_strides(untrained))
    floors = gain_floors_db(real, num_images)
    course: list[dict[str, float]] = []
    readings: dict[str, list[dict[str, Any]]] = {}
    kept = [step for step, _ in reversed(available(directory / "state"))]
    for step in (0, *kept):
        generator = open_run(directory, str(step)).generator if step else untrained
        samples = sample_generator(generator, run.config, step, num_images, run.name)
        measurement = measure_against(samples, real, known_strides=True)
        values = endpoints(measurement.readings, floors) | weight_values(generator)
        course.append({"step": step} | values)
        readings[str(step)] = [reading_to_dict(r) for r in measurement.readings]
    examples = samples.images_uint8[:NUM_KEPT_SAMPLES]
    arrays = measurement.arrays | {"examples": examples}
    measurement = dataclasses.replace(measurement, arrays=arrays)
    reference = ReferenceSet.load(run.config.data, num_images)
    scores = reference.score(samples.images_uint8[: reference.num_images])
    quality = {key: float(scores[key]) for key in QUALITY_KEYS if key in scores}
    log_text = (directory / "log.jsonl").read_text(encoding="utf-8")
    key, log = "speed/seconds_per_step", map(json.loads, log_text.splitlines())
    return RunResult(
        run=run.name,
        method=run.method,
        seed=run.config.run.seed,
        trained=values | quality,
        course=course,
        readings=readings,
        floors_db=floors,
        seconds_per_step=statistics.median(it[key] for it in log if key in it),
        measurement=measurement,
    )


def untrained_generator(config: Config, size: int, channels: int) -> keras.Model:
    """Builds the generator before its first step.

    It gets the statistics of one large batch. With those of fresh layers, 0 and 1, its
    images would be nearly constant.
    """
    model = dataclasses.replace(config.model, batch_norm_momentum=0.0)
    generator = build_generator(model, size, channels, config.run.seed)
    latents = latents_from_seeds(range(NUM_STATISTICS), model.latent_dim)
    generator(latents, training=True)
    return generator


def of_stage(readings: Sequence[GridReading], stage: int) -> list[GridReading]:
    """Chooses the readings of one upsampling that are not on an axis.

    Stage 1, the last upsampling by 2, has (1/2, 1/2) alone. On the axes real images
    have edges of their own.
    """
    chosen = [reading for reading in readings if reading.frequency.stage == stage]
    return [reading for reading in chosen if not reading.frequency.on_axis]


def gain_floors_db(real: RealImages, num_images: int) -> dict[str, float]:
    """Finds what smaller gains count as, in steps of 0.1 dB, from real images alone.

    Without a floor, the logarithm of a gain of nearly 0 would be the noise of the
    meter. The floor at (1/2, 1/2) is the detection limit. For the stage before it is
    the largest gain that real images may have there (upper end of the 95 % interval).
    The steps hide rounding errors.
    """
    readings = real.read(real.null(num_images))
    [corner] = of_stage(readings, 1)
    before = max(r.imaging_gain_percent.real.high for r in of_stage(readings, 2))
    percents = corner.imaging_gain_percent.limit, before
    rounded = [round(decibels(percent), 1) for percent in percents]
    return dict(zip(GAIN_KEYS.values(), rounded, strict=True))


def endpoints(
    readings: Sequence[GridReading], floors_db: dict[str, float]
) -> dict[str, float]:
    """Takes the end points from the readings of one set of samples.

    The imaging gain at (1/2, 1/2) and the largest one, off the axes, of the upsampling
    before the last are in dB (1 % is -40 dB) and no less than their floors. The fixed
    pattern at (1/2, 1/2) is in grey levels.
    """
    [corner] = of_stage(readings, 1)
    found = {"fixed_pattern_levels": corner.fixed_pattern_levels.samples.value}
    for stage, key in GAIN_KEYS.items():
        gains = [r.imaging_gain_percent for r in of_stage(readings, stage)]
        largest = decibels(max(gain.samples.value for gain in gains))
        found[key] = max(largest, floors_db[key])
    return found


def weight_values(generator: keras.Model) -> dict[str, float]:
    """Says what the weights of the last two upsamplings can cause.

    `probe_` is the root mean square of the fixed pattern that the constant-field probe
    predicts over the frequencies of a stage, in grey levels. `eta_` is the imbalance of
    the kernels, 0 without a kernel.
    """
    names = upsamplers(audit_model(generator))
    strides = upsampling_strides(generator)
    probed = predict_by_probe(generator, strides)
    pairs = list(zip(grid_frequencies(strides), probed, strict=True))
    found = {}
    for stage, key in ((1, "last"), (2, "prev")):
        patterns = [it.fixed_pattern_levels for f, it in pairs if f.stage == stage]
        levels = [pattern.value for pattern in patterns]
        name, pair = names[-stage]
        kernel = learned_kernel(generator, name)
        found[f"probe_{key}"] = float(np.linalg.norm(levels))
        found[f"eta_{key}"] = 0.0 if kernel is None else imbalance(kernel, pair)
    return found


@dataclass(frozen=True)
class JobResources:
    """What one of several jobs may use: a GPU, or some CPU cores (empty: all)."""

    gpu: int | None
    cores: tuple[int, ...]

    def restrict_thread(self) -> None:
        """Restricts this thread, and what it starts from now on, to the cores."""
        if self.cores:
            os.sched_setaffinity(0, self.cores)

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of a process of this job."""
        if self.gpu is None:
            return dict(os.environ)
        # Several jobs may share a GPU, so none takes all of its memory at its start.
        chosen = {"CUDA_VISIBLE_DEVICES": str(self.gpu)}
        return dict(os.environ) | chosen | {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}


def divide_machine(num_jobs: int, num_gpus: int) -> list[JobResources]:
    """Divides the machine among jobs: one GPU each, or equal numbers of cores."""
    if num_gpus:
        return [JobResources(job % num_gpus, ()) for job in range(num_jobs)]
    cores = usable_cores()
    size = 0 if num_jobs == 1 else len(cores) // num_jobs
    parts = [cores[job * size : (job + 1) * size] for job in range(num_jobs)]
    return [JobResources(None, tuple(part)) for part in parts]


def run_missing(
    plan: Plan,
    folder: Path,
    runs_dir: Path,
    jobs: Sequence[JobResources],
    report: Callable[[PlannedRun, float, str], None],
) -> int:
    """Runs what has no result yet, and returns how many runs failed.

    `report` is called when a run ends, with its seconds and its error, "" if none.
    """
    free: SimpleQueue[JobResources] = SimpleQueue()
    for job in jobs:
        free.put(job)

    def work(run: PlannedRun) -> bool:
        job = free.get()
        start = time.monotonic()
        try:
            error = run_process(run, folder, runs_dir, job)
        finally:
            free.put(job)
        report(run, time.monotonic() - start, error)
        return bool(error)

    missing = [run for run in plan.runs if not has_result(folder, run)]
    with ThreadPoolExecutor(len(jobs)) as pool:
        return sum(pool.map(work, missing))


def run_process(
    run: PlannedRun, folder: Path, runs_dir: Path, job: JobResources
) -> str:
    """Does one run in a process of its own; returns its last line if it failed."""
    runs_dir.mkdir(parents=True, exist_ok=True)
    wait_until_free(runs_dir / run.name)
    if has_result(folder, run):
        return ""
    job.restrict_thread()
    command = [sys.executable, "-m", "analysis", "study", "--out", str(folder)]
    command += ["--runs-dir", str(runs_dir), "--only", run.name]
    log = runs_dir / f"{run.name}.log"
    silent: Any = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    with log.open("ab") as output:
        done = subprocess.run(command, stdout=output, env=job.environment, **silent)
    if done.returncode == 0:
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    message = lines[-1] if lines else "no message"
    return f"exit code {done.returncode}: {message} ({log})"


def wait_until_free(directory: Path) -> None:
    """Waits while a process of an earlier, killed study still uses a run folder."""
    while directory.exists():
        try:
            with RunFolder(directory):
                return
        except RunInUse:
            time.sleep(POLL_SECONDS)


def time_step(plan: Plan, method: Method) -> float:
    """Times some training steps of a method, without compilation: seconds per step."""
    config = plan.run(method, 0).config
    images = load_dataset(config.data).images_uint8
    train_steps = make_train_steps(config, build_state(config, *images.shape[2:]))

    def run(first: int, number: int) -> float:
        inputs = batch_inputs(config, range(first, first + number), len(images))
        start = time.perf_counter()
        train_steps(images, *inputs).numpy()
        return time.perf_counter() - start

    # TensorFlow takes the functions of several methods for needless tracings of one.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    run(0, NUM_WARM_STEPS)
    return run(NUM_WARM_STEPS, NUM_TIMED_STEPS) / NUM_TIMED_STEPS
