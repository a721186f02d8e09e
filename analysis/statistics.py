"""Student's t-intervals over training runs, and Holm's correction of p-values.

Images of several runs are never pooled: only runs say how well a method works.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import scipy.stats

CONFIDENCE = 0.95  # of all intervals
POWER = 0.8  # probability with which a planned study shall find a difference
NUM_SIMULATIONS = 10_000  # of a planned study


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence limits."""

    value: float
    low: float
    high: float


def t_interval(values: np.ndarray) -> Interval:
    """Returns the mean of n runs with its t-interval: of 1, 2, 3 it is 2 +- 2.484."""
    if len(values) < 2:
        raise ValueError(f"received {len(values)} runs, expected at least 2")
    mean = np.mean(values, dtype=np.float64)
    quantile = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
    half = quantile * scipy.stats.sem(values)
    return Interval(mean, mean - half, mean + half)


def welch_difference(
    first: np.ndarray, second: np.ndarray, confidence: float = CONFIDENCE
) -> tuple[Interval, float]:
    """Returns mean(first) - mean(second) of two sets of runs, and its p-value.

    Welch's t-test is two-sided and lets the variances differ. Where both sets are
    constant, such as values that all stand at the same limit, the interval has no
    width, and the p-value is 1 for equal sets and 0 for others.
    """
    if min(len(first), len(second)) < 2:
        received = f"{len(first)} and {len(second)} runs"
        raise ValueError(f"received {received}, expected at least 2 of each")
    value = float(np.mean(first, dtype=np.float64) - np.mean(second, dtype=np.float64))
    if not (np.ptp(first) or np.ptp(second)):
        return Interval(value, value, value), float(value == 0)
    with warnings.catch_warnings():  # that a set is constant, which is no fault here
        warnings.simplefilter("ignore", RuntimeWarning)
        test = scipy.stats.ttest_ind(first, second, equal_var=False)
    low, high = test.confidence_interval(confidence)
    return Interval(value, float(low), float(high)), float(test.pvalue)


def detectable_difference(
    spread: float, num_runs: int, num_comparisons: int = 1
) -> float:
    """Returns the smallest difference of means that is found with probability POWER.

    Both sets have `num_runs` runs with the standard deviation `spread`. The test is
    that of `welch_difference`, at the first level of Holm's correction, 0.05 /
    `num_comparisons`; its power is that in NUM_SIMULATIONS simulated studies. For a
    spread of 1, 64 runs and one comparison it is 0.5 (Cohen 1988).
    """
    shape = 2, num_runs, NUM_SIMULATIONS
    first, second = np.random.default_rng(0).standard_normal(shape)
    level = (1 - CONFIDENCE) / num_comparisons

    def missing_power(shift: float) -> float:
        test = scipy.stats.ttest_ind(first + shift, second, equal_var=False)
        return float(np.mean(test.pvalue < level)) - POWER

    highest = 1.0
    while missing_power(highest) < 0:
        highest *= 2
    return spread * scipy.optimize.brentq(missing_power, 0, highest, xtol=1e-4)


def provable_margin(spread: float, num_runs: int) -> float:
    """Returns the margin within which equal means are shown with probability POWER.

    Two one-sided Welch tests at the level 0.05 show it where the 90 % interval of the
    difference lies within the margin, in simulated studies as above.
    """
    shape = 2, num_runs, NUM_SIMULATIONS
    test = scipy.stats.ttest_ind(
        *np.random.default_rng(0).standard_normal(shape), equal_var=False
    )
    low, high = test.confidence_interval(2 * CONFIDENCE - 1)
    return spread * float(np.quantile(np.maximum(-low, high), POWER))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Returns Holm's step-down adjusted p-values, in the order received.

    The smallest of m values is multiplied by m, the next one by m - 1, and so on. None
    becomes smaller than the one before or larger than 1.
    """
    p_values = np.asarray(p_values, np.float64)
    order = np.argsort(p_values)
    scaled = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(scaled)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted
