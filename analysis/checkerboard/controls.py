"""Sets of images whose lines are known: what the meter must say about them.

Run by `validate` and inside every report. An interval counts as holding a value if it
does so after being widened by 3/4 of each side, about 3.4 standard errors: the dozen
lines judged at once then all hold in 99 cases of 100.
"""

from typing import NamedTuple

import numpy as np

from analysis.checkerboard import meter
from analysis.checkerboard.kernels import line_responses
from analysis.checkerboard.layout import Line, Protocol, Shape
from analysis.checkerboard.meter import contrast
from analysis.checkerboard.spectrum import Spectrum, mean_level, measure
from analysis.samples import halves
from analysis.statistics import Interval, percentile_interval
from gan.data.images import round_to_uint8

NUM_IMAGES = 10_000  # of each half, at most
SHAPE = (28, 28)  # of made-up images
HEADROOM = 0.9  # saturated pixels would clip a pattern to 88 % of its amplitude
AMPLITUDES = (0.5, 1.0, 2.0, 4.0)


class Control(NamedTuple):
    """One check of a meter: what it said, and what it had to say."""

    name: str
    passed: bool
    measured: str
    expected: str


def run_controls(real_images_uint8: np.ndarray, seed: int = 0) -> list[Control]:
    """Runs all controls of the spectral meter.

    Args:
        real_images_uint8: uint8 (N, H, W, C), N at least 1000.
        seed: of noise, signs and resampling.
    """
    r1, r2 = (half[:NUM_IMAGES] for half in halves(real_images_uint8))
    random = np.random.default_rng(seed)
    noise = round_to_uint8(random.normal(128, 20, (NUM_IMAGES, *SHAPE, 1)))
    small = round_to_uint8(
        random.normal(128, 20, (NUM_IMAGES, *np.array(SHAPE) // 2, 1))
    )
    return [
        null_control(r1, r2, seed),
        *recovery_controls(r1, r2, seed),
        flat_control("C4 white noise", noise, seed),
        nearest_control(small),
        flat_control("C6 shuffled pixels", shuffle_pixels(r1, random), seed),
        kernel_control(random, seed),
    ]


def holds(interval: Interval, target: float) -> bool:
    """Whether an interval, widened by 3/4 of each side, holds the target everywhere."""
    low = interval.value - 1.75 * (interval.value - interval.low)
    high = interval.value + 1.75 * (interval.high - interval.value)
    return bool(np.all((low <= target) & (target <= high)))


def agrees(interval: Interval, amplitude: float) -> bool:
    """Whether an amplitude was recovered: within 5 %, or within its interval."""
    near = abs(interval.value - amplitude) <= 0.05 * amplitude
    return bool(near or holds(interval, amplitude))


def shuffle_pixels(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Puts the pixels of each image into an order of its own."""
    pixels = images.reshape(len(images), -1, images.shape[3])
    order = np.argsort(random.random(pixels.shape[:2]), axis=1)[..., np.newaxis]
    return np.take_along_axis(pixels, order, axis=1).reshape(images.shape)


def null_control(r1: np.ndarray, r2: np.ndarray, seed: int) -> Control:
    """C1: real images against other real images show no line."""
    level = mean_level(r1)
    result = contrast(measure(r2, level=level), measure(r1, level=level), seed)
    families = result.family_amplitude.values()
    largest = np.abs(result.delta_pnr_db.value).max()
    amplitudes = ", ".join(f"{family.value:+.2f}" for family in families)
    return Control(
        "C1 real against real",
        holds(result.delta_pnr_db, 0) and all(holds(f, 0) for f in families),
        f"delta PNR up to {largest:.2f} dB, A {amplitudes}",
        "all intervals hold 0",
    )


def wave(line: Line, size: Shape, shape: Shape) -> np.ndarray:
    """A pattern of root mean square 1 with power at one line: float32 of that size.

    Args:
        line: the bin.
        size: height and width in pixels.
        shape: what the bin counts in, height and width after cropping.
    """
    rows, columns = np.indices(size)
    phase = line.row * rows / shape[0] + line.column * columns / shape[1]
    offset = 0.7 if line.multiplicity == 2 else 0.0
    pattern = np.cos(2 * np.pi * phase + offset) * np.sqrt(line.multiplicity)
    return pattern.astype(np.float32)


def recovery_controls(r1: np.ndarray, r2: np.ndarray, seed: int) -> list[Control]:
    """C2 and C3: patterns added to R2 come back; R1 is the reference."""
    base, reference = (
        (half.astype(np.float32) - 127.5) * np.float32(HEADROOM) + 127.5
        for half in (r2, r1)
    )
    level = float(reference.mean(dtype=np.float64))
    real = measure(round_to_uint8(reference), level=level)
    (height, width), lines = real.layout.shape, real.layout.lines

    def inject(
        index: int, amplitude: float, signs: np.ndarray
    ) -> tuple[Interval, float]:
        pattern = wave(lines[index], base.shape[1:3], real.layout.shape)
        images = base + np.float32(amplitude) * signs * pattern[..., np.newaxis]
        result = contrast(measure(round_to_uint8(images), level=level), real, seed)
        return result.amplitude[index], float(result.coherence[index])

    chosen = (height // 2, width // 2), (height // 2, 0), (height // 4, width // 4)
    places = [(line.row, line.column) for line in lines]
    indices = [places.index(place) for place in chosen]
    controls = []
    for index in indices:
        found = [inject(index, amplitude, np.ones(1)) for amplitude in AMPLITUDES]
        controls.append(
            Control(
                f"C2 recovery at ({lines[index].name})",
                all(agrees(f[0], a) for f, a in zip(found, AMPLITUDES, strict=True)),
                ", ".join(f"{interval.value:.2f}" for interval, _ in found),
                ", ".join(map(str, AMPLITUDES)) + " within 5 % or interval",
            )
        )
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (len(base), 1, 1, 1))
    interval, mixed = inject(indices[0], 2.0, signs.astype(np.float32))
    fixed = inject(indices[0], 2.0, np.ones(1))[1]
    controls.append(
        Control(
            f"C3 random signs at ({lines[indices[0]].name})",
            agrees(interval, 2.0) and mixed < 0.05 and fixed > 0.5,
            f"{interval.value:.2f}, coherence {mixed:.3f} (one sign: {fixed:.2f})",
            "2.0, coherence below 0.05 (above 0.5)",
        )
    )
    return controls


def flat_control(name: str, images_uint8: np.ndarray, seed: int) -> Control:
    """C4, C6: images without structure between pixels have a flat spectrum."""
    spectrum = measure(images_uint8, level=mean_level(images_uint8))
    powers = meter.resampled_powers(spectrum, seed)
    pnr = percentile_interval(meter.pnr_db(powers, spectrum.layout))
    return Control(
        name,
        holds(pnr, 0),
        f"PNR up to {np.abs(pnr.value).max():.2f} dB",
        "0 dB within intervals, self-conjugate bins included",
    )


def nearest_control(small_uint8: np.ndarray) -> Control:
    """C5: repeating each pixel makes an exact zero at 1/2; Hann lets neighbours in."""
    images = small_uint8.repeat(2, axis=1).repeat(2, axis=2)

    def ratios(window: str) -> list[float]:
        power = measure(images, level=128.0, protocol=Protocol(window)).power
        places = (SHAPE[0] // 2, 0), (SHAPE[0] // 2, SHAPE[1] // 2)
        return [float(10 * np.log10(power[p] / power[1, 1])) for p in places]

    zero, hann = ratios("rectangular"), ratios("hann")
    return Control(
        "C5 repeated pixels",
        max(zero) < -100 and np.allclose(hann, (-24, -47), atol=1.5),
        f"{max(zero):.0f} dB; Hann {hann[0]:.1f}, {hann[1]:.1f} dB",
        "below -100 dB; Hann -24, -47 dB",
    )


def kernel_control(random: np.random.Generator, seed: int) -> Control:
    """C7: a transposed convolution of known kernel gives the lines it must.

    Its input is a constant plus noise; the reference is the same layer on noise alone.
    """
    kernel = random.normal(size=(5, 5))
    lines = line_responses(kernel[..., np.newaxis, np.newaxis], (2, 2)) / 4
    predicted = float(np.linalg.norm(lines.ravel()[1:]))
    side = SHAPE[0] // 2 + 4
    noise = random.normal(0, 0.5, (2, NUM_IMAGES, side, side))

    def spectrum(inputs: np.ndarray) -> Spectrum:
        levels = transposed_convolution(inputs, kernel)
        images = (levels / 127.5).astype(np.float32)
        return measure(images, level=127.5, protocol=Protocol(strides=(2,)))

    result = contrast(spectrum(1 + noise[0]), spectrum(noise[1]), seed)
    measured = result.family_amplitude[1]
    return Control(
        "C7 known kernel",
        agrees(measured, predicted),
        f"{measured.value:.3f}",
        f"{predicted:.3f} from its phase gains",
    )


def transposed_convolution(inputs: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Stride 2, one channel, by scattering, cut to where every tap contributes."""
    taps, side = len(kernel), 2 * inputs.shape[1]
    outputs = np.zeros((len(inputs), side + taps, side + taps))
    for row, column in np.ndindex(kernel.shape):
        target = outputs[:, row : row + side : 2, column : column + side : 2]
        target += kernel[row, column] * inputs
    inner = slice(taps - 1, side - taps + 1)
    return outputs[:, inner, inner]
