"""`python -m analysis report`: an HTML page about the checkerboard in pictures."""

from pathlib import Path
from typing import Any

import click

from analysis.commands import options
from gan.command_line import Command
from gan.run.environment import prepare_tensorflow


@click.command(name="report", cls=Command)
@options.sources
@options.option(
    "--out", type=options.FILE, default="report.html", help="File of the page."
)
@options.num_images
@options.checkpoint
@options.reference
@options.value_range
@options.figure_folder
def command(
    sources: tuple[str, ...], out: Path, figure_folder: Path | None, **loading: Any
) -> None:
    """Writes one HTML page about SOURCES.

    A source is a run, a file or a folder of images. The controls of the meter run
    first. If one of them fails, the page says so at its top and the exit status is 1.
    """
    prepare_tensorflow()
    from analysis.checkerboard.controls import run_controls
    from analysis.report.comparison import is_measurement, load_sources
    from analysis.report.page import make_page
    from analysis.samples import SampleError, load_reference

    for path in filter(is_measurement, sources):
        raise SampleError(f"{path}: a saved result; a report needs the images")
    for folder in filter(None, (out.parent, figure_folder)):
        folder.mkdir(parents=True, exist_ok=True)
    measured = load_sources(sources, **loading)
    chosen = loading["reference"], measured[0].samples, loading["value_range"]
    real = load_reference(*chosen)
    controls = list(run_controls(real.images_uint8, real.labels, real_only=True))
    page, figures = make_page(measured, real, controls)
    out.write_text(page, encoding="utf-8")
    if figure_folder:
        for figure in figures:
            figure.save(figure_folder)
    click.echo(f"{out}: {len(measured)} sources, {len(figures)} figures")
    if failed := [control.name for control in controls if not control.passed]:
        raise click.ClickException(f"failed controls: {', '.join(failed)}")
