"""`python -m analysis quality`: how far samples are from real images."""

import json
import math
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table

from analysis.commands import options
from analysis.commands.tables import table_console
from analysis.samples import SampleError, Samples, load_samples, size_text
from config.schema import DataConfig
from gan.command_line import Command
from gan.run.environment import prepare_tensorflow

if TYPE_CHECKING:  # it imports TensorFlow
    from analysis.quality.reference import ReferenceSet

Rows = dict[str, dict[str, float]]  # name of a row -> its scores

COLUMNS = {
    "fcd": ("FCD", "{:.3g}"),
    "kcd": ("KCD\nx1000", "{:.0f}"),
    "kcd_se": ("s.e.\nx1000", "{:.1f}"),
    "density": ("den-\nsity", "{:.2f}"),
    "coverage": ("cov-\nerage", "{:.3f}"),
    "diversity": ("diver-\nsity", "{:.2f}"),
    "duplicates": ("dupli-\ncates", "{:.3f}"),
    "class_tv": ("class\nTV", "{:.3f}"),
    "num_classes": ("clas-\nses", "{:.0f}"),
    "copy_pixels": ("copies\npixels", "{:.2f}"),
    "copy_features": ("copies\nfeat.", "{:.2f}"),
}
PATCH_LEGEND = (
    "Distance of patches (SWD) in thousandths of the deviation of real patches, by "
    "level: fine levels hold edges and noise, coarse ones shapes and colours. Best: as "
    "the floor. ±: standard error."
)
LEGEND = (
    "Best values: FCD and KCD of the floor (real training images), density 1, coverage "
    "{coverage:.3f}, diversity 1, duplicates and class TV 0, copies 1 (samples below "
    "0.7 may be memorised). FCD is not FID: it uses the feature network {id}. Compare "
    "it only with values of the same network and the same number of images."
)


@click.command(name="quality", cls=Command)
@options.sources
@click.option(
    "--checkpoint",
    default="latest",
    help="Checkpoint of a run: latest, best, a step, or all.",
)
@options.num_images
@click.option(
    "--reference",
    help="Real data set; default: the data set of the run, else Fashion-MNIST.",
)
@click.option(
    "--extractor",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Weights of the feature network, written by tools/train_extractor.py.",
)
@options.value_range
@options.as_json
@click.option(
    "--figure",
    type=options.FILE,
    help="Write a figure of FCD, coverage and SWD over training to this file.",
)
@click.option(
    "--pairs",
    type=options.FILE,
    help="Write a figure of samples and their nearest training images to this file.",
)
def command(  # noqa: PLR0913
    sources: tuple[str, ...],
    checkpoint: str,
    num_images: int,
    reference: str | None,
    extractor: Path | None,
    value_range: tuple[float, float] | None,
    as_json: bool,
    figure: Path | None,
    pairs: Path | None,
) -> None:
    """Measures SOURCES (runs, files or folders of images) against test images.

    The real images are those of the first source. The tables also show the floor, which
    is the score of real training images, and the scores of the same images with noise
    of 5, 13 and 26 grey levels. The distances of patches (SWD) need no feature network
    and fit images of any size and colour. --pairs draws the 16 samples of the last
    source that are nearest to a training image, each above that image.

    For an Inception FID as papers print it, make 10,000 PNG files with `python -m gan
    sample RUN --n 10000 --out FOLDER` and give the folder to an outside tool, such as
    clean-fid or torch-fidelity, with 10,000 test images.
    """
    prepare_tensorflow()
    from analysis.quality.figures import draw_nearest_pairs, draw_training
    from analysis.quality.metrics import SMALLEST_NUM_IMAGES
    from analysis.quality.reference import ReferenceSet

    load = partial(load_samples, num_images=num_images, value_range=value_range)
    loaded = load_all(sources, checkpoint, load)
    first = next(iter(loaded.values()))
    data = DataConfig(reference) if reference else first.data or DataConfig()
    real = ReferenceSet.load(data, len(first.images_uint8), extractor)
    rows = {}
    for name, samples in loaded.items():
        if samples.images_uint8.shape[1:] != real.test.images_uint8.shape[1:]:
            raise SampleError(
                f"{samples.name}: received images of {samples.size}; the real images "
                f"of {real.test.name} have {size_text(real.test.images_uint8)}; name a "
                "fitting set with --reference"
            )
        images = samples.images_uint8[: real.num_images]
        scores, copies = real.measure(images), real.copies(images)
        rows[name] = scores | {f"copy_{key}": c.ratio for key, c in copies.items()}
    baselines = real.baselines()
    if figure:
        steps = [samples.facts.get("step", 0) for samples in loaded.values()]
        points = list(zip(steps, rows.values(), strict=True))
        draw_training(points, baselines, real).savefig(figure, dpi=150)
    if pairs:
        train = real.train.images_uint8
        draw_nearest_pairs(images, train, copies["pixels"]).savefig(pairs, dpi=120)
    notes = [note for samples in loaded.values() for note in samples.notes]
    notes = list(dict.fromkeys([*notes, *real.test.notes]))
    if real.num_images < SMALLEST_NUM_IMAGES:
        notes.append(
            f"There are {real.num_images} real images to compare with; FCD and other "
            f"scores of features need {SMALLEST_NUM_IMAGES}."
        )
    if as_json:
        click.echo(json.dumps(to_json(real, rows | baselines, notes), indent=2))
    else:
        print_table(real, rows, baselines, notes)


def load_all(
    sources: tuple[str, ...], checkpoint: str, load: Callable[..., Samples]
) -> dict[str, Samples]:
    """Samples by the name of their row, without the beginning that all names share.

    `load` returns the samples of a source and a checkpoint.
    """
    if len(sources) == 1:
        return load_one(sources[0], checkpoint, load)
    names = [str(Path(source)) for source in sources]
    common = len(re.sub("[^-/]*$", "", os.path.commonprefix(names)))
    return {
        " ".join([name[common:], *([row] if checkpoint == "all" else [])]): samples
        for name in dict.fromkeys(names)
        for row, samples in load_one(name, checkpoint, load).items()
    }


def load_one(
    source: str, checkpoint: str, load: Callable[..., Samples]
) -> dict[str, Samples]:
    """The samples of one source; "all" means every checkpoint of a run."""
    if checkpoint != "all":
        samples = load(source, checkpoint=checkpoint)
        step = samples.facts.get("step", -1)
        return {"samples" if step < 0 else f"step {step}": samples}
    from gan.run.manifest import available

    steps = [str(step) for step, _ in reversed(available(Path(source) / "state"))]
    if not steps:
        raise ValueError(f"{source}: --checkpoint all expects a run with checkpoints")
    return {f"step {step}": load(source, checkpoint=step) for step in steps}


def to_json(real: "ReferenceSet", rows: Rows, notes: list[str]) -> dict[str, Any]:
    """What --json prints; numbers that are not finite become null."""
    finite = {
        row: {real.name(k): v if math.isfinite(v) else None for k, v in scores.items()}
        for row, scores in rows.items()
    }
    facts = {"extractor": real.extractor.id, "num_images": real.num_images}
    facts["reference"] = f"{real.test.name}, {real.test.split}"
    facts["reference_digest"] = real.test.digest
    return facts | {"notes": notes, "scores": finite}


def print_table(
    real: "ReferenceSet", rows: Rows, baselines: Rows, notes: list[str]
) -> None:
    """Prints the scores of features and the distances of patches, with their legends.

    Both tables have the samples first, then the floor and the noise levels.
    """
    from analysis.quality.metrics import expected_coverage

    console, floor = table_console(), baselines["floor"]
    against = f"{real.num_images} images against as many"
    against += f" of {real.test.name}, {real.test.split}"
    found = {key for scores in rows.values() for key in scores}
    headings = {key: COLUMNS[key][0] for key in COLUMNS if key in found}
    name = real.name("fcd" if "fcd" in floor else "copies")
    title = f"{name}: {against}"
    console.print(make_table(title, headings, score_cell, (rows, baselines)))
    if "fcd" in floor:
        coverage = expected_coverage(real.num_images)
        console.print(LEGEND.format(coverage=coverage, id=real.extractor.id))
    levels = [key for key in floor if f"{key}_se" in floor and key.startswith("swd_")]
    if levels:
        title = f"\nSWD x1000: {against}"
        headings = {key: key.removeprefix("swd_") for key in levels}
        console.print(make_table(title, headings, distance_cell, (rows, baselines)))
        console.print(PATCH_LEGEND)
    for note in notes:
        console.print(f"Note: {note}")


def make_table(
    title: str,
    headings: dict[str, str],
    cell: Callable[[dict[str, float], str], str],
    groups: tuple[Rows, ...],
) -> Table:
    """A table of scores with a column for each key of `headings`."""
    table = Table(title=title, box=SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("", no_wrap=True)
    for heading in headings.values():
        table.add_column(heading, justify="right")
    for rows in groups:
        for name, scores in rows.items():
            table.add_row(name, *(cell(scores, key) for key in headings))
        table.add_section()
    return table


def score_cell(scores: dict[str, float], key: str) -> str:
    """One score of features, in the format of its column."""
    if key not in scores:
        return ""
    value = 1000 * scores[key] if key in ("kcd", "kcd_se") else scores[key]
    return COLUMNS[key][1].format(value)


def distance_cell(scores: dict[str, float], key: str) -> str:
    """One distance of patches with its standard error."""
    return f" {scores[key]:.1f} ± {scores[f'{key}_se']:.1f}"
