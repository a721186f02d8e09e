"""What two published meters say about patterns of known strength.

    python -m benchmarks.rival_meters

`azimuthal_profiles` follows the published method of Durall, Keuper and Keuper 2020
(arXiv:2003.01826), `whitened_map_db` that of Karras et al. 2021 (arXiv:2106.12423).
Known patterns are added to real images, and these two and the meter of this project
(`analysis.checkerboard.meter`) measure the change.
"""

from typing import NamedTuple

import click
import numpy as np
import scipy.fft
import scipy.ndimage
import scipy.signal
from analysis.checkerboard.layout import Line
from analysis.checkerboard.profiles import full
from analysis.checkerboard.spectrum import mean_level, measure

from analysis.checkerboard.controls import HEADROOM, wave
from analysis.checkerboard.meter import cell_powers, pnr_db
from analysis.samples import halves
from config.schema import DataConfig
from gan.data.dataset import load_dataset
from gan.data.images import round_to_uint8

NUM_IMAGES = 2000
AMPLITUDES = (2.0, 8.0)  # grey levels
PADDING = 4  # sides of the spectral map, in sides of the images
SMOOTHING_BINS = 1.25  # standard deviation, in bins of the image before padding
GREY_WEIGHTS = (0.2989, 0.587, 0.114)


class Reading(NamedTuple):
    """What three meters say about one pattern.

    Attributes:
        pattern: amplitude and frequency of the pattern.
        delta_pnr_db: this project's meter, at the frequency of the pattern.
        profile_sigmas: largest change of the azimuthal profile, in its standard
            deviations over images.
        map_db: change of the whitened map at the frequency, smoothed as published.
        raw_map_db: the same before smoothing.
    """

    pattern: str
    delta_pnr_db: float
    profile_sigmas: float
    map_db: float
    raw_map_db: float


def azimuthal_profiles(images_uint8: np.ndarray) -> np.ndarray:
    """Log magnitude by ring for each image, scaled to [0, 1]: float64 (N, rings).

    As published, the rings are one bin wide around the middle of the *array*, which is
    half a bin away from DC. The first and the last ring are left out, so that neither
    DC nor, if both sides are even, the corner (1/2, 1/2) ever counts. Images of 28x28
    px have 18 rings.
    """
    weights = GREY_WEIGHTS if images_uint8.shape[3] == 3 else (1.0,)
    spectra = np.fft.fftshift(scipy.fft.fft2(images_uint8 @ np.array(weights)), (1, 2))
    logs = 20 * np.log(np.abs(spectra) + 1e-8)
    height, width = spectra.shape[1:]
    rows, columns = np.indices((height, width))
    rings = np.hypot(rows - (height - 1) / 2, columns - (width - 1) / 2).astype(int)
    members = np.eye(rings.max() + 1)[rings.ravel()]
    means = logs.reshape(len(logs), -1) @ members / members.sum(axis=0)
    means = means[:, 1:-1]
    low, high = (f(axis=1, keepdims=True) for f in (means.min, means.max))
    return (means - low) / np.maximum(high - low, 1e-12)


def profile_change_sigmas(images_uint8: np.ndarray, real_uint8: np.ndarray) -> float:
    """Largest difference of mean profiles, in standard deviations of `real_uint8`."""
    real = azimuthal_profiles(real_uint8)
    change = azimuthal_profiles(images_uint8).mean(axis=0) - real.mean(axis=0)
    spread = real.std(axis=0)  # 0 where each image has its minimum or its maximum
    return float((np.abs(change) / np.where(spread, spread, np.inf)).max())


def whitened_map_db(images_uint8: np.ndarray, real_uint8: np.ndarray) -> np.ndarray:
    """Mean power spectrum in dB, DC in the middle: float64 (4 H + 1, 4 W + 1).

    As published, mean and deviation of `real_uint8` whiten the images, the window is a
    Kaiser window of beta 8, zeros pad the images to four times their sides, and the
    first row and column are repeated at the end. White noise gives 0 dB everywhere. The
    map is not smoothed yet, see `smoothed`.
    """
    mean, deviation = real_uint8.mean(), real_uint8.std()
    height, width = images_uint8.shape[1:3]
    rows, columns = (
        scipy.signal.get_window(("kaiser", 8.0), side, fftbins=False)
        for side in (height, width)
    )
    window = np.outer(rows, columns) / np.linalg.norm(np.outer(rows, columns))
    shape = (PADDING * height, PADDING * width)
    power = np.zeros((shape[0], shape[1] // 2 + 1))
    for chunk in np.array_split(images_uint8, max(1, len(images_uint8) // 250)):
        values = np.moveaxis((chunk - mean) / deviation, 3, 1) * window
        power += (np.abs(scipy.fft.rfft2(values, shape)) ** 2).mean(axis=1).sum(axis=0)
    whole = np.fft.fftshift(full(power / len(images_uint8), shape))
    return np.pad(10 * np.log10(whole), (0, 1), mode="wrap")


def smoothed(map_db: np.ndarray) -> np.ndarray:
    """The map as published: the dB smoothed by a Gaussian, edges repeated outwards."""
    sigma = PADDING * SMOOTHING_BINS
    return scipy.ndimage.gaussian_filter(map_db, sigma, mode="nearest")


def value_at(map_db: np.ndarray, line: Line) -> float:
    """The map's value in dB at a bin of the images' spectrum."""
    height, width = (side - 1 for side in map_db.shape)
    row = (PADDING * line.row + height // 2) % height
    return float(map_db[row, (PADDING * line.column + width // 2) % width])


def read_patterns(real_uint8: np.ndarray) -> list[Reading]:
    """Adds known patterns to real images and reads all three meters.

    Args:
        real_uint8: uint8 (N, H, W, C); one half is changed, the other half is the
            reference of this project's meter.
    """
    reference, base = (
        round_to_uint8((half[:NUM_IMAGES] - 127.5) * HEADROOM + 127.5)
        for half in halves(real_uint8)
    )
    level = mean_level(reference)
    real = measure(reference, level=level)
    readings = []
    for index, line in enumerate(real.layout.lines):
        if line.layer > 1 or line.row != real.layout.shape[0] // 2:
            continue
        pattern = wave(line, base.shape[1:3], real.layout.shape)[..., np.newaxis]
        for amplitude in AMPLITUDES:
            images = round_to_uint8(base + amplitude * pattern)
            pnr = [
                pnr_db(cell_powers(spectrum), spectrum.layout)[index]
                for spectrum in (measure(images, level=level), real)
            ]
            maps = [whitened_map_db(i, base) for i in (images, base)]
            smooth, rough = (
                [value_at(map_db, line) for map_db in group]
                for group in (map(smoothed, maps), maps)
            )
            readings.append(
                Reading(
                    f"{amplitude:g} grey levels at ({real.layout.label(line)})",
                    float(pnr[0] - pnr[1]),
                    profile_change_sigmas(images, base),
                    smooth[0] - smooth[1],
                    rough[0] - rough[1],
                )
            )
    return readings


@click.command()
def main() -> None:
    """Shows what three meters say about patterns that were added to real images."""
    real = load_dataset(DataConfig(), "test").images_uint8
    for reading in read_patterns(real):
        click.echo(
            f"{reading.pattern:>30}: this project {reading.delta_pnr_db:+.1f} dB; "
            f"azimuthal profile {reading.profile_sigmas:.2f} standard deviations; "
            f"spectral map {reading.map_db:+.1f} dB, "
            f"{reading.raw_map_db:+.1f} dB before smoothing"
        )


if __name__ == "__main__":
    main()
