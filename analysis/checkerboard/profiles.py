"""What a spectrum says besides its lines: rings, distances, pixel phases, borders.

A radial profile alone is no checkerboard detector: a line at (1/2, 0) fills two bins
of a whole ring.
"""

import numpy as np

from analysis.checkerboard.layout import Shape
from analysis.checkerboard.spectrum import Spectrum

EDGE_PX = 4  # outer rows and columns: the border profile, left out of the interior


def full(half: np.ndarray, shape: Shape) -> np.ndarray:
    """Unfolds a half spectrum of real images to (height, width), DC at [0, 0]."""
    height, width = shape
    columns = np.arange(width)
    mirrored = columns > width // 2
    rows = np.arange(height)[:, None] * np.where(mirrored, -1, 1) % height
    return half[rows, np.where(mirrored, width - columns, columns)]


def independent(shape: Shape) -> np.ndarray:
    """True once for each conjugate pair but DC: bool (height, width // 2 + 1)."""
    height, width = shape
    mask = np.ones((height, width // 2 + 1), bool)
    mask[height // 2 + 1 :, 0] = False
    if width % 2 == 0:
        mask[height // 2 + 1 :, -1] = False
    mask[0, 0] = False
    return mask


def radii(shape: Shape) -> np.ndarray:
    """Distance of each bin of a half spectrum from DC, in cycles per pixel."""
    return np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1]))


def radial_profile(half: np.ndarray, shape: Shape) -> np.ndarray:
    """Mean power in rings one bin of the longer side wide; entry 0 (DC alone) is NaN.

    Ring k holds k <= radius < k + 1, corners included: at 28x28 the bin (14, 14) lies
    in the last ring, 19.
    """
    mask = independent(shape)
    rings = np.floor(radii(shape)[mask] * max(shape) + 1e-9).astype(int)
    counts, sums = np.bincount(rings), np.bincount(rings, half[mask])
    return np.where(counts, sums / np.maximum(counts, 1), np.nan)


def high_band_share(half: np.ndarray, shape: Shape) -> float:
    """Share of the power beyond 1/4 cycles per pixel; white noise at 28x28: 0.81."""
    mask = independent(shape)
    return float(half[mask & (radii(shape) > 0.25)].sum() / half[mask].sum())


def log_spectral_distance_db(
    half_a: np.ndarray, half_b: np.ndarray, shape: Shape
) -> float:
    """Root mean square difference of two spectra in dB; a factor of 10 gives 10."""
    difference = 10 * np.log10(half_a / half_b)[independent(shape)]
    return float(np.sqrt(np.mean(difference**2)))


def phase_variance_db(spectrum: Spectrum, period: int) -> float:
    """How much the roughness of the interior depends on the pixel's phase, in dB.

    Largest over smallest variance of the Laplacian among the period^2 phases. No power
    spectrum sees this: white noise through a 5-tap transposed convolution of stride 2
    has variances 9:6:6:4 and no line. White noise itself gives 0.
    """
    inner = slice(EDGE_PX, -EDGE_PX)  # of a map that lost one pixel already
    mean, square = spectrum.laplacian[:, inner, inner]
    variances = [
        square[i::period, j::period].mean() - mean[i::period, j::period].mean() ** 2
        for i in range(period)
        for j in range(period)
    ]
    return float(10 * np.log10(max(variances) / min(variances)))


def border_profile(spectrum: Spectrum) -> np.ndarray:
    """Mean and variance of the outer rows and columns, in grey levels (squared).

    Returns:
        (2, 4, EDGE_PX): mean or variance over images; top, bottom, left, right; from
        the edge inwards.
    """
    mean, square = spectrum.pixels
    return np.array(
        [
            [side[:EDGE_PX].mean(axis=1) for side in (t, t[::-1], t.T, t.T[::-1])]
            for t in (mean, square - mean**2)
        ]
    )
