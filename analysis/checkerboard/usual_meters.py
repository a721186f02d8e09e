"""Two meters that papers use, restated, to show what they say of a known pattern.

`azimuthal_profiles` follows the published method of Durall, Keuper and Keuper 2020
(arXiv:2003.01826), `whitened_map_db` that of Karras et al. 2021 (arXiv:2106.12423).
Nothing else here depends on them: `analysis.checkerboard.meter` is the meter.
"""

from typing import NamedTuple

import numpy as np
import scipy.fft
import scipy.ndimage
import scipy.signal

from analysis.checkerboard.controls import HEADROOM, wave
from analysis.checkerboard.layout import Line
from analysis.checkerboard.meter import cell_powers, pnr_db
from analysis.checkerboard.profiles import full
from analysis.checkerboard.spectrum import Spectrum, mean_level, measure
from analysis.samples import halves
from gan.data.images import round_to_uint8

NUM_IMAGES = 2000
INJECTED = (2.0, 8.0)  # grey levels
PADDING = 4  # of the map: times the image's sides
SMOOTHING = 1.25  # of the map: standard deviation in bins before padding
GREY_WEIGHTS = (0.2989, 0.587, 0.114)


class Reading(NamedTuple):
    """What three meters say of one change of the images.

    Attributes:
        what: changed.
        delta_pnr_db: this project's meter, at the changed bin.
        profile_sigmas: largest change of the azimuthal profile, in its standard
            deviations over images.
        map_db: change of the whitened map at the bin, as published (smoothed).
        raw_map_db: the same before smoothing.
    """

    what: str
    delta_pnr_db: float
    profile_sigmas: float
    map_db: float
    raw_map_db: float


def azimuthal_profiles(images_uint8: np.ndarray) -> np.ndarray:
    """Log magnitude by ring for each image, scaled to [0, 1]: float64 (N, rings).

    As published: rings one bin wide about the middle of the *array*, half a bin from
    DC; first and last ring left out, so that DC never counts, and neither does the
    corner (1/2, 1/2) if both sides are even. 28x28 px have 18 rings.
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


def profile_change_sigmas(images_uint8: np.ndarray, usual_uint8: np.ndarray) -> float:
    """Largest difference of mean profiles, in standard deviations of `usual_uint8`."""
    usual = azimuthal_profiles(usual_uint8)
    change = azimuthal_profiles(images_uint8).mean(axis=0) - usual.mean(axis=0)
    spread = usual.std(axis=0)  # 0 where each image has its minimum or its maximum
    return float((np.abs(change) / np.where(spread, spread, np.inf)).max())


def whitened_map_db(images_uint8: np.ndarray, usual_uint8: np.ndarray) -> np.ndarray:
    """Mean power spectrum in dB, DC in the middle: (4 H + 1, 4 W + 1).

    As published: `usual_uint8` gives mean and deviation to whiten with, a Kaiser window
    of beta 8, zeros to four times the sides; the first row and column appear on both
    sides. Not smoothed yet, see `smoothed`.
    """
    mean, deviation = usual_uint8.mean(), usual_uint8.std()
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
    """The map as it is published: a Gaussian over the dB, edges continued outwards."""
    return scipy.ndimage.gaussian_filter(map_db, PADDING * SMOOTHING, mode="nearest")


def at_line(map_db: np.ndarray, line: Line) -> float:
    """The map's value at a bin."""
    height, width = (side - 1 for side in map_db.shape)
    row = (PADDING * line.row + height // 2) % height
    return float(map_db[row, (PADDING * line.column + width // 2) % width])


def read_injections(real_uint8: np.ndarray) -> list[Reading]:
    """Adds known patterns to real images and reads all meters.

    Args:
        real_uint8: uint8 (N, H, W, C); one half of it is changed, the other half is
            this project's reference.
    """
    reference, base = (
        round_to_uint8((half[:NUM_IMAGES] - 127.5) * HEADROOM + 127.5)
        for half in halves(real_uint8)
    )
    level = mean_level(reference)
    real = measure(reference, level=level)
    height, width = real.layout.shape
    readings = []
    for line in real.layout.lines:
        if line.layer > 1 or line.row != height // 2:
            continue
        pattern = wave(line, base.shape[1:3], real.layout.shape)[..., np.newaxis]
        for amplitude in INJECTED:
            what = f"{amplitude:g} grey levels at ({real.layout.label(line)})"
            images = round_to_uint8(base + amplitude * pattern)
            spectrum = measure(images, level=level)
            readings.append(read(what, images, base, line, (spectrum, real)))
    return readings


def read(
    what: str,
    images_uint8: np.ndarray,
    usual_uint8: np.ndarray,
    line: Line,
    spectra: tuple[Spectrum, Spectrum],
) -> Reading:
    """Reads all meters at one line; `spectra` of the images and of real ones."""
    index = spectra[0].layout.lines.index(line)
    pnr = [pnr_db(cell_powers(s), s.layout)[index] for s in spectra]
    maps = [whitened_map_db(i, usual_uint8) for i in (images_uint8, usual_uint8)]
    rough = [at_line(map_db, line) for map_db in maps]
    fine = [at_line(smoothed(map_db), line) for map_db in maps]
    return Reading(
        what,
        float(pnr[0] - pnr[1]),
        profile_change_sigmas(images_uint8, usual_uint8),
        fine[0] - fine[1],
        rough[0] - rough[1],
    )
