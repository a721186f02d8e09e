"""`python -m analysis compare`: the checkerboards of several sources side by side."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from analysis.commands import options
from gan.run.environment import prepare_tensorflow

if TYPE_CHECKING:
    from analysis.report.comparison import Source

NOTES = (
    "A is the root mean square of the pattern. It is 0 without a pattern, and below 0 "
    "if the images are weaker at these frequencies than real ones. Delta PNR is above "
    "0 if the pattern is stronger than in real images. Brackets hold 95 % intervals "
    "over images of this run; a statement about a method needs several training seeds.",
    "Predicted A: geometry takes all taps of a kernel as equal. Weights takes the real "
    "kernels, and replaces what is not linear by its mean slope. Probe runs the real "
    "layers on flat fields.",
)


@click.command(name="compare")
@click.argument("sources", nargs=-1, required=True, type=click.Path(exists=True))
@options.num_images
@options.checkpoint
@options.reference
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@click.option(
    "--figure",
    type=click.Path(dir_okay=False),
    help="Write all numbers as one figure.",
)
@options.figure_folder
def command(
    sources: tuple[str, ...],
    num_images: int,
    checkpoint: str,
    reference: str | None,
    as_json: bool,
    figure: str | None,
    figure_folder: Path | None,
) -> None:
    """Compares the checkerboards of SOURCES with each other and with predictions.

    A source is a run, an .npz file or a folder of images, or a result of `spectra`.
    Only a run has a generator, and with it predictions and a cost.
    """
    try:
        prepare_tensorflow()
        from analysis.report.comparison import load_sources
        from analysis.report.figures import comparison_figures, draw_comparison

        measured = load_sources(sources, num_images, checkpoint, reference)
        if figure:
            draw_comparison(measured).savefig(figure, dpi=150)
        if figure_folder:
            figure_folder.mkdir(parents=True, exist_ok=True)
            for one in comparison_figures(measured):
                one.save(figure_folder)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(json.dumps([source.as_dict() for source in measured], indent=2))
    else:
        print_table(measured)


def print_table(sources: "list[Source]") -> None:
    """Prints a row per source and upsampling, then how to read it."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from analysis.commands.tables import table_console
    from analysis.report.comparison import PREDICTORS, conditions

    title = f"against {conditions(sources[0])}"
    table = Table(title=escape(title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("", "pattern of", "A, grey levels", "delta PNR, dB"):
        table.add_column(name, overflow="fold")
    table.columns[0].min_width = 9  # "transpose" stays whole on a narrow terminal
    for name in (*PREDICTORS, "M params", "M MAC"):
        table.add_column(name, justify="right", overflow="fold")
    for source in sources:
        cost = [f"{value / 1e6:.2f}" for value in source.cost.values()] or ["-", "-"]
        for reading in source.readings:
            predicted = (reading.predicted.get(name) for name in PREDICTORS)
            table.add_row(
                source.label,
                reading.upsampling,
                reading.amplitude.text(),
                reading.delta_pnr_db.text(),
                *("-" if value is None else f"{value:.2f}" for value in predicted),
                *cost,
            )
        table.add_section()
    console = table_console()
    console.print(table)
    for note in NOTES:
        console.print(note, width=min(console.width, 100))
