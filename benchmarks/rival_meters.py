"""What published meters, the retired one and ours say about images of known content.

    python -m benchmarks.rival_meters [--n 5000] [--out FILE.json]

None of the papers reduces its picture to one number for one set of images. Here each
is reduced to the largest change from real images, at the last upsampling where it has
frequencies, so that it has every chance to see a checkerboard:

- azimuthal profile: Durall, Keuper and Keuper 2020 (arXiv:2003.01826). Logarithms of
  the Fourier magnitude are averaged over rings, and each image's profile is scaled to
  [0, 1]. Number: largest change of the mean profile over the rings, in standard
  deviations of a ring over real images.
- spectral map: Karras et al. 2021 (arXiv:2106.12423). Images are whitened by mean and
  deviation of the real ones, their mean power spectrum is taken under a Kaiser window
  with padding, and the map in dB is smoothed. Number: largest rise at (0, 1/2),
  (1/2, 0) and (1/2, 1/2), in dB.
- mean DCT: Frank et al. 2020 (arXiv:2003.08685). Coefficients are averaged over images
  with their signs; their logarithmic size is drawn. Number: largest rise of the natural
  logarithm at the highest vertical, horizontal and diagonal frequency.
- neighbouring pixels: Tan et al. 2023 (arXiv:2312.10461), "NPR". Each pixel less the
  first one of its cell of 2x2 pixels goes into a classifier. Number: largest change of
  the mean absolute value at one of the other three places, in grey levels.
- retired A: this project's meter until now. Power at the three frequencies above
  (that of the ring around each, times the ratio of both in real images): root of the
  sum of squares in which a lack of power counts as negative, in grey levels.
- this project: the largest excess of any reading at any grid frequency, as a multiple
  of its limit (`analysis.checkerboard.meter`). A pattern must also be significant among
  all readings together, which this number leaves out.

All meters know the same half of the real images. Another quarter gives each one its
null, the largest number of several sets of real images, and its limit, 1.25 times the
largest number of real images and of `nuisances`; this project's limit is 1 and comes
from the same images. The controls are made of the last quarter.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import scipy.fft
import scipy.ndimage
import scipy.signal
from rich import box
from rich.markup import escape
from rich.table import Table

from analysis.checkerboard.controls import NUM_IMAGES, PLANTED, plant
from analysis.checkerboard.frequencies import make_layout
from analysis.checkerboard.meter import (
    RESOLUTION_MARGIN,
    read,
)
from analysis.checkerboard.moments import measure_moments
from analysis.checkerboard.nuisances import measure_resolution, nuisances
from analysis.commands.tables import table_console
from benchmarks.results import save
from config.schema import DataConfig
from gan.data.dataset import load_dataset

Meter = Callable[[np.ndarray], float]
STRIDES = (2, 2)
MAX_REFERENCE = 20_000  # real images that all meters know
NUM_DRAWS = 10  # sets of real images behind a null
PADDING = 4  # sides of the spectral map, in sides of the images
SMOOTHING_BINS = 1.25  # standard deviation, in bins of the image before padding
GREY_WEIGHTS = (0.2989, 0.587, 0.114)
CHUNK_IMAGES = 250  # transformed at a time
FLOOR = 1e-12  # of powers and sizes, so that 0 has a logarithm
HALF_PLACES = ((0, 1), (1, 0), (1, 1))  # (0, 1/2), (1/2, 0), (1/2, 1/2)


def grey(images: np.ndarray) -> np.ndarray:
    """Grey levels: (N, H, W, C) to float64 (N, H, W)."""
    return images @ np.array(GREY_WEIGHTS if images.shape[3] == 3 else (1.0,))


def azimuthal_profiles(images: np.ndarray) -> np.ndarray:
    """Log magnitude by ring for each image, scaled to [0, 1]: float64 (N, rings).

    As published, the rings are one bin wide around the middle of the *array*, which is
    half a bin away from DC. The first and the last ring are left out, so that neither
    DC nor, if both sides are even, the corner (1/2, 1/2) ever counts. Images of 28x28
    px have 18 rings.
    """
    spectra = np.fft.fftshift(scipy.fft.fft2(grey(images)), (1, 2))
    logs = 20 * np.log(np.abs(spectra) + 1e-8)
    height, width = spectra.shape[1:]
    rows, columns = np.indices((height, width))
    rings = np.hypot(rows - (height - 1) / 2, columns - (width - 1) / 2).astype(int)
    members = np.eye(rings.max() + 1)[rings.ravel()]
    means = logs.reshape(len(logs), -1) @ members / members.sum(axis=0)
    means = means[:, 1:-1]
    low, high = (f(axis=1, keepdims=True) for f in (means.min, means.max))
    return (means - low) / np.maximum(high - low, 1e-12)


def azimuthal_meter(real: np.ndarray) -> Meter:
    """Largest change of the mean profile, in standard deviations over real images."""
    profiles = azimuthal_profiles(real)
    usual, spread = profiles.mean(axis=0), profiles.std(axis=0)
    spread[spread == 0] = np.inf  # where each image has its minimum or its maximum

    def meter(images: np.ndarray) -> float:
        change = azimuthal_profiles(images).mean(axis=0) - usual
        return float((np.abs(change) / spread).max())

    return meter


def spectral_map_db(images: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    """Mean power spectrum in dB, half of its columns: (4 H, 2 W + 1), not smoothed.

    As published, the images are whitened, the window is a Kaiser window of beta 8, and
    zeros pad the images to four times their sides. White noise gives 0 dB everywhere.
    """
    height, width = images.shape[1:3]
    rows, columns = (
        scipy.signal.get_window(("kaiser", 8.0), side, fftbins=False)
        for side in (height, width)
    )
    window = np.outer(rows, columns) / np.linalg.norm(np.outer(rows, columns))
    window = window.astype(np.float32)
    shape = PADDING * height, PADDING * width
    power = np.zeros((shape[0], shape[1] // 2 + 1))
    for start in range(0, len(images), CHUNK_IMAGES):
        chunk = images[start : start + CHUNK_IMAGES].astype(np.float32)
        white = (np.moveaxis(chunk, 3, 1) - np.float32(mean)) / np.float32(deviation)
        transforms = scipy.fft.rfft2(white * window, shape)
        sizes = np.square(transforms.real) + np.square(transforms.imag)
        power += sizes.mean(axis=1).sum(axis=0)
    return 10 * np.log10(np.maximum(power / len(images), FLOOR))


def spectral_map_meter(real: np.ndarray) -> Meter:
    """Largest rise of the smoothed map at multiples of 1/2, in dB."""
    mean, deviation = float(real.mean()), float(real.std())

    def at_halves(images: np.ndarray) -> np.ndarray:
        half = spectral_map_db(images, mean, deviation)
        # DC in the middle; first row and column once more at the end; smoothed in dB.
        whole = np.concatenate([half, np.roll(half[::-1, -2:0:-1], 1, axis=0)], axis=1)
        whole = np.pad(np.fft.fftshift(whole), (0, 1), mode="wrap")
        sigma = PADDING * SMOOTHING_BINS
        smooth = scipy.ndimage.gaussian_filter(whole, sigma, mode="nearest")
        rows, columns = ((side // 2, 0) for side in np.array(whole.shape) - 1)
        return np.array([smooth[rows[r], columns[c]] for r, c in HALF_PLACES])

    usual = at_halves(real)
    return lambda images: float((at_halves(images) - usual).max())


def mean_dct(images: np.ndarray) -> np.ndarray:
    """Mean of the signed coefficients of the orthonormal DCT-II: (H, W)."""
    return scipy.fft.dctn(grey(images).mean(axis=0), norm="ortho")


def dct_meter(real: np.ndarray) -> Meter:
    """Largest rise of ln |mean coefficient| at the highest frequencies."""

    def at_halves(images: np.ndarray) -> np.ndarray:
        logs = np.log(np.abs(mean_dct(images)) + FLOOR)
        return np.array([logs[-row, -column] for row, column in HALF_PLACES])

    usual = at_halves(real)
    return lambda images: float((at_halves(images) - usual).max())


def neighbour_residuals(images: np.ndarray) -> np.ndarray:
    """Mean absolute difference from the first pixel of each cell of 2x2: (3,).

    Of the pixels to its right, below it, and across; odd rows or columns at the end are
    left out.
    """
    height, width = (side // 2 * 2 for side in images.shape[1:3])
    inside = images[:, :height, :width].astype(np.float32)
    first = inside[:, ::2, ::2]
    return np.array(
        [np.abs(inside[:, r::2, c::2] - first).mean() for r, c in HALF_PLACES]
    )


def neighbour_meter(real: np.ndarray) -> Meter:
    """Largest change of the mean absolute differences, in grey levels."""
    usual = neighbour_residuals(real)
    return lambda images: float(np.abs(neighbour_residuals(images) - usual).max())


def mean_power(images: np.ndarray, level: float, window: np.ndarray) -> np.ndarray:
    """Mean over images and channels of |transform of (image - level) window|^2."""
    power = np.zeros(window.shape)
    for start in range(0, len(images), CHUNK_IMAGES):
        chunk = images[start : start + CHUNK_IMAGES].astype(np.float32)
        values = (np.moveaxis(chunk, 3, 1) - np.float32(level)) * window
        power += np.square(np.abs(scipy.fft.fft2(values))).mean(axis=1).sum(axis=0)
    return power / len(images)


def retired_meter(real: np.ndarray) -> Meter:
    """A of the last upsampling: a (-1)^(row + column) reads a grey levels."""
    height, width = real.shape[1:3]
    layout, level = make_layout(height, width, STRIDES), float(real.mean())
    last = [k for k, f in enumerate(layout.frequencies) if f.stage == 1]

    def peak_and_ring(images: np.ndarray) -> np.ndarray:
        inside = images[:, : layout.shape[0], : layout.shape[1]]
        power = np.maximum(mean_power(inside, level, layout.window).ravel(), FLOOR)
        rings = [np.exp(np.log(power[layout.rings[k]]).mean()) for k in last]
        return np.array([power[layout.centers[last]], rings])

    usual = np.divide(*peak_and_ring(real))

    def meter(images: np.ndarray) -> float:
        peak, around = peak_and_ring(images)
        square = (peak - around * usual).sum()  # each is its own conjugate
        return float(np.sign(square) * np.sqrt(np.abs(square)))

    return meter


PUBLISHED: dict[str, Callable[[np.ndarray], Meter]] = {
    "azimuthal profile, deviations": azimuthal_meter,
    "spectral map, dB": spectral_map_meter,
    "mean DCT, ln": dct_meter,
    "neighbouring pixels, levels": neighbour_meter,
    "retired A, levels": retired_meter,
}
OURS = "this project, limits"


def this_meter(
    real: np.ndarray, calibration: np.ndarray, labels: np.ndarray | None
) -> Meter:
    """The largest excess as a multiple of the limit at which it is a pattern."""
    reference, null = (measure_moments(i, STRIDES) for i in (real, calibration))
    resolution = measure_resolution(calibration, reference, labels)

    def meter(images: np.ndarray) -> float:
        found = read(measure_moments(images, STRIDES), reference, null, resolution)
        readings = [
            reading
            for item in found
            for reading in (
                item.imaging_gain_percent,
                item.fixed_pattern_levels,
                item.free_pattern_levels,
                item.free_chroma_levels,
            )
            if reading
        ]
        return max(reading.excess / reading.limit for reading in readings)

    return meter


class Comparison(NamedTuple):
    """What all meters say.

    Attributes:
        nulls: by meter, the largest number of several sets of real images.
        limits: by meter, what a number must exceed to be called a pattern.
        values: by control and meter.
    """

    nulls: dict[str, float]
    limits: dict[str, float]
    values: dict[str, dict[str, float]]

    def cell(self, control: str, meter: str) -> str:
        """The number with its null, and what is beyond."""
        value, null = self.values[control][meter], self.nulls[meter]
        words = ""
        if value > self.limits[meter]:
            words = " found"
        elif value > null:
            words = " above null"
        return f"{value:.2f} ({null:.2f}){words}"


def make_controls(
    images: np.ndarray, labels: np.ndarray | None, num_images: int, seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Changed real images, which hold no pattern, then planted patterns."""
    yield from nuisances(images, labels, seed)
    random = np.random.default_rng(seed)
    for name, planted in PLANTED.items():
        chosen = images[random.permutation(len(images))[:num_images]]
        yield name, plant(planted, chosen, random)


def compare_meters(
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    num_images: int = NUM_IMAGES,
    seed: int = 0,
) -> Comparison:
    """Lets all meters read all controls.

    Args:
        images: real images, uint8 (N, H, W, C), N at least 4000.
        labels: int (N,), their classes; None: not known.
        num_images: of each planted control, and of each set behind a null.
        seed: of noise and choices.
    """
    real, calibration, pool = images[0::2], images[1::4], images[3::4]
    real = real[:MAX_REFERENCE]
    own = [None if labels is None else labels[part::4] for part in (1, 3)]
    meters = {name: make(real) for name, make in PUBLISHED.items()}
    meters[OURS] = this_meter(real, calibration, own[0])
    random = np.random.default_rng(seed)
    draws = [
        calibration[random.permutation(len(calibration))[:num_images]]
        for _ in range(NUM_DRAWS)
    ]
    nulls = {name: max(map(meter, draws)) for name, meter in meters.items()}
    limits = dict(nulls)
    for _, changed in nuisances(calibration, own[0], seed):
        for name in PUBLISHED:
            limits[name] = max(limits[name], meters[name](changed))
    limits = {name: RESOLUTION_MARGIN * limit for name, limit in limits.items()}
    limits[OURS] = 1.0
    values = {
        control: {name: meter(changed) for name, meter in meters.items()}
        for control, changed in make_controls(pool, own[1], num_images, seed + 1)
    }
    return Comparison(nulls, limits, values)


def make_table(comparison: Comparison) -> Table:
    """One row per control, one column per meter."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption="number (largest of real images); found: beyond 1.25 times what real "
        "images and all that holds no pattern give to that meter",
    )
    table.add_column("control", no_wrap=True)
    for name in comparison.nulls:
        table.add_column(name, justify="right")
    planted = False
    for control in comparison.values:
        if control in PLANTED and not planted:
            table.add_section()
            planted = True
        cells = [comparison.cell(control, name) for name in comparison.nulls]
        table.add_row(escape(control), *cells)
    table.add_section()
    limits = [f"{limit:.2f}" for limit in comparison.limits.values()]
    table.add_row("a pattern is called so above", *limits)
    return table


@click.command()
@click.option("--n", "num_images", default=NUM_IMAGES, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path))
def main(num_images: int, out: Path | None) -> None:
    """Shows what each meter says about images of known content (some minutes)."""
    real = load_dataset(DataConfig(), "train")
    comparison = compare_meters(real.images_uint8, real.labels, num_images=num_images)
    table_console(200).print(make_table(comparison))
    save(out, {"num_images": num_images, **comparison._asdict()})


if __name__ == "__main__":
    main()
