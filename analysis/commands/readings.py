"""Tables of readings, for the commands that print them."""

from rich.table import Table

from analysis.checkerboard.measurement import Measurement
from analysis.checkerboard.meter import GridReading, Reading
from analysis.checkerboard.words import decibels, gain_text, levels_text
from analysis.commands.tables import table_console

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


def print_measurement(result: Measurement) -> None:
    """Prints what was found in words, then all readings."""
    console = table_console()
    for sentence in result.sentences:
        console.print(sentence, markup=False)
    console.print(readings_table(result))
    console.print(LEGEND, markup=False)
    sides = result.facts["samples"], result.facts["reference"]
    for note in [note for side in sides for note in side["notes"]]:
        console.print(f"Note: {note}", markup=False)


def readings_table(result: Measurement) -> Table:
    """One row for each grid frequency."""
    sides = result.facts["samples"], result.facts["reference"]
    title = " against ".join(f"{side['name']} ({side['size']})" for side in sides)
    table = Table(title=title)
    known = result.facts["known_strides"]
    table.add_column("frequency")
    table.add_column("stage" if known else "period, px")
    for name in (
        "gain, dB",
        "real",
        "limit",
        "share",
        "fixed, levels",
        "real",
        "limit",
    ):
        table.add_column(name, justify="right")
    for name in ("free, levels", "real", "limit"):
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
            *free_levels(reading),
        )
    return table


def levels(reading: Reading) -> list[str]:
    """Samples with interval, real images, limit; in grey levels."""
    return [
        levels_text(reading.samples) + "*" * reading.found,
        f"{reading.real.value:.2f}",
        f"{reading.limit:.2f}",
    ]


def free_levels(reading: GridReading) -> list[str]:
    """The free pattern; nothing on the axes, where it is not read."""
    free = reading.free_pattern_levels
    return levels(free) if free else ["-", "-", "-"]
