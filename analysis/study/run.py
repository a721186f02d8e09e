"""One run of a study: trained to its budget, then measured at every kept step."""

import dataclasses
import json
from pathlib import Path
from statistics import median
from typing import Any

import keras
import numpy as np

from analysis.checkerboard.layout import Protocol
from analysis.checkerboard.measurement import Measurement, measure_samples
from analysis.checkerboard.probe import measure_lines
from analysis.geometry.audit import audit_model, upsamplers
from analysis.quality.reference import ReferenceSet
from analysis.samples import Samples, make_samples
from analysis.study.plan import RESULTS, Run, StudyError
from analysis.study.results import Result
from config.schema import Config
from gan.data.dataset import Dataset, latents_from_seeds, load_dataset
from gan.models import build_generator
from gan.run.checkpoint import available
from gan.run.folder import RunFolder
from gan.sampling import open_run, sample
from gan.training import train

NUM_STATISTICS = 1000  # images whose batch statistics an untrained generator gets
# End points of every kept step, and those of the trained generator alone.
LINES = (
    *("a_last", "a_prev", "delta_pnr_last_db", "delta_pnr_prev_db"),
    *("probe_last", "probe_prev", "eta_last", "eta_prev"),
    *("phase_variance_db", "log_spectral_distance_db"),
)
QUALITY = ("fcd", "kcd", "density", "coverage", "diversity", "class_tv", "num_classes")
ENDPOINTS = (*LINES, *QUALITY)


def perform(run: Run, folder: Path, runs_dir: Path, num_images: int) -> Result:
    """Trains a run, or what is left of it, measures it and saves the result.

    Args:
        run: of the plan.
        folder: of the study.
        runs_dir: where run folders are.
        num_images: samples that each measurement takes.

    Raises:
        StudyError: if something stopped it before its budget.
        ValueError, RuntimeError: from training, in one line.
    """
    dataset = load_dataset(run.config.data)
    directory = runs_dir / run.name
    with RunFolder(directory) as owned:
        outcome = train(run.config, dataset, owned)
    if outcome.stop:
        raise StudyError(f"{run.name}: {outcome.stop} after step {outcome.step}")
    result = measure_run(run, directory, dataset, num_images)
    result.save(folder / RESULTS)
    return result


def measure_run(run: Run, directory: Path, dataset: Dataset, num_images: int) -> Result:
    """Measures a finished run at all steps that it kept, and before the first."""
    facts = {"split": "train"}
    real = make_samples(dataset.images_uint8, dataset.name, "data set", facts)
    shape = dataset.images_uint8.shape[2:]
    generator = untrained_generator(run.config, *shape)
    untrained, *_ = measure_lines_of(generator, run, real, num_images)
    course = []
    for step, _ in reversed(available(directory / "state")):
        generator = open_run(directory, str(step)).generator
        lines, measurement, images = measure_lines_of(
            generator, run, real, num_images, step
        )
        course.append({"step": step} | lines)
    reference = ReferenceSet.load(run.config.data, num_images)
    scores = reference.score(images[: reference.num_images])
    return Result(
        run=run.name,
        method=run.method,
        seed=run.config.run.seed,
        trained=lines
        | {name: float(scores[name]) for name in QUALITY if name in scores},
        untrained=untrained,
        course=course,
        seconds_per_step=seconds_per_step(directory),
        measurement=measurement,
    )


def untrained_generator(config: Config, size: int, channels: int) -> keras.Model:
    """The generator before its first step, with the statistics of one large batch.

    With those of a fresh layer, 0 and 1, its pictures would be nearly flat.
    """
    model = dataclasses.replace(config.model, batch_norm_momentum=0.0)
    generator = build_generator(model, size, channels, config.run.seed)
    generator(
        latents_from_seeds(range(NUM_STATISTICS), model.latent_dim), training=True
    )
    return generator


def measure_lines_of(
    generator: keras.Model, run: Run, real: Samples, num_images: int, step: int = 0
) -> tuple[dict[str, float], Measurement, np.ndarray]:
    """The end points in LINES of one generator, the measurement, and the samples."""
    images = sample(generator, range(num_images))
    facts = {
        "upsample": run.config.model.upsample,
        "training_seed": run.config.run.seed,
        "step": step,
        "latent_seeds": f"0..{num_images - 1}",
    }
    samples = make_samples(images, run.name, "run", facts)
    measurement = measure_samples(samples, real, Protocol())
    found = measurement.summary
    layers = measure_lines(generator, upsamplers(audit_model(generator)))
    previous, last = (
        {"probe": layer["line_grey"], "eta": layer["imbalance"] or 0.0}
        for layer in layers
    )
    values: dict[str, Any] = {
        "a_last": found["a_last"]["value"],
        "a_prev": found["a_prev"]["value"],
        "delta_pnr_last_db": found["family_delta_pnr_db"]["1"]["value"],
        "delta_pnr_prev_db": found["family_delta_pnr_db"]["2"]["value"],
        **{f"{name}_last": value for name, value in last.items()},
        **{f"{name}_prev": value for name, value in previous.items()},
        "phase_variance_db": found["phase_variance_db"]["2"],
        "log_spectral_distance_db": found["log_spectral_distance_db"]["value"],
    }
    return {name: float(values[name]) for name in LINES}, measurement, images


def seconds_per_step(directory: Path) -> float:
    """Median over the lines of the run's log."""
    lines = (directory / "log.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    key = "speed/seconds_per_step"
    return median(row[key] for row in rows if key in row)
