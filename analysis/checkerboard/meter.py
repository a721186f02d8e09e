"""How strong a generator's lines are against real images, in dB and in grey levels.

A line is compared with its neighbourhood (peak-to-neighbourhood ratio, PNR), and that
with the PNR of real images: delta PNR > 0 is a tone, < 0 a notch that filtering left,
the two kinds of Pons et al. 2021 (arXiv:2010.14356) on one scale. What exceeds the
background expected from real images is an amplitude A in grey levels, the root mean
square of the periodic pattern. Intervals resample the images of both sets.
"""

import functools
from dataclasses import dataclass

import numpy as np

from analysis.checkerboard.layout import Layout
from analysis.checkerboard.profiles import log_spectral_distance_db, phase_variance_db
from analysis.checkerboard.spectrum import FLOOR, Spectrum
from analysis.statistics import Interval, bootstrap_means, percentile_interval

NUM_RESAMPLES = 1000
TRIMMED_SHARE = 0.01


@dataclass(frozen=True)
class Contrast:
    """One set of images against the real one; arrays run over `layout.lines`.

    Attributes:
        delta_pnr_db: peak-to-neighbourhood ratios minus those of the real images.
        amplitude: of each line in grey levels, negative for a lack of power.
        family_delta_pnr_db: by layer, 1 the last upsampling: mean over its lines.
        family_amplitude: by layer, root sum of squares.
        coherence: |<F>|^2 / <|F|^2>; 1: the same sign in every image, 1/N: any sign.
        phase_variance_db: by period in pixels, minus that of the real images.
        log_spectral_distance_db: over the whole spectrum.
    """

    delta_pnr_db: Interval
    amplitude: Interval
    family_delta_pnr_db: dict[int, Interval]
    family_amplitude: dict[int, Interval]
    coherence: np.ndarray
    phase_variance_db: dict[int, float]
    log_spectral_distance_db: float


def cell_powers(spectrum: Spectrum) -> np.ndarray:
    """Mean powers in `layout.cells`: float64 (num_cells,)."""
    return spectrum.power.ravel()[spectrum.layout.cells]


@functools.lru_cache(maxsize=4)
def resampled_powers(spectrum: Spectrum, seed: int) -> np.ndarray:
    """Powers in `layout.cells`, then those of NUM_RESAMPLES resampled sets of images.

    Beyond `spectra.MAX_ROWS` images, groups of them are resampled.
    """
    draws = bootstrap_means(spectrum.rows, NUM_RESAMPLES, seed)
    return np.vstack([cell_powers(spectrum), np.maximum(draws, FLOOR)])


def trimmed_pnr_db(spectrum: Spectrum) -> np.ndarray:
    """PNR without the strongest 1 % of images in each bin: (lines,).

    A check of robustness: on the axes a few images hold much of the power.
    """
    powers = spectrum.rows[:, :-1] / spectrum.rows[:, -1:]
    kept = len(powers) - int(TRIMMED_SHARE * len(powers))
    means = np.partition(powers, kept - 1, axis=0)[:kept].mean(axis=0, dtype=np.float64)
    return pnr_db(np.maximum(means, FLOOR), spectrum.layout)


def centers(powers: np.ndarray, layout: Layout) -> np.ndarray:
    """Powers in the lines themselves: (..., cells) to (..., lines)."""
    return powers[..., [line.center for line in layout.lines]]


def backgrounds(powers: np.ndarray, layout: Layout) -> np.ndarray:
    """Geometric mean of each line's neighbours: (..., cells) to (..., lines)."""
    logs = np.log(powers)
    means = [logs[..., line.ring].mean(axis=-1) for line in layout.lines]
    return np.exp(np.stack(means, axis=-1))


def pnr_db(powers: np.ndarray, layout: Layout) -> np.ndarray:
    """Peak-to-neighbourhood ratio of each line: (..., cells) to (..., lines)."""
    return 10 * np.log10(centers(powers, layout) / backgrounds(powers, layout))


def squared_amplitudes(
    powers: np.ndarray, real_powers: np.ndarray, layout: Layout
) -> np.ndarray:
    """Mean square of each line's pattern, in squared grey levels: (..., lines).

    Real images say how a bin relates to its neighbours without artifact. The excess is
    a wave of complex amplitude c, |c|^2 = excess * sum(w^2) / sum(w)^2, which counts
    twice unless it is its own conjugate (Parseval): a (-1)^(x + y) gives a^2.
    """
    usual = centers(real_powers, layout) / backgrounds(real_powers, layout)
    excess = centers(powers, layout) - backgrounds(powers, layout) * usual
    multiplicity = np.array([line.multiplicity for line in layout.lines])
    return excess * multiplicity * layout.line_gain


def signed_root(squares: np.ndarray) -> np.ndarray:
    """Square root that keeps the sign: -4 becomes -2."""
    return np.sign(squares) * np.sqrt(np.abs(squares))


def families(layout: Layout) -> dict[int, list[int]]:
    """Indices of the lines that each layer causes, 1 the last upsampling."""
    layers = sorted({line.layer for line in layout.lines})
    return {
        layer: [i for i, line in enumerate(layout.lines) if line.layer == layer]
        for layer in layers
    }


def contrast(spectrum: Spectrum, real: Spectrum, seed: int = 0) -> Contrast:
    """Judges a set of images against the real one.

    Args:
        spectrum: of the set.
        real: of the real images, under the same protocol.
        seed: of the resampling.

    Raises:
        ValueError: if the two spectra have not the same shape.
    """
    layout, shape = spectrum.layout, spectrum.layout.shape
    if shape != real.layout.shape:
        raise ValueError(f"received {shape} px, expected {real.layout.shape} px")
    powers = resampled_powers(spectrum, 2 * seed)
    real_powers = resampled_powers(real, 2 * seed + 1)
    delta = pnr_db(powers, layout) - pnr_db(real_powers, layout)
    squares = squared_amplitudes(powers, real_powers, layout)
    members = families(layout).items()
    return Contrast(
        delta_pnr_db=percentile_interval(delta),
        amplitude=percentile_interval(signed_root(squares)),
        family_delta_pnr_db={
            layer: percentile_interval(delta[:, own].mean(axis=1))
            for layer, own in members
        },
        family_amplitude={
            layer: percentile_interval(signed_root(squares[:, own].sum(axis=1)))
            for layer, own in members
        },
        coherence=coherence(spectrum),
        phase_variance_db={
            int(p): phase_variance_db(spectrum, p) - phase_variance_db(real, p)
            for p in np.cumprod(layout.strides[::-1])
        },
        log_spectral_distance_db=log_spectral_distance_db(
            spectrum.power, real.power, shape
        ),
    )


def coherence(spectrum: Spectrum) -> np.ndarray:
    """Share of each line's power that has one sign in all images: (lines,)."""
    energy = (spectrum.layout.window**2).sum()
    steady = (np.abs(spectrum.mean_transform) ** 2).mean(axis=0) / energy
    ratio = (steady / spectrum.power).ravel()[spectrum.layout.cells]
    return centers(ratio, spectrum.layout)


def detection_limit(null_amplitude: Interval) -> np.ndarray:
    """Smallest amplitude told from none, in grey levels.

    Half the width, in squares, of an interval of real against real images.
    """
    low, high = (np.sign(a) * a**2 for a in (null_amplitude.low, null_amplitude.high))
    return np.sqrt((high - low) / 2)
