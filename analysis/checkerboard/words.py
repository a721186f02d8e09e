"""The sentences that follow from readings; every command and page prints these.

A pattern is called visible above VISIBLE_LEVELS grey levels (root mean square of the
whole pattern in an image of usual contrast); one level or less cannot be seen.
"""

import math
from collections.abc import Sequence

from analysis.checkerboard.meter import (
    VISIBLE_LEVELS,
    Estimate,
    GridReading,
    Reading,
)

MIN_DB = -120.0  # of a printed gain; float32 transforms resolve no smaller one
VISIBLE, TOO_WEAK, NONE_FOUND = "visible", "too weak to be seen", "none found"
ADVICE = (
    "Train longer, since a pattern often fades with training; if it stays, use a "
    "resize (--upsample resize), a kernel size that is a multiple of the stride, or "
    "--upsample transpose-balanced."
)
CAUTION = (  # beside predictions; from docs/method.md, "Predicted and measured"
    "For trained generators, the gain of the probe is within a factor of 5 for "
    "ordinary transposed and sub-pixel convolutions. Resizes and balanced kernels get "
    "0 and have some. Geometry, weights and predicted fixed patterns are not reliable."
)


def decibels(percent: float) -> float:
    """20 log10 of a gain in percent: 1 % is -40 dB; no less than MIN_DB."""
    return max(20 * math.log10(max(percent, 1e-12) / 100), MIN_DB)


def stage_name(stage: int) -> str:
    """The upsampling that a stage number means."""
    if stage == 1:
        return "the last upsampling"
    if stage == 2:
        return "the upsampling before the last"
    return f"the upsampling {stage - 1} stages before the last"


def is_visible(reading: GridReading) -> bool:
    """Whether the whole pattern at a grid frequency is above VISIBLE_LEVELS."""
    return reading.pattern_levels > VISIBLE_LEVELS


def strongest(readings: Sequence[GridReading]) -> list[GridReading]:
    """Of each stage with a pattern the grid frequency where it is strongest."""
    found: dict[int, GridReading] = {}
    for reading in readings:
        best = found.get(reading.frequency.stage)
        if reading.found and (not best or reading.pattern_levels > best.pattern_levels):
            found[reading.frequency.stage] = reading
    return [found[stage] for stage in sorted(found)]


def verdict(readings: Sequence[GridReading]) -> str:
    """The strongest pattern among some readings as VISIBLE, TOO_WEAK or NONE_FOUND."""
    patterns = strongest(readings)
    if not patterns:
        return NONE_FOUND
    return VISIBLE if any(map(is_visible, patterns)) else TOO_WEAK


def gain_text(percent: Estimate, *, interval: bool = True) -> str:
    """A gain in dB, "-34 (-35 … -33)", or "< -87" if it may be 0."""
    if percent.low <= 0:
        return f"< {decibels(percent.high):.0f}"
    value = f"{decibels(percent.value):.0f}"
    if not interval:
        return value
    return f"{value} ({decibels(percent.low):.0f} … {decibels(percent.high):.0f})"


def levels_text(levels: Estimate) -> str:
    """Grey levels with their interval: "1.74 (1.70 … 1.79)"."""
    return f"{levels.value:.2f} ({levels.low:.2f} … {levels.high:.2f})"


def describe(
    readings: Sequence[GridReading], *, known_strides: bool = True
) -> list[str]:
    """Says in sentences what was found, how strong it is, and what to do.

    Args:
        readings: of one set of images.
        known_strides: whether the strides are those of the model that made the images;
            else periods are named and not upsamplings.
    """
    patterns = strongest(readings)
    if not patterns:
        return [nothing_found(readings)]
    lines = [pattern_sentence(p, known_strides=known_strides) for p in patterns]
    if any(map(is_visible, patterns)):
        lines.append(ADVICE)
    return lines


def nothing_found(readings: Sequence[GridReading]) -> str:
    """No pattern, and from which size on one would have been found."""
    corner = next(
        r for r in readings if r.frequency.stage == 1 and not r.frequency.on_axis
    )
    gain, fixed = corner.imaging_gain_percent.limit, corner.fixed_pattern_levels.limit
    return (
        "No pattern locked to the pixel grid was found. At "
        f"{corner.frequency.name}, one of more than {gain:.2g} % of the contrast "
        f"({decibels(gain):.0f} dB) or {fixed:.2g} grey levels would have been."
    )


def pattern_sentence(reading: GridReading, *, known_strides: bool) -> str:
    """One pattern: where, which stage, how strong, visible or not, real images."""
    frequency = reading.frequency
    kind = "checkerboard" if not frequency.on_axis else "stripe pattern"
    cause = (
        f"locked to {stage_name(frequency.stage)}"
        if known_strides
        else f"with a period of {frequency.period} pixels"
    )
    parts = []
    gain, fixed = reading.imaging_gain_percent, reading.fixed_pattern_levels
    if gain.found:
        parts.append(
            f"it follows the content with {gain.samples.value:.2g} % of its contrast "
            f"({decibels(gain.samples.value):.0f} dB; real images "
            f"{at_most(gain)})"
        )
    if fixed.found:
        parts.append(
            f"its fixed part is {fixed.samples.value:.2g} grey levels "
            f"(real images {fixed.real.value:.2g})"
        )
    for free, where in (
        (reading.free_pattern_levels, ""),
        (reading.free_chroma_levels, " in colour"),
    ):
        if free and free.found:
            parts.append(
                f"{free.samples.value:.2g} grey levels{where} have a sign that varies "
                "from image to image"
            )
    return (
        f"A {kind} {cause} was found at {frequency.name}{place(reading)}: "
        f"{'; '.join(parts)}. With {reading.pattern_levels:.2g} grey levels in all it "
        f"is {verdict([reading])}."
    )


def at_most(gain: Reading) -> str:
    """A gain of real images in words: below its upper limit, or its value."""
    if gain.real.low > 0:
        return f"{decibels(gain.real.value):.0f} dB"
    return f"below {decibels(gain.real.high):.0f} dB"


def place(reading: GridReading) -> str:
    """Names a colour channel, or chroma, that holds most of a pattern."""
    if not reading.parts:
        return ""
    sizes = {name: math.hypot(*pair) for name, pair in reading.parts.items()}
    if sizes["chroma"] > 2 * sizes["luminance"]:
        channels = sorted(("red", "green", "blue"), key=lambda name: sizes[name])
        if sizes[channels[-1]] > 2 * sizes[channels[-2]]:
            return f" in the {channels[-1]} channel"
        return " in colour (chroma)"
    return ""
