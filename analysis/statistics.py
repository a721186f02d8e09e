"""Student's t-intervals over training runs, and Holm's correction of p-values.

Images of several runs are never pooled: only runs say how well a method works.
"""

from dataclasses import dataclass

import numpy as np
import scipy.stats

CONFIDENCE = 0.95  # of all intervals


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


def paired_difference(first: np.ndarray, second: np.ndarray) -> tuple[Interval, float]:
    """Returns the mean of first - second over runs paired by seed, and its p-value.

    The t-test is two-sided. Where no pair differs at all, such as values that all stand
    at the same limit, the p-value is 1.
    """
    if len(first) != len(second):
        raise ValueError(
            f"received {len(first)} and {len(second)} runs, expected pairs"
        )
    difference = np.subtract(first, second, dtype=np.float64)
    interval = t_interval(difference)
    if not difference.any():
        return interval, 1.0
    return interval, float(scipy.stats.ttest_1samp(difference, 0.0).pvalue)


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
