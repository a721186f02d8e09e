"""`python -m analysis quality`: how far samples are from real images."""

import json
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gan.run.environment import prepare_tensorflow

if TYPE_CHECKING:
    from analysis.quality.reference import Copies, Scores, Yardstick
    from analysis.samples import Samples

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
LEGEND = (
    "Aim: FCD and KCD at the floor (real training images), density 1, coverage "
    "{coverage:.3f}, diversity 1, duplicates and class TV 0, copies 1 (below 0.7: "
    "memorised). FCD is no FID: it comes from the feature net {id} and is never "
    "compared with what another net or another number of images gave."
)


@click.command(name="quality")
@click.argument("sources", nargs=-1, required=True, type=click.Path(exists=True))
@click.option(
    "--checkpoint", default="latest", help="Of a run: latest, best, a step, or all."
)
@click.option("--n", "num_images", default=10_000, show_default=True, help="Images.")
@click.option("--reference", help="Real data set; default: the run's, Fashion-MNIST.")
@click.option(
    "--extractor",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Feature net of tools/train_extractor.py, or Keras' InceptionV3 (.h5).",
)
@click.option("--json", "as_json", is_flag=True, help="Print numbers as JSON.")
@click.option("--figure", type=click.Path(dir_okay=False), help="Plot over training.")
@click.option("--pairs", type=click.Path(dir_okay=False), help="Picture of copies.")
def command(  # noqa: PLR0913
    sources: tuple[str, ...],
    checkpoint: str,
    num_images: int,
    reference: str | None,
    extractor: Path | None,
    as_json: bool,
    figure: str | None,
    pairs: str | None,
) -> None:
    """Measures SOURCES, runs, .npz files or folders of images, against test images.

    All are measured against the real images of the first. The floor (real training
    images) and a ladder of noise stand beside every score. --pairs draws the 16
    samples of the last source that are nearest to a training image, above that image.

    With --extractor and Keras' ImageNet weights of InceptionV3 without its top (.h5),
    features are Inception's 2048; on a CPU that takes hours at 10,000 images, and the
    weights are still not those of published FIDs.

    For an Inception FID as papers print it, make 10,000 PNG files with `python -m gan
    sample RUN --n 10000 --out FOLDER` and give the folder to an outside tool, such as
    clean-fid or torch-fidelity, with 10,000 test images.
    """
    prepare_tensorflow()
    from analysis.quality.figures import draw_pairs, draw_training

    try:
        loaded = load_all(sources, num_images, checkpoint)
        yardstick = make_yardstick(loaded, reference, extractor)
        rows, copies = measure(yardstick, loaded)
        anchors = yardstick.anchors()
        if figure:
            steps = [samples.facts.get("step", 0) for samples in loaded.values()]
            points = list(zip(steps, rows.values(), strict=True))
            draw_training(points, anchors, yardstick).savefig(figure, dpi=150)
        if pairs:
            images = list(loaded.values())[-1].images_uint8
            train = yardstick.train.images_uint8
            draw_pairs(images, train, copies).savefig(pairs, dpi=120)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None
    notes = [note for samples in loaded.values() for note in samples.notes]
    notes = list(dict.fromkeys([*notes, *yardstick.test.notes]))
    if as_json:
        click.echo(json.dumps(record(yardstick, rows | anchors, notes), indent=2))
    else:
        print_table(yardstick, rows, anchors, notes)


def load_all(
    sources: "tuple[str, ...]", num_images: int, checkpoint: str
) -> "dict[str, Samples]":
    """Returns samples by name; of several sources, by what tells their names apart."""
    if len(sources) == 1:
        return load(sources[0], num_images, checkpoint)
    names = [str(Path(source)) for source in sources]
    common = len(re.sub("[^-/]*$", "", os.path.commonprefix(names)))
    return {
        " ".join([name[common:], *([row] if checkpoint == "all" else [])]): samples
        for name in dict.fromkeys(names)
        for row, samples in load(name, num_images, checkpoint).items()
    }


def load(source: str, num_images: int, checkpoint: str) -> "dict[str, Samples]":
    """Returns samples by name; "all" means each checkpoint that a run has kept."""
    from analysis.samples import load_samples

    if checkpoint != "all":
        samples = load_samples(source, num_images, checkpoint)
        step = samples.facts.get("step", -1)
        return {"samples" if step < 0 else f"step {step}": samples}
    from gan.run.checkpoint import available

    steps = [str(step) for step, _ in reversed(available(Path(source) / "state"))]
    if not steps:
        raise ValueError(f"{source}: --checkpoint all expects a run with checkpoints")
    return {f"step {step}": load_samples(source, num_images, step) for step in steps}


def make_yardstick(
    loaded: "dict[str, Samples]", reference: str | None, extractor: Path | None
) -> "Yardstick":
    """Takes as many real images as there are samples."""
    from analysis.quality.reference import Yardstick
    from config.schema import DataConfig

    samples = next(iter(loaded.values()))
    data = DataConfig(reference) if reference else samples.data or DataConfig()
    return Yardstick.of(data, len(samples.images_uint8), extractor)


def measure(
    yardstick: "Yardstick", loaded: "dict[str, Samples]"
) -> "tuple[dict[str, Scores], Copies]":
    """Returns the scores of all samples, and the copies in pixels of the last ones."""
    rows = {}
    for name, samples in loaded.items():
        images = samples.images_uint8[: yardstick.num_images]
        scores, copies = yardstick.score(images), yardstick.copies(images)
        rows[name] = scores | {f"copy_{key}": m.ratio for key, m in copies.items()}
    return rows, copies["pixels"]


def record(
    yardstick: "Yardstick", rows: "dict[str, Scores]", notes: list[str]
) -> dict[str, Any]:
    """Returns what --json prints; the name of each number says its ruler."""
    return {
        "extractor": yardstick.extractor.id,
        "num_images": yardstick.num_images,
        "reference": f"{yardstick.test.name}, {yardstick.test.split}",
        "reference_digest": yardstick.test.digest,
        "notes": notes,
        "scores": {
            row: {
                yardstick.name(key): value if math.isfinite(value) else None
                for key, value in scores.items()
            }
            for row, scores in rows.items()
        },
    }


def print_table(
    yardstick: "Yardstick",
    rows: "dict[str, Scores]",
    anchors: "dict[str, Scores]",
    notes: list[str],
) -> None:
    """Prints samples, below them floor and ladder, then how to read them."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from analysis.quality.metrics import expected_coverage

    title = f"{yardstick.name('fcd')}: {yardstick.num_images} images against as many"
    title += f" of {yardstick.test.name}, {yardstick.test.split}"
    table = Table(title=title, box=SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("", no_wrap=True)
    keys = [key for key in COLUMNS if any(key in scores for scores in rows.values())]
    for key in keys:
        table.add_column(COLUMNS[key][0], justify="right")
    for group in (rows, anchors):
        for name, scores in group.items():
            milli = {key: 1000 * scores[key] for key in ("kcd", "kcd_se")}
            values = scores | milli
            cells = [
                COLUMNS[k][1].format(values[k]) if k in values else "" for k in keys
            ]
            table.add_row(name, *cells)
        table.add_section()
    console = Console()
    if not console.is_terminal:  # a file or pipe cuts no number
        console = Console(width=max(console.width, 160))
    console.print(table)
    coverage = expected_coverage(yardstick.num_images)
    console.print(LEGEND.format(coverage=coverage, id=yardstick.extractor.id))
    for note in notes:
        console.print(f"Note: {note}")
