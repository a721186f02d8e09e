"""Sets of images whose answer is known: what the meter must say about them.

Real images with a planted pattern, which one named reading must find; real images
changed as `nuisances` does, and real images as they are, for which nothing may be
found. `validate` runs each once, `validate --full` as many times as rates need.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import NamedTuple

import numpy as np
import scipy.ndimage

from analysis.checkerboard.measurement import RealImages, read_real_images
from analysis.checkerboard.meter import GridReading
from analysis.checkerboard.moments import measure_moments
from analysis.checkerboard.nuisances import nuisances
from analysis.samples import make_samples
from gan.data.images import round_to_uint8

NUM_IMAGES = 5000  # of a draw
MAX_REFERENCE = 20_000  # real images of each half
HEADROOM = 0.9  # of the range, so that a planted pattern is not clipped
FIELD_SIZE = 64  # pixels of made-up images with more doublings
HALF, QUARTER = Fraction(1, 2), Fraction(1, 4)
Place = tuple[Fraction, Fraction]
CORNER: Place = (HALF, HALF)
GAIN, FIXED, FREE = (
    "imaging_gain_percent",
    "fixed_pattern_levels",
    "free_pattern_levels",
)


class Control(NamedTuple):
    """One check of a meter: what it said, and what it had to say."""

    name: str
    passed: bool
    measured: str
    expected: str


@dataclass(frozen=True)
class Planted:
    """A known pattern.

    Attributes:
        plant: (levels (N, H, W, C), checkerboard of +1 and -1 (H, W, 1), random
            generator) to levels with the pattern.
        reading: which must find it.
        place: at which grid frequency.
        value: what that reading must show; None: only found.
        tolerance: relative.
    """

    plant: Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
    reading: str
    place: Place = CORNER
    value: float | None = None
    tolerance: float = 0.1


def columns(levels: np.ndarray) -> np.ndarray:
    """Column number of each pixel: (1, width, 1)."""
    return np.arange(levels.shape[2])[None, :, None]


def border(levels: np.ndarray) -> np.ndarray:
    """True in the outer 4 pixels: (height, width, 1)."""
    inside = np.zeros((*levels.shape[1:3], 1), bool)
    inside[4:-4, 4:-4] = True
    return ~inside


def local_contrast(levels: np.ndarray) -> np.ndarray:
    """Levels less their surroundings (a Gaussian of 1 pixel)."""
    return levels - scipy.ndimage.gaussian_filter(levels, (0, 1, 1, 0))


PLANTED = {
    "1 level everywhere": Planted(lambda x, c, r: x + c, FIXED, value=1.0),
    "1 % of the intensity": Planted(
        lambda x, c, r: x * (1 + 0.01 * c), GAIN, value=1.0
    ),
    "10 % of signed local contrast": Planted(
        lambda x, c, r: x + 0.1 * c * local_contrast(x), GAIN
    ),
    "4 levels, sign differs between halves": Planted(
        lambda x, c, r: x + 4 * c * np.where(columns(x) < x.shape[2] // 2, 1, -1), FIXED
    ),
    "8 levels in the outer 4 pixels": Planted(
        lambda x, c, r: x + 8 * c * border(x), FIXED
    ),
    "4 levels in bright parts": Planted(lambda x, c, r: x + 4 * c * (x > 128), GAIN),
    "3 levels in the left half": Planted(
        lambda x, c, r: x + 3 * c * (columns(x) < x.shape[2] // 2), FIXED
    ),
    "3 levels, random sign per image": Planted(
        lambda x, c, r: x + 3 * c * r.choice([-1.0, 1.0], (len(x), 1, 1, 1)),
        FREE,
        value=3.0,
        tolerance=0.15,
    ),
    "2 levels in columns": Planted(
        lambda x, c, r: x + 2 * (1 - 2 * (columns(x) % 2)), FIXED, (Fraction(0), HALF)
    ),
}


def prepare(
    images: np.ndarray, strides: tuple[int, ...], labels: np.ndarray | None = None
) -> RealImages:
    """Reads the first real images, of which the draws are made as well."""
    images = images[: 2 * MAX_REFERENCE]
    labels = None if labels is None else labels[: 2 * MAX_REFERENCE]
    real = make_samples(images, "real images of the controls", "data set", {})
    return read_real_images(replace(real, labels=labels), strides)


def draw(number: int, real: RealImages, random: np.random.Generator) -> np.ndarray:
    """Some images that are not of the reference, without repetition."""
    images = real.second_half
    return images[random.permutation(len(images))[:number]]


def read_images(images: np.ndarray, real: RealImages) -> list[GridReading]:
    """All readings of a set of images."""
    return real.read(measure_moments(images, real.reference.layout.strides))


def run_controls(
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    num_draws: int = 1,
    seed: int = 0,
    real_only: bool = False,
) -> Iterator[Control]:
    """Runs all controls of the meter.

    Args:
        images: real images, uint8 (N, H, W, C), N at least 1000.
        labels: int (N,), their classes; None: not known.
        num_draws: repetitions of each control with other images and noise.
        seed: of them.
        real_only: whether to leave out the made-up images, which test the meter at
            other sizes and in colour whatever the real images are.
    """
    random = np.random.default_rng(seed)
    real = prepare(images, (2, 2), labels)
    yield null_control(real, num_draws, random)
    yield from nuisance_controls(real, num_draws, random)
    for name, planted in PLANTED.items():
        yield planted_control(name, planted, real, num_draws, random)
    if not real_only:
        yield from period_controls(random)
        yield from colour_controls(random)


def plant(
    planted: Planted, images: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Adds a pattern to images that leave room for it: uint8 of the same shape."""
    levels = (images.astype(np.float32) - 127.5) * HEADROOM + 127.5
    rows, cols = np.indices(images.shape[1:3])
    checker = np.asarray(1 - 2 * ((rows + cols) % 2))[..., np.newaxis]
    levels = planted.plant(levels, checker, random)
    # Without dither, rounding would take weak patterns out of flat parts.
    levels += random.uniform(-0.5, 0.5, levels.shape)
    return round_to_uint8(levels)


def null_control(
    real: RealImages, num_draws: int, random: np.random.Generator
) -> Control:
    """Real images against real images: nothing may be found."""
    false = sum(
        any(
            reading.found
            for reading in read_images(draw(NUM_IMAGES, real, random), real)
        )
        for _ in range(num_draws)
    )
    return rate_control("real images", false, num_draws)


def nuisance_controls(
    real: RealImages, num_draws: int, random: np.random.Generator
) -> Iterator[Control]:
    """Changed real images: nothing may be found, in at most 5 % of the draws."""
    false: dict[str, int] = {}
    for _ in range(max(1, num_draws // 10)):
        images = draw(NUM_IMAGES, real, random)
        for name, changed in nuisances(images, None, int(random.integers(2**31))):
            found = any(reading.found for reading in read_images(changed, real))
            false[name] = false.get(name, 0) + found
    for name, number in false.items():
        yield rate_control(name, number, max(1, num_draws // 10))


def rate_control(name: str, false: int, num_draws: int) -> Control:
    """At most 5 % of the draws, or one of them, may show a pattern."""
    return Control(
        name,
        false <= 0.05 * num_draws + (num_draws > 1),
        f"a pattern in {false} of {num_draws} draws",
        "none (5 % of draws by chance)",
    )


def at(readings: list[GridReading], place: Place) -> GridReading:
    """The reading at one grid frequency."""
    return next(r for r in readings if (r.frequency.row, r.frequency.column) == place)


def planted_control(
    name: str,
    planted: Planted,
    real: RealImages,
    num_draws: int,
    random: np.random.Generator,
) -> Control:
    """A planted pattern: found by the reading that is meant to, as strong as it is."""
    found, inside, values = 0, 0, []
    for _ in range(num_draws):
        images = plant(planted, draw(NUM_IMAGES, real, random), random)
        reading = getattr(at(read_images(images, real), planted.place), planted.reading)
        found += reading.found
        values.append(reading.samples.value)
        if planted.value is not None:
            inside += reading.samples.low <= planted.value <= reading.samples.high
    mean = float(np.mean(values))
    close = (
        planted.value is None
        or abs(mean - planted.value) <= planted.tolerance * planted.value
    )
    measured = f"{planted.reading} {mean:.3g}, found in {found} of {num_draws} draws"
    expected = "found"
    if planted.value is not None:
        measured += f", interval holds the value in {inside}"
        expected += f", {planted.value:g} within {planted.tolerance:.0%}"
    return Control(name, bool(found >= 0.95 * num_draws and close), measured, expected)


def random_fields(
    number: int, channels: int, random: np.random.Generator
) -> np.ndarray:
    """Made-up images with the spectrum of natural ones: uint8 (N, 64, 64, C)."""
    side = FIELD_SIZE
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    amplitude = 1 / np.maximum(frequency, 1 / side)
    noise = random.standard_normal((number, channels, side, side), dtype=np.float32)
    shared = noise.mean(axis=1, keepdims=True)
    fields = np.fft.irfft2(np.fft.rfft2(noise + 2 * shared) * amplitude, (side, side))
    fields /= fields.std(axis=(1, 2, 3), keepdims=True)
    return round_to_uint8(127.5 + 42.5 * np.moveaxis(fields, 1, 3))


def multiply(
    wave: np.ndarray, levels: np.ndarray, checker: np.ndarray, _: np.random.Generator
) -> np.ndarray:
    """Multiplies images by 1 + `wave`."""
    return levels * (1 + wave)


def add_mixed(
    mix: np.ndarray, levels: np.ndarray, checker: np.ndarray, _: np.random.Generator
) -> np.ndarray:
    """Adds a checkerboard of another amplitude to each channel."""
    return levels + checker * mix


def period_controls(random: np.random.Generator) -> Iterator[Control]:
    """Patterns of period 2, 4, 8 and 16 at 64 px: found in their own stage alone."""
    images = random_fields(4000, 1, random)
    real = prepare(images[:3000], (2, 2, 2, 2))
    rows, cols = np.indices((FIELD_SIZE, FIELD_SIZE))
    for stage, period in enumerate((2, 4, 8, 16), start=1):
        wave = np.cos(2 * np.pi * (rows + cols) / period)[..., np.newaxis]
        planted = Planted(partial(multiply, 0.05 * wave), GAIN)
        readings = read_images(plant(planted, images[3000:], random), real)
        stages = sorted({r.frequency.stage for r in readings if r.found})
        yield Control(
            f"period {period} at {FIELD_SIZE} px",
            stages == [stage],
            f"found in stages {stages}",
            f"found in stage {stage} alone",
        )


def colour_controls(random: np.random.Generator) -> Iterator[Control]:
    """A pattern in one channel, and one in chroma: found and named."""
    images = random_fields(4000, 3, random)
    real = prepare(images[:3000], (2, 2))
    for name, mix in (("red channel", (1, 0, 0)), ("chroma", (1, -0.6, 0.6))):
        planted = Planted(partial(add_mixed, 1.5 * np.array(mix)), FIXED)
        reading = at(read_images(plant(planted, images[3000:], random), real), CORNER)
        parts = {part: size for part, (size, _) in reading.parts.items()}
        measured = ", ".join(f"{part} {size:.2f}" for part, size in parts.items())
        yield Control(
            f"1.5 levels in the {name}",
            reading.fixed_pattern_levels.found and parts["chroma"] > parts["luminance"],
            measured,
            "found, more in chroma than in luminance",
        )
