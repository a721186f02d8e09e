"""Measures which quality the settings of a run reach in which training time.

    python -m benchmarks.time_to_quality [--seeds 3] [--out FILE.json]
    python -m benchmarks.time_to_quality --validation --recipe "NAME: FLAGS" ...

The first form compares the default settings with the preset `tutorial`: the tutorial
gets as many steps as take as long as a run with the default settings. The second form
compares any flags of `train.py`, among them --steps, for the record of
docs/performance.md; recipes are chosen by training images, which --validation scores
against.

The seconds per step are measured first, in short runs that take turns. Several runs
then share the machine, one per core, without an effect on the result. Run folders are
kept, and the same command continues an interrupted comparison. Scores are those of
`python -m analysis quality`.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from analysis.statistics import t_interval
from config.loader import load_config
from config.schema import Config
from config.sizes import resolve
from gan.data.dataset import BUNDLED_TRAIN_IMAGES
from gan.run.environment import prepare_tensorflow, usable_cores

if TYPE_CHECKING:
    from analysis.quality.extractor import Extractor
    from analysis.quality.metrics import Features

FCD_LEVELS = (100, 60, 40, 30, 20, 15, 10, 7, 5, 4, 3, 2)
PARTS = 20  # checkpoints of a run, at equal distances
SCORED = (1, 2, 4, 10)  # checkpoints that get a score, as does the last one
TIMED_IMAGES = 6_400  # of the short run that is timed
WARM_UP = 0.25  # share of that run that is not timed


@dataclass(frozen=True)
class Recipe:
    """Settings and training time of one side of the comparison.

    Attributes:
        flags: flags of `train.py`.
        time: training time, as a fraction of the time of the default run, unless the
            flags say how many steps there are.
    """

    flags: tuple[str, ...]
    time: float = 1.0


RECIPES = {
    "default": Recipe(()),
    "default, 1/20": Recipe((), time=1 / PARTS),
    "tutorial": Recipe(("--config", "tutorial")),
}


def train(
    folder: Path, name: str, flags: Sequence[str], core: int | None = None
) -> Path:
    """Runs or continues `train.py` to its end; returns the run folder.

    Raises:
        click.ClickException: with the last line of `train.py`, if it fails.
    """
    command = [sys.executable, "train.py", "--upsample", "transpose", *flags]
    command += ["--runs-dir", str(folder), "--run", name]
    pin = None if core is None else (lambda: os.sched_setaffinity(0, {core}))
    done = subprocess.run(command, preexec_fn=pin, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    return folder / name


def seconds_per_step(directory: Path) -> float:
    """Returns the time of a run after its start, divided by its steps."""
    lines = map(json.loads, (directory / "log.jsonl").read_text().splitlines())
    points = [
        (line["step"], sum(v for k, v in line.items() if k.startswith("time/")))
        for line in lines
        if "loss/g" in line
    ]
    first = points[int(WARM_UP * len(points))]
    return (points[-1][1] - first[1]) / (points[-1][0] - first[0])


def measure_rates(recipes: dict[str, Recipe], rounds: int) -> dict[str, list[float]]:
    """Returns the seconds per step of each recipe in each round."""
    rates: dict[str, list[float]] = {name: [] for name in recipes}
    with TemporaryDirectory() as scratch:
        for number, (name, recipe) in product(range(rounds), recipes.items()):
            if recipe.time < 1:
                rates[name] = rates["default"]
                continue
            steps = str(TIMED_IMAGES // settings(recipe).train.batch_size)
            flags = [*recipe.flags, "--no-observe", "--steps", steps]
            flags += ["--set", f"run.log_every_steps={max(1, int(steps) // 20)}"]
            run = train(Path(scratch), f"{name}-{number}", flags)
            rates[name].append(seconds_per_step(run))
    return rates


def settings(recipe: Recipe) -> Config:
    """Returns the settings that its flags select."""
    flags = dict(zip(recipe.flags[::2], recipe.flags[1::2], strict=True))
    given = {}
    for flag, key in (("--steps", "num_steps"), ("--batch-size", "batch_size")):
        if flag in flags:
            given[f"train.{key}"] = int(flags[flag])
    config = load_config(flags.get("--config", ""), flags=given)
    return resolve(config, BUNDLED_TRAIN_IMAGES, image_size=28)


def number_of_steps(
    recipes: dict[str, Recipe], rates: dict[str, float]
) -> dict[str, int]:
    """Returns how many steps each recipe does, by its flags or its training time."""
    steps = {}
    for name, recipe in recipes.items():
        if "--steps" in recipe.flags or name == "default":
            steps[name] = settings(recipe).train.num_steps
        else:
            seconds = steps["default"] * rates["default"]
            steps[name] = round(recipe.time * seconds / rates[name])
    return steps


def run_all(
    recipes: dict[str, Recipe],
    folder: Path,
    steps: dict[str, int],
    seeds: int,
) -> dict[str, list[Path]]:
    """Trains every recipe with every seed, one run per core at a time."""
    free = usable_cores()

    def one(seed: int, name: str) -> Path:
        core = free.pop()
        every = max(1, steps[name] // PARTS)
        flags = [*recipes[name].flags, "--steps", str(steps[name]), "--seed", str(seed)]
        for key in ("checkpoint_every_steps", "evaluate_every_steps"):
            flags += ["--set", f"run.{key}={every}"]
        flags += ["--set", f"run.keep_checkpoints={PARTS + 1}"]
        run = train(folder, f"{name.replace(', 1/', '-')}-seed{seed}", flags, core)
        free.append(core)
        return run

    with ThreadPoolExecutor(len(free)) as pool:
        jobs_by_name = {
            name: [pool.submit(one, seed, name) for seed in range(seeds)]
            for name in sorted(recipes, key=lambda name: -steps[name])
        }
        return {name: [j.result() for j in jobs_by_name[name]] for name in recipes}


def load_real(num_images: int, validation: bool) -> "tuple[Extractor, Features]":
    """Returns the feature network, and its features of the images to compare with.

    These are test images, or training images at random.
    """
    from analysis.quality.reference import ReferenceSet
    from config.schema import DataConfig

    reference = ReferenceSet.load(DataConfig(), num_images)
    if not validation:
        return reference.extractor, reference.features
    features = reference.extractor.features(reference.sample_train())
    return reference.extractor, features


def score(run: Path, extractor: "Extractor", real: "Features") -> list[dict[str, Any]]:
    """Step and scores of the checkpoints in SCORED and of the end."""
    from analysis.quality.metrics import compute_scores
    from analysis.samples import load_samples
    from gan.run.manifest import available

    course = []
    kept_steps = [step for step, _ in reversed(available(run / "state"))]
    every = kept_steps[-1] // PARTS
    for step in kept_steps:
        if step != kept_steps[-1] and step not in {every * part for part in SCORED}:
            continue
        images = load_samples(str(run), len(real.values), str(step)).images_uint8
        scores = compute_scores(real, extractor.features(images))
        kept = {key: scores[key] for key in ("fcd", "coverage", "density", "diversity")}
        course.append({"step": step} | kept)
    return course


def time_to(level: float, course: Sequence[dict[str, Any]], seconds: float) -> float:
    """Returns the seconds to the first checkpoint at or below an FCD, else infinity."""
    reached = [point["step"] for point in course if point["fcd"] <= level]
    return reached[0] * seconds if reached else float("inf")


def show(result: dict[str, Any]) -> None:
    """Prints final scores, then the time to each level, with all seeds in brackets.

    From two seeds on, the mean FCD has a 95 % t-interval.
    """
    for name, recipe in result["recipes"].items():
        ends = [course[-1] for course in recipe["courses"]]
        seconds = recipe["steps"] * recipe["seconds_per_step"]
        click.echo(
            f"{name:>14}: {recipe['steps']} steps in {seconds / 60:.1f} min; "
            f"FCD {listed([e['fcd'] for e in ends], '.2f')}; "
            f"coverage {listed([e['coverage'] for e in ends], '.3f')}"
        )
        if len(ends) > 1:
            it = t_interval(np.array([e["fcd"] for e in ends]))
            click.echo(
                f"{'mean FCD':>14}: {it.value:.2f} ({it.low:.2f} … {it.high:.2f})"
            )
    for level in result["levels"]:
        cells = []
        for name, recipe in result["recipes"].items():
            times = [
                time_to(level, course, recipe["seconds_per_step"]) / 60
                for course in recipe["courses"]
            ]
            cells.append(f"{name} {listed(times, '.1f')}")
        click.echo(f"minutes to FCD {level:>3}: " + "; ".join(cells))


def listed(values: Sequence[float], form: str) -> str:
    """Returns the median, with all values in brackets."""
    return f"{median(values):{form}} ({', '.join(format(v, form) for v in values)})"


def read_recipes(given: Sequence[str]) -> dict[str, Recipe]:
    """Reads --recipe values, such as "short: --steps 9000".

    Raises:
        click.UsageError: for a value without a name, or without a number of steps.
    """
    recipes = {}
    for text in given:
        name, _, flags = text.partition(":")
        recipe = Recipe(tuple(shlex.split(flags)))
        values = dict(zip(recipe.flags[::2], recipe.flags[1::2], strict=False))
        numbers = values.get("--steps", ""), values.get("--batch-size", "1")
        if len(recipe.flags) % 2 or not all(map(str.isdecimal, numbers)):
            raise click.UsageError(
                f'--recipe: received "{text}", expected a name, a colon and flags in '
                'pairs, with a number of --steps, such as "short: --steps 9000"'
            )
        recipes[name.strip()] = recipe
    return recipes


@click.command()
@click.option("--seeds", default=3, show_default=True)
@click.option("--rounds", default=5, show_default=True, help="rounds of timing")
@click.option(
    "--recipe",
    "given",
    multiple=True,
    metavar='"NAME: FLAGS"',
    help="flags of train.py in pairs of name and value, such as --steps 9000",
)
@click.option("--validation", is_flag=True, help="score against training images")
@click.option("--n", "num_images", default=10_000, show_default=True)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("checkpoints/time_to_quality"),
    show_default=True,
    help="folder of the runs, with which an interrupted call is continued",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path))
def main(
    seeds: int,
    rounds: int,
    given: tuple[str, ...],
    validation: bool,
    num_images: int,
    folder: Path,
    out: Path | None,
) -> None:
    """Compares the quality and the time of recipes."""
    recipes = read_recipes(given) or RECIPES
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "rates.json"
    if not kept.exists():
        kept.write_text(json.dumps(measure_rates(recipes, rounds)))
    rates = {n: median(times) for n, times in json.loads(kept.read_text()).items()}
    if missing := set(recipes) - set(rates):
        raise click.UsageError(
            f"{folder} was made with other recipes: no {', '.join(sorted(missing))}; "
            "give another --folder"
        )
    steps = number_of_steps(recipes, rates)
    runs = run_all(recipes, folder, steps, seeds)
    prepare_tensorflow()
    extractor, real = load_real(num_images, validation)
    measured = {
        name: {
            "steps": steps[name],
            "seconds_per_step": rates[name],
            "courses": [score(run, extractor, real) for run in runs[name]],
        }
        for name in recipes
    }
    result = {"levels": FCD_LEVELS, "recipes": measured}
    show(result)
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
