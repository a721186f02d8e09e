"""How much of a set of images is locked to the pixel grid, against real images.

Four readings for each grid frequency a (see `frequencies`):

- imaging gain: what the low frequencies of an image leave around a, as a share of
  their own size: |X(f + a)| / |X(f)| of the part of X(f + a) that the image's own low
  frequencies, and those of its square, explain over many images. A picture multiplied
  by 1 + e (-1)^(row + column) has the gain e at (1/2, 1/2); perfect rejection has 0.
  (Content that is as strong at a as at the low frequencies, such as white noise, has
  up to twice as much, since each side then explains the other.)
- locked share: that part's share of all the power around a (multiple coherence).
- fixed pattern: the root mean square, in grey levels, of what is the same in every
  image at a. One level added as (-1)^(row + column) reads 1.
- free pattern: a narrow peak of power at a, beyond what real images have, for patterns
  whose sign is random; negative for a lack of power. Not read on the axes.

Content of the world has no relation between different frequencies, so that the first
three are 0 off the axes whatever is shown, however sharp, noisy or dark. On the axes
real images have edges at fixed places. Therefore every reading is compared with one
half of the real images, and the other half is read in the same way. What ordinary
changes of real images may do to a reading (`nuisances`) is its resolution: nothing
below it is called a pattern.

Sources: the spectral correlation of cyclostationary signals (Gardner 1991, IEEE Signal
Processing Magazine 8(2)); periodic correlations that resampling leaves (Popescu and
Farid 2005, IEEE Transactions on Signal Processing 53(2); Gallagher 2005; Mahdian and
Saic 2008). Estimates are least squares over all images and low frequencies; variances
are those of the jackknife over groups of images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
import scipy.stats

from analysis.checkerboard.frequencies import GridFrequency
from analysis.checkerboard.moments import LUMA, Moments
from analysis.statistics import holm

READINGS = ("imaging_gain_percent", "fixed_pattern_levels", "free_pattern_levels")
SIGNIFICANCE = 0.05  # of all tests of a set together
NORMAL = 1.96  # standard errors of a 95 % interval of a real number
RESOLUTION_MARGIN = 1.25  # a pattern must exceed what nuisances do by a quarter
RIDGE = 1e-6  # of the mean power: explaining transforms may be equal (binary images)
TINY = 1e-12  # of powers; constant images have none
LOG_TINY = -600.0  # of p-values; smaller ones are not told apart
Parts = dict[str, tuple[float, float]]  # name: (levels, percent)
VISIBLE_LEVELS = 1.0  # a pattern of one grey level or less is not seen


@dataclass(frozen=True)
class Estimate:
    """A size that is never negative but for chance, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Reading:
    """One reading of a set of images beside real ones.

    Attributes:
        samples: of the images in question.
        real: of the half of the real images that is not the reference.
        excess: size of the difference from the reference; the difference is taken
            between complex values, so that two equal sizes of other phase differ.
        z: the significance of that difference in standard deviations of a normal.
        log_p: natural logarithm of its p-value, not corrected.
        limit: the smallest excess that could be called a pattern here.
        found: whether it is one: significant after correction, and above the limit.
    """

    samples: Estimate
    real: Estimate
    excess: float
    z: float
    log_p: float
    limit: float
    found: bool = False


@dataclass(frozen=True)
class GridReading:
    """All readings at one grid frequency.

    Attributes:
        frequency: where.
        imaging_gain_percent: see the module; in percent.
        locked_share: the same regression as a share of the power, 0 to 1. Its
            significance and verdict are those of the gain.
        fixed_pattern_levels: root mean square, grey levels.
        free_pattern_levels: grey levels, of luminance; None on the axes.
        free_chroma_levels: the same of chroma; None on the axes and for grey images.
        parts: of the fixed pattern (grey levels) and the gain (percent) by channel,
            luminance and chroma; empty for grey images.
        contrast_levels: root mean square of the images about their mean, grey levels.
    """

    frequency: GridFrequency
    imaging_gain_percent: Reading
    locked_share: Reading
    fixed_pattern_levels: Reading
    free_pattern_levels: Reading | None
    free_chroma_levels: Reading | None
    parts: Parts
    contrast_levels: float

    @property
    def found(self) -> list[str]:
        """Names of the readings that are a pattern."""
        names = (*READINGS, "free_chroma_levels")
        readings = [(name, getattr(self, name)) for name in names]
        return [name for name, reading in readings if reading and reading.found]

    @property
    def pattern_levels(self) -> float:
        """Root mean square of all that was found, in grey levels.

        What follows the content counts at the usual contrast of the images.
        """
        factors = {READINGS[0]: self.contrast_levels / 100}
        return math.hypot(
            *(
                getattr(self, name).samples.value * factors.get(name, 1.0)
                for name in self.found
            )
        )


@dataclass(frozen=True)
class Fit:
    """One complex vector per set, estimated with its spread.

    Attributes:
        vector: real parts, and imaginary ones unless they are 0 by symmetry.
        covariance: of the vector.
        metric: quadratic form that gives its squared size.
        num_groups: groups behind the covariance.
    """

    vector: np.ndarray
    covariance: np.ndarray
    metric: np.ndarray
    num_groups: int

    def minus(self, other: "Fit") -> "Fit":
        """The difference of two independent sets, sized as this one."""
        return Fit(
            self.vector - other.vector,
            self.covariance + other.covariance,
            self.metric,
            min(self.num_groups, other.num_groups),
        )

    def square(self) -> tuple[float, float]:
        """Squared size without the part that noise adds, and its standard error."""
        v, q, noise = self.vector, self.metric, self.metric @ self.covariance
        # Variance of a quadratic form; its first term alone keeps it positive at 0.
        variance = 2 * np.trace(noise @ noise) + 4 * max(v @ noise @ q @ v, 0.0)
        return float(v @ q @ v - np.trace(noise)), math.sqrt(max(variance, 0.0))

    def estimate(self, scale: float = 1.0) -> Estimate:
        """Size times `scale` with its interval."""
        square, error = self.square()
        limits = square - NORMAL * error, square + NORMAL * error
        value, low, high = (scale * math.sqrt(max(x, 0.0)) for x in (square, *limits))
        return Estimate(value, low, high)

    def test(self) -> tuple[float, float]:
        """Hotelling's test for the vector 0.

        Returns:
            The natural logarithm of the p-value, and the standard deviations of a
            normal that have the same two-sided p-value.
        """
        scale = np.sqrt(np.maximum(np.diag(self.covariance), 1e-300))
        correlation = self.covariance / np.outer(scale, scale)
        inverse, rank = scipy.linalg.pinvh(correlation, rtol=1e-8, return_rank=True)
        standard = self.vector / scale
        square, n = float(standard @ inverse @ standard), self.num_groups
        if rank == 0 or n <= rank + 1:
            return 0.0, 0.0
        ratio = square * (n - rank) / (rank * (n - 1))
        log_p = float(scipy.stats.f.logsf(ratio, rank, n - rank))
        if log_p > LOG_TINY:
            return log_p, float(scipy.stats.norm.isf(math.exp(log_p) / 2))
        return LOG_TINY, math.sqrt(square)  # beyond the range of a p-value


def read(
    samples: Moments, reference: Moments, null: Moments, resolution: "Resolution"
) -> list[GridReading]:
    """Reads a set of images against real ones.

    Args:
        samples: of the set in question.
        reference: of one half of the real images.
        null: of the other half.
        resolution: what `nuisances.measure_resolution` found for these real images.

    Raises:
        ValueError: if sizes, channels or strides differ.
    """
    kinds = {
        (m.layout.shape, m.num_channels, m.layout.strides)
        for m in (samples, reference, null)
    }
    if len(kinds) > 1:
        raise ValueError(
            f"received {samples.layout.shape} px and {samples.num_channels} channels, "
            f"expected {reference.layout.shape} px and {reference.num_channels}"
        )
    found = [
        read_frequency(k, samples, reference, null, resolution)
        for k in range(len(reference.layout.frequencies))
    ]
    return decide(found)


def decide(readings: Sequence[GridReading]) -> list[GridReading]:
    """Corrects for all tests of the set together (Holm), then names the patterns."""
    tests = [
        (k, name, getattr(item, name))
        for k, item in enumerate(readings)
        for name in (*READINGS, "free_chroma_levels")
        if getattr(item, name)
    ]
    adjusted = holm(np.exp([reading.log_p for _, _, reading in tests]))
    decided = list(readings)
    for (k, name, reading), p in zip(tests, adjusted, strict=True):
        found = bool(p < SIGNIFICANCE and reading.excess > reading.limit)
        changes = {name: replace(reading, found=found)}
        if name == READINGS[0]:
            changes["locked_share"] = replace(decided[k].locked_share, found=found)
        decided[k] = replace(decided[k], **changes)
    return decided


def read_frequency(
    k: int,
    samples: Moments,
    reference: Moments,
    null: Moments,
    resolution: "Resolution",
) -> GridReading:
    """All readings at the grid frequency of index k, verdicts not yet given."""
    frequency = reference.layout.frequencies[k]
    sets = samples, reference, null
    num_tests = 3 * len(reference.layout.frequencies)

    def reading(
        estimates: Sequence[Estimate], difference: Fit, scale: float, name: str
    ) -> Reading:
        square, _ = difference.square()
        noise = math.sqrt(max(np.trace(difference.metric @ difference.covariance), 0))
        smallest = scipy.stats.norm.isf(SIGNIFICANCE / num_tests / 2) * noise * scale
        log_p, z = difference.test()
        return Reading(
            estimates[0],
            estimates[2],
            scale * math.sqrt(max(square, 0.0)),
            z,
            log_p,
            smallest + RESOLUTION_MARGIN * resolution.of(k, name),
        )

    gains = [fit_gain(moments, k) for moments in sets]
    contents = [content_power(moments, k) for moments in sets]
    nears = [moments.power_near[k].sum() / moments.num_images for moments in sets]
    percents = [100 / math.sqrt(max(power, TINY)) for power in contents]
    difference = gains[0].minus(gains[1])
    gain = reading(
        [fit.estimate(scale) for fit, scale in zip(gains, percents, strict=True)],
        difference,
        percents[0],
        READINGS[0],
    )
    shares = [
        squared(fit.estimate(1 / math.sqrt(max(power, TINY))))
        for fit, power in zip(gains, nears, strict=True)
    ]
    share = Reading(shares[0], shares[2], shares[0].value, gain.z, gain.log_p, 0.0)
    lines = [fit_line(moments, k) for moments in sets]
    fixed = reading(
        [fit.estimate() for fit in lines], lines[0].minus(lines[1]), 1.0, READINGS[1]
    )
    free: list[Reading | None] = [None, None]
    if not frequency.on_axis:
        for part in range(reference.ring_powers.shape[3]):
            name = READINGS[2] if part == 0 else "free_chroma_levels"
            free[part] = read_free(sets, k, part, num_tests, resolution.of(k, name))
    return GridReading(
        frequency,
        gain,
        share,
        fixed,
        free[0],
        free[1],
        parts_of(samples, k, percents[0]),
        samples.contrast_levels,
    )


def fit_gain(moments: Moments, k: int) -> Fit:
    """Least squares of X(f + a) on the low frequencies, with its jackknife."""
    is_real = moments.layout.frequencies[k].is_real
    return fit_regression(
        moments.gram[k], moments.cross[k], moments.num_images, is_real
    )


def fit_regression(
    gram: np.ndarray, cross: np.ndarray, num_images: int, is_real: bool
) -> Fit:
    """Least squares from products of explaining and explained values, by group.

    Args:
        gram: (G, K, K), sums of conj(Z) Z.
        cross: (G, K, C), sums of conj(Z) X.
        num_images: number of images behind all groups.
        is_real: whether the coefficients are real by symmetry.
    """
    total = gram.sum(axis=0)
    regular = total + ridge(total)
    whole = np.linalg.solve(regular, cross.sum(axis=0))
    without = np.linalg.solve(regular - gram, cross.sum(axis=0) - cross)
    return Fit(
        as_real(whole[np.newaxis], is_real)[0],
        jackknife_covariance(as_real(without, is_real)),
        metric_of(total / num_images, cross.shape[2], is_real),
        len(gram),
    )


def ridge(gram: np.ndarray) -> np.ndarray:
    """What makes the regression unique where explaining transforms are equal."""
    size = len(gram)
    return (RIDGE * np.trace(gram).real / size + TINY) * np.eye(size)


def fit_line(moments: Moments, k: int) -> Fit:
    """Mean over images of X(a), whose size is that of the fixed pattern."""
    return fit_mean(moments.lines[k], moments.counts, moments.layout.frequencies[k])


def fit_mean(lines: np.ndarray, counts: np.ndarray, frequency: GridFrequency) -> Fit:
    """Mean of lines from their sums by group (G, C) and the groups' weights (G,)."""
    counts = counts[:, np.newaxis]
    whole = lines.sum(axis=0) / counts.sum()
    without = (lines.sum(axis=0) - lines) / (counts.sum() - counts)
    vector = as_real(whole[np.newaxis], frequency.is_real)[0]
    scale = frequency.multiplicity / lines.shape[1]
    return Fit(
        vector,
        jackknife_covariance(as_real(without, frequency.is_real)),
        scale * np.eye(len(vector)),
        len(lines),
    )


def as_real(values: np.ndarray, is_real: bool) -> np.ndarray:
    """Complex (n, ...) as real vectors (n, d): half as long where they are real."""
    flat = values.reshape(len(values), -1)
    return flat.real if is_real else np.concatenate([flat.real, flat.imag], axis=1)


def jackknife_covariance(without: np.ndarray) -> np.ndarray:
    """Covariance of an estimate from its values without each of the groups: (n, d)."""
    deviation = without - without.mean(axis=0)
    return (len(without) - 1) / len(without) * deviation.T @ deviation


def metric_of(gram: np.ndarray, channels: int, is_real: bool) -> np.ndarray:
    """The form that turns coefficients into the power that they explain."""
    real, imaginary = (np.kron(m, np.eye(channels)) for m in (gram.real, gram.imag))
    if is_real:
        return real
    return np.block([[real, -imaginary], [imaginary, real]])


def content_power(moments: Moments, k: int) -> float:
    """Power of an image's own low frequencies, over channels, squared grey levels."""
    diagonal = np.diagonal(moments.gram[k].sum(axis=0)).real
    return float(diagonal[: moments.num_channels].sum() / moments.num_images)


def squared(estimate: Estimate) -> Estimate:
    """The squares of an estimate and its limits."""
    return Estimate(*(x**2 for x in vars(estimate).values()))


def read_free(
    sets: Sequence[Moments], k: int, part: int, num_tests: int, resolution: float
) -> Reading:
    """The narrow peak of power at a grid frequency, against the reference's."""
    multiplicity = sets[0].layout.frequencies[k].multiplicity
    peaks = [
        log_peak(moments.ring_powers[k, :, :, part] / moments.num_images)
        for moments in sets
    ]

    def levels(index: int, standard_errors: float = 0.0) -> float:
        (peak, variance, background), (usual, usual_variance, _) = (
            peaks[index],
            peaks[1],
        )
        error = math.sqrt(variance + usual_variance)
        excess = math.exp(peak + standard_errors * error) - math.exp(usual)
        square = excess * background * multiplicity
        return math.copysign(math.sqrt(abs(square)), square)

    estimates = [
        Estimate(levels(i), levels(i, -NORMAL), levels(i, NORMAL)) for i in (0, 2)
    ]
    error = math.sqrt(peaks[0][1] + peaks[1][1])
    score = (peaks[0][0] - peaks[1][0]) / error if error else 0.0
    # A peak as high as that of the strongest nuisance has an error in proportion.
    chance = math.exp(scipy.stats.norm.isf(SIGNIFICANCE / num_tests / 2) * error)
    usual_power = math.exp(peaks[1][0]) * peaks[0][2] * multiplicity
    most = (RESOLUTION_MARGIN * resolution) ** 2 + usual_power
    limit = math.sqrt(max(most * chance - usual_power, 0.0))
    log_p = math.log(2) + float(scipy.stats.norm.logsf(abs(score)))
    log_p = min(max(log_p, LOG_TINY), 0.0)
    return Reading(
        estimates[0],
        estimates[1],
        estimates[0].value,  # a lack, below 0, is no pattern
        score,
        log_p,
        limit,
    )


def log_peak(powers: np.ndarray) -> tuple[float, float, float]:
    """Logarithm of bin over ring with its variance, and the ring's mean power.

    Args:
        powers: (G, 2), sums over the images of each group, per image of the whole set.
    """
    total = powers.sum(axis=0)
    without = total - powers
    logs = np.log(np.maximum(without[:, 0], TINY) / np.maximum(without[:, 1], TINY))
    variance = (len(logs) - 1) * float(logs.var())
    log = math.log(max(total[0], TINY) / max(total[1], TINY))
    return log, variance, float(total[1])


def parts_of(moments: Moments, k: int, percent: float) -> Parts:
    """Fixed pattern (levels) and gain (percent) by channel, luminance and chroma."""
    if moments.num_channels == 1:
        return {}
    gram, identity = moments.gram[k].sum(axis=0), np.eye(3)
    gains = np.linalg.solve(gram + ridge(gram), moments.cross[k].sum(axis=0))
    line = moments.lines[k].sum(axis=0) / moments.counts.sum()
    multiplicity = moments.layout.frequencies[k].multiplicity
    mixes = dict(zip(("red", "green", "blue"), identity[:, np.newaxis], strict=True))
    mixes |= {"luminance": LUMA[np.newaxis], "chroma": identity - LUMA}
    found = {}
    for name, mix in mixes.items():
        mixed = gains @ mix.T
        power = np.einsum("kc,kl,lc->", mixed.conj(), gram, mixed).real
        fixed = multiplicity * np.mean(np.abs(mix @ line) ** 2)
        gain = percent * math.sqrt(max(power, 0.0) / moments.num_images)
        found[name] = math.sqrt(fixed), gain
    return found


@dataclass(frozen=True)
class Resolution:
    """The most that ordinary changes of real images may do to each reading.

    Attributes:
        sizes: for each grid frequency and reading the largest upper end of a 95 %
            interval of the excess, and the name of the change that had it.
    """

    sizes: tuple[dict[str, tuple[float, str]], ...]

    def of(self, k: int, name: str) -> float:
        """Of reading `name` at the frequency of index k; 0 where none was taken."""
        return self.sizes[k].get(name, (0.0, ""))[0] if self.sizes else 0.0


NO_RESOLUTION = Resolution(())
