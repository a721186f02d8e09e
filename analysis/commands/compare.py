"""`python -m analysis compare`: the checkerboards of several sources side by side."""

import json
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.markup import escape
from rich.table import Table

from analysis.checkerboard.meter import Reading
from analysis.checkerboard.words import CAUTION, decibels, gain_text, verdict
from analysis.commands import options
from analysis.commands.tables import table_console
from analysis.report.comparison import (
    PREDICTORS,
    ComparedSource,
    conditions,
    load_sources,
)
from gan.command_line import Command, print_table
from gan.run.environment import prepare_tensorflow

ABOUT_PREDICTIONS = (
    "Predicted: geometry takes all taps of a kernel as equal. Weights takes the real "
    "kernels, and replaces what is not linear by its mean slope. Probe runs the real "
    f"layers on constant maps. {CAUTION}"
)
LEGEND = (
    "One row per upsampling, at the frequency where its pattern is strongest. Gain: "
    "what follows the content, as a share of it. Fixed: what is the same in every "
    "image. Free: what has a sign of its own in each image. Both in grey levels. *: a "
    "pattern, significant and above the limit. In brackets: 95 % intervals over images "
    "of this source; a statement about a method needs several training seeds."
)


@click.command(name="compare", cls=Command)
@options.sources
@options.num_images
@options.checkpoint
@options.reference
@options.value_range
@options.as_json
@click.option("--figure", type=options.FILE, help="Write all numbers as one figure.")
@options.figure_folder
def command(
    sources: tuple[str, ...],
    as_json: bool,
    figure: Path | None,
    figure_folder: Path | None,
    **loading: Any,
) -> None:
    """Compares the checkerboards of SOURCES with each other and with predictions.

    A source is a run, a file or a folder of images, or a result of `spectra`.
    Only a run has a generator, and with it predictions and a cost.
    """
    prepare_tensorflow()
    from analysis.report.figures import comparison_figures, draw_comparison

    measured = load_sources(sources, **loading)
    if figure:
        draw_comparison(measured).savefig(figure, dpi=150)
    if figure_folder:
        figure_folder.mkdir(parents=True, exist_ok=True)
        for one in comparison_figures(measured):
            one.save(figure_folder)
    if as_json:
        click.echo(json.dumps([source.as_dict() for source in measured], indent=2))
    else:
        print_comparison(measured)


def print_comparison(sources: list[ComparedSource]) -> None:
    """Prints what was found in each source in words, then the table."""
    console = table_console()
    width = min(console.width, 100)
    for source in sources:
        console.print(f"[bold]{escape(source.label)}[/]", width=width)
        for sentence in source.measurement.sentences:
            console.print(f"  {sentence}", markup=False, width=width)
        for note in source.facts["notes"]:
            console.print(f"  Note: {note}", markup=False, width=width)
    table = comparison_table(sources)
    periods = [str(column.header) for column in table.columns[1:2]]
    print_table(console, table, "M params", "M MAC", "free", *periods, "pattern")
    console.print(LEGEND, markup=False, width=width)
    if any(source.predicted for source in sources):
        console.print(ABOUT_PREDICTIONS, markup=False, width=width)


def comparison_table(sources: list[ComparedSource]) -> Table:
    """A row per source and stage: samples, real images, limit and predictions."""
    known = [source.strides_are_known for source in sources]
    stage = "stage" if all(known) else "stage or\nperiod" if any(known) else "period"
    title = escape(f"against {conditions(sources[0])}")
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0)
    table.add_column("", overflow="fold", max_width=16)
    for name in (stage, "at", "", "gain, dB", "fixed", "free"):
        table.add_column(name, no_wrap=True)
    table.add_column("pattern", max_width=10)
    for name in ("M params", "M MAC"):
        table.add_column(name, justify="right")
    for source in sources:
        cost = [f"{value / 1e6:.2f}" for value in source.cost.values()] or ["-", "-"]
        for index in source.one_per_stage():
            table.add_row(*reading_cells(source, index), *cost)
        table.add_section()
    return table


def reading_cells(source: ComparedSource, index: int) -> list[str]:
    """Cells of one reading; those of numbers have a line for each line's name."""
    reading = source.readings[index]
    frequency = reading.frequency
    gain, fixed = reading.imaging_gain_percent, reading.fixed_pattern_levels
    lines = [
        ("samples", gain_text(gain.samples) + "*" * gain.found, levels_of(fixed)),
        ("real", gain_text(gain.real, interval=False), f"{fixed.real.value:.2f}"),
        ("limit", f"{decibels(gain.limit):.0f}", f"{fixed.limit:.2f}"),
    ]
    for name in PREDICTORS:
        if name in source.predicted:
            found = source.predicted[name][index]
            gain_db = gain_text(found.imaging_gain_percent, interval=False)
            lines.append((name, gain_db, f"{found.fixed_pattern_levels.value:.2f}"))
    free = reading.free_pattern_levels
    return [
        escape(source.label),
        str(frequency.stage) if source.strides_are_known else f"{frequency.period} px",
        frequency.name,
        *("\n".join(column) for column in zip(*lines, strict=True)),
        f"{levels_of(free)}\n{free.real.value:.2f}\n{free.limit:.2f}" if free else "-",
        verdict([reading]),
    ]


def levels_of(reading: Reading) -> str:
    """Grey levels of the samples, with a star if they are a pattern."""
    return f"{reading.samples.value:.2f}" + "*" * reading.found
