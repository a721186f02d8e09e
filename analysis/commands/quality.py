"""`python -m analysis quality`: how far samples are from real images."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table

from analysis.commands import options
from analysis.commands.tables import table_console
from analysis.samples import (
    SampleError,
    Samples,
    load_samples,
    size_text,
    unique_labels,
)
from config.schema import DataConfig
from gan.command_line import Command
from gan.run.environment import prepare_tensorflow

if TYPE_CHECKING:  # it imports TensorFlow
    from matplotlib.figure import Figure

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
    chosen = num_images, checkpoint, reference, extractor, value_range
    scores = measure(sources, *chosen)
    if figure:
        scores.draw_training().savefig(figure, dpi=150)
    if pairs:
        scores.draw_pairs().savefig(pairs, dpi=120)
    if as_json:
        click.echo(json.dumps(to_json(scores), indent=2))
    else:
        print_scores(scores)


@dataclass(frozen=True)
class Scores:
    """Scores of all sources against the real images of the first one.

    Attributes:
        loaded: samples by the label of their source and the name of their row.
        rows: scores of samples by the name of their row.
        baselines: scores of real training images, and of the same with noise.
    """

    real: "ReferenceSet"
    loaded: dict[str, dict[str, Samples]]
    rows: Rows
    baselines: Rows

    def notes(self) -> list[str]:
        """What a reader of the scores should know."""
        from analysis.quality.metrics import SMALLEST_NUM_IMAGES

        samples = [it for group in self.loaded.values() for it in group.values()]
        notes = [note for it in samples for note in it.notes]
        notes = list(dict.fromkeys([*notes, *self.real.test.notes]))
        if self.real.num_images < SMALLEST_NUM_IMAGES:
            notes.append(
                f"There are {self.real.num_images} real images to compare with; FCD "
                f"and other scores of features need {SMALLEST_NUM_IMAGES}."
            )
        return notes

    def draw_training(self) -> "Figure":
        """Draws a line of scores over training for each source."""
        from analysis.quality.figures import draw_training

        lines = {
            label: [(it.facts.get("step", -1), self.rows[row]) for row, it in g.items()]
            for label, g in self.loaded.items()
        }
        return draw_training(lines, self.baselines, self.real)

    def draw_pairs(self) -> "Figure":
        """Draws samples of the last source beside their nearest training images."""
        from analysis.quality.figures import draw_nearest_pairs

        *_, last = list(self.loaded.values())[-1].values()
        images = last.images_uint8[: self.real.num_images]
        copies = self.real.copies(images)["pixels"]
        return draw_nearest_pairs(images, self.real.train.images_uint8, copies)


def measure(
    sources: Sequence[str | Samples],
    num_images: int = 10_000,
    checkpoint: str = "latest",
    reference: str | None = None,
    extractor: Path | None = None,
    value_range: tuple[float, float] | None = None,
) -> Scores:
    """Measures sources against real images; the arguments are the options."""
    from analysis.quality.reference import ReferenceSet

    load = partial(load_samples, num_images=num_images, value_range=value_range)
    loaded = load_all(sources, checkpoint, load)
    samples = {row: it for group in loaded.values() for row, it in group.items()}
    first = next(iter(samples.values()))
    data = DataConfig(reference) if reference else first.data or DataConfig()
    real = ReferenceSet.load(data, len(first.images_uint8), extractor)
    rows = {}
    for row, it in samples.items():
        if it.images_uint8.shape[1:] != real.test.images_uint8.shape[1:]:
            raise SampleError(
                f"{it.name}: received images of {it.size}; the real images of "
                f"{real.test.name} have {size_text(real.test.images_uint8)}; name a "
                "fitting set with --reference"
            )
        images = it.images_uint8[: real.num_images]
        copies = {f"copy_{key}": c.ratio for key, c in real.copies(images).items()}
        rows[row] = real.measure(images) | copies
    return Scores(real, loaded, rows, real.baselines())


def load_all(
    sources: Sequence[str | Samples], checkpoint: str, load: Callable[..., Samples]
) -> dict[str, dict[str, Samples]]:
    """Samples by the label of their source and the name of their row.

    `load` returns the samples of a path and a checkpoint.
    """
    loaded = [load_one(source, checkpoint, load) for source in sources]
    labels = unique_labels([next(iter(it.values())).describe() for it in loaded])
    if len(sources) == 1:
        return {labels[0]: loaded[0]}
    return {
        label: {
            f"{label} {row}" if checkpoint == "all" else label: samples
            for row, samples in rows.items()
        }
        for label, rows in zip(labels, loaded, strict=True)
    }


def load_one(
    source: str | Samples, checkpoint: str, load: Callable[..., Samples]
) -> dict[str, Samples]:
    """The samples of one source; "all" means every checkpoint of a run."""
    if isinstance(source, Samples):
        return {"samples": source}
    if checkpoint != "all":
        samples = load(source, checkpoint=checkpoint)
        step = samples.facts.get("step", -1)
        return {"samples" if step < 0 else f"step {step}": samples}
    from gan.run.manifest import available

    steps = [str(step) for step, _ in reversed(available(Path(source) / "state"))]
    if not steps:
        raise ValueError(f"{source}: --checkpoint all expects a run with checkpoints")
    return {f"step {step}": load(source, checkpoint=step) for step in steps}


def to_json(scores: Scores) -> dict[str, Any]:
    """What --json prints; numbers that are not finite become null."""
    real = scores.real
    finite = {
        row: {real.name(k): v if math.isfinite(v) else None for k, v in values.items()}
        for row, values in (scores.rows | scores.baselines).items()
    }
    facts = {"extractor": real.extractor.id, "num_images": real.num_images}
    facts["reference"] = f"{real.test.name}, {real.test.split}"
    facts["reference_digest"] = real.test.digest
    return facts | {"notes": scores.notes(), "scores": finite}


def print_scores(scores: Scores) -> None:
    """Prints the scores of features and the distances of patches, with their legends.

    Both tables have the samples first, then the floor and the noise levels.
    """
    from analysis.quality.metrics import expected_coverage

    real, rows, baselines = scores.real, scores.rows, scores.baselines
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
    for note in scores.notes():
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
