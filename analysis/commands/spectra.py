"""`python -m analysis spectra`: is there a checkerboard in one set of samples?"""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich import box
from rich.table import Table

from analysis.checkerboard.measurement import Measurement, measure_samples
from analysis.checkerboard.meter import Reading
from analysis.checkerboard.words import decibels, gain_text, levels_text
from analysis.commands import options
from analysis.commands.tables import table_console
from analysis.samples import load_reference, load_samples
from gan.command_line import Command, RunPath, print_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEGEND = (
    "Stage: 1 is the last upsampling. Gain: what the low frequencies of an image leave "
    "around this frequency, as a share of their own size (image rejection). Share: how "
    "much of the power there that explains. Fixed: root mean square of what is the "
    "same in every image. Free: of what has a sign of its own in each image; below 0 a "
    "lack of power. In brackets: 95 % intervals over images. *: a pattern, significant "
    "after correction for the whole table and above the limit. Real images have edges "
    "of their own at horizontal and vertical frequencies (a 0 in the name), so that "
    "the limits are higher there."
)


@click.command(name="spectra", cls=Command)
@click.argument("source", type=RunPath(exists=True))
@options.num_images
@options.checkpoint
@options.reference
@options.value_range
@click.option(
    "--strides",
    metavar="S,S,...",
    help="Strides of the upsamplings, first to last. Default: those of the run's "
    "generator; for other images the periods 2, 4 and 8 are tried.",
)
@click.option("--seed", default=0, help="Seed of the noise that the meter is tried on.")
@click.option(
    "--out", type=options.FILE, help="Write all readings to this .npz, for `compare`."
)
@click.option("--figure", type=options.FILE, help="Draw the spectra here.")
@options.as_json
def command(  # noqa: PLR0913
    source: str,
    num_images: int,
    checkpoint: str,
    reference: str | None,
    value_range: tuple[float, float] | None,
    strides: str | None,
    seed: int,
    out: Path | None,
    figure: Path | None,
    as_json: bool,
) -> None:
    """Looks for a checkerboard in SOURCE: a run, a file or a folder of images.

    Without --reference the real images are those the run was trained on, else the
    bundled Fashion-MNIST. Half of them are the reference; the other half is read as the
    samples are, and stands beside every reading.
    """
    given = parse_strides(strides) if strides else None
    samples = load_samples(source, num_images, checkpoint, value_range)
    real = load_reference(reference, samples, value_range)
    result = measure_samples(samples, real, given, seed)
    if out:
        result.save(out)
    if figure:
        draw(result).savefig(figure, dpi=150)
    if as_json:
        click.echo(json.dumps(result.as_dict(), indent=2))
    else:
        print_measurement(result)


def parse_strides(text: str) -> tuple[int, ...]:
    """Reads "2,2"."""
    parts = text.split(",")
    strides = tuple(int(part) for part in parts if part.isdecimal())
    if len(strides) < len(parts) or math.prod(strides) < 2:
        raise ValueError(
            f"--strides: received {text!r}, expected numbers like 2,2, one above 1"
        )
    return strides


def draw(result: Measurement) -> "Figure":
    """Draws the spectra of samples and real images."""
    from analysis.checkerboard.figures import draw_spectra

    power, real_power = result.arrays["power"], result.arrays["real_power"]
    name = result.facts["samples"]["name"]
    return draw_spectra(power, real_power, result.layout, name)


def print_measurement(result: Measurement) -> None:
    """Prints what was found in words, then all readings."""
    console = table_console()
    for sentence in result.sentences:
        console.print(sentence, markup=False)
    print_table(
        console,
        readings_table(result),
        *("share", "real", "limit", "free, levels", "stage", "period, px"),
    )
    console.print(LEGEND, markup=False)
    for side in ("samples", "reference"):
        for note in result.facts[side]["notes"]:
            console.print(f"Note: {note}", markup=False)


def readings_table(result: Measurement) -> Table:
    """One row for each grid frequency."""
    sides = result.facts["samples"], result.facts["reference"]
    title = " against ".join(f"{side['name']} ({side['size']})" for side in sides)
    known = result.facts["known_strides"]
    headings = "frequency", "stage" if known else "period, px"
    table = Table(*headings, title=title, box=box.SIMPLE_HEAD)
    columns = ["gain, dB", "real", "limit", "share", "fixed, levels", "real", "limit"]
    for name in (*columns, "free, levels", "real", "limit"):
        table.add_column(name, justify="right")
    for reading in result.readings:
        frequency, gain = reading.frequency, reading.imaging_gain_percent
        table.add_row(
            frequency.name,
            str(frequency.stage if known else frequency.period),
            gain_text(gain.samples) + "*" * gain.found,
            gain_text(gain.real, interval=False),
            f"{decibels(gain.limit):.0f}",
            f"{reading.locked_share.samples.value:.3f}",
            *levels(reading.fixed_pattern_levels),
            *levels(reading.free_pattern_levels),
        )
    return table


def levels(reading: Reading | None) -> list[str]:
    """Samples with interval, real images, limit; "-" for the free part on an axis."""
    if not reading:
        return ["-", "-", "-"]
    samples = levels_text(reading.samples) + "*" * reading.found
    return [samples, f"{reading.real.value:.2f}", f"{reading.limit:.2f}"]
