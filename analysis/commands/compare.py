"""`python -m analysis compare`: generators side by side, or before any training."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gan.run.environment import prepare_tensorflow

if TYPE_CHECKING:
    from analysis.report.comparison import Subject

NOTES = (
    "A: root mean square of the pattern, 0: none, below 0: weaker than in real images. "
    "Delta PNR: above 0 a tone, below 0 a notch. In brackets 95 % over images of this "
    "run; how a method does takes several training seeds.",
    "Predicted A: geometry takes all taps of a kernel as equal, weights replaces what "
    "is not linear by its mean slope, probe runs the real layers on flat fields.",
)
NONE_DB = -120  # float32


@click.command(name="compare")
@click.argument("sources", nargs=-1, type=click.Path(exists=True))
@click.option(
    "--n", "num_images", default=10_000, show_default=True, help="Images of each."
)
@click.option("--checkpoint", default="latest", help="Of runs: latest, best or a step.")
@click.option("--reference", help="Real images: .npz, folder or data set name.")
@click.option("--json", "as_json", is_flag=True, help="Print numbers as JSON.")
@click.option("--figure", type=click.Path(dir_okay=False), help="All in one picture.")
@click.option(
    "--figures",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write each figure there as PNG and SVG.",
)
@click.option(
    "--untrained", is_flag=True, help="Compare initial weights; takes no SOURCES."
)
@click.option(
    "--seeds",
    "num_seeds",
    type=click.IntRange(2),
    default=24,
    show_default=True,
    help="Of --untrained.",
)
def command(  # noqa: PLR0913
    sources: tuple[str, ...],
    num_images: int,
    checkpoint: str,
    reference: str | None,
    as_json: bool,
    figure: str | None,
    figures: Path | None,
    untrained: bool,
    num_seeds: int,
) -> None:
    """Compares the checkerboards in SOURCES with each other and with predictions.

    SOURCES: runs, .npz files or folders of images, results of `spectra`. Only runs have
    a network, and so predictions and a cost.
    """
    if untrained:
        if sources or figure or figures:
            raise click.UsageError("--untrained takes no sources and draws no figure")
        prepare_tensorflow()
        compare_untrained(num_seeds, as_json)
        return
    if not sources:
        raise click.UsageError("expected sources to compare, or --untrained")
    prepare_tensorflow()
    from analysis.report.comparison import load_subjects
    from analysis.report.comparison_figures import draw_comparison
    from analysis.report.plates import number_plates

    try:
        subjects = load_subjects(sources, num_images, checkpoint, reference)
        if figure:
            draw_comparison(subjects).savefig(figure, dpi=150)
        if figures:
            figures.mkdir(parents=True, exist_ok=True)
            for plate in number_plates(subjects):
                plate.save(figures)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(json.dumps([subject.as_dict() for subject in subjects], indent=2))
    else:
        print_table(subjects)


def print_table(subjects: "list[Subject]") -> None:
    """Prints two rows a subject: the last upsampling and the one before."""
    from analysis.report.comparison import EVIDENCE, basis

    title = f"against {basis(subjects[0].measurement.summary)}"
    table = new_table(
        ["", "lines", "A, grey levels", "delta PNR, dB"],
        [*EVIDENCE, "M params", "M MAC"],
        title,
    )
    for subject in subjects:
        cost = [f"{value / 1e6:.2f}" for value in subject.cost.values()] or ["-", "-"]
        for family in subject.families:
            predicted = [subject.predicted.get(name, {}) for name in EVIDENCE]
            table.add_row(
                subject.label,
                family.removeprefix("a_"),
                subject.amplitude(family).text(),
                subject.delta_pnr_db(family).text(),
                *(f"{p[family]:.2f}" if family in p else "-" for p in predicted),
                *cost,
            )
        table.add_section()
    show(table, NOTES)


def new_table(left: list[str], right: list[str], title: str) -> Any:
    """A table whose numbers stand under each other."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in left:
        table.add_column(name, overflow="fold")
    table.columns[0].min_width = 9  # "transpose" stays whole on a narrow terminal
    for name in right:
        table.add_column(name, justify="right", overflow="fold")
    return table


def show(table: Any, notes: tuple[str, ...]) -> None:
    """Prints a table, then notes; into a file or pipe as wide as it needs."""
    from analysis.commands.tables import table_console

    console = table_console()
    console.print(table)
    for note in notes:
        console.print(note, width=min(console.width, 100))


def compare_untrained(num_seeds: int, as_json: bool) -> None:
    """Measures and prints all methods before training."""
    from rich.progress import track

    from analysis.study.untrained import METHODS, NUM_IMAGES, measure_untrained

    found = {
        method: measure_untrained(method, num_seeds)
        for method in track(METHODS, "untrained", transient=True, disable=as_json)
    }
    if as_json:
        rows = {
            method: {name: values.tolist() for name, values in vars(result).items()}
            for method, result in found.items()
        }
        click.echo(json.dumps(rows, indent=2))
        return
    table = new_table(
        ["median (quartiles)"],
        ["PNR last, dB", "PNR prev, dB", "phase variance, dB", "probe, last, dB"],
        f"untrained generators, {num_seeds} seeds of {NUM_IMAGES} images",
    )
    for method, result in found.items():
        table.add_row(method, *map(quartiles, vars(result).values()))
    note = "Probe: power of the lines at 1/2 on flat fields, relative to the mean."
    show(table, (note,))


def quartiles(values: Any) -> str:
    """Median and quartiles over seeds."""
    import numpy as np

    from analysis.statistics import Interval

    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    if high < NONE_DB:
        return f"none (below {NONE_DB})"
    return Interval(middle, low, high).text()
