"""Intervals: bootstrap over images, Student's t over training runs, Holm's correction.

The images of one run say how precisely that run was measured. Only several runs say how
well a method works, so images of several runs are never pooled.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats

CONFIDENCE = 0.95  # of all intervals


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence limits: floats, or arrays of one shape."""

    value: Any
    low: Any
    high: Any

    def __getitem__(self, index: Any) -> "Interval":
        """Returns the interval of some elements, if the three are arrays."""
        return Interval(self.value[index], self.low[index], self.high[index])

    def text(self, form: str = "+.2f", to: str = "..") -> str:
        """Returns "value (low .. high)" for a table or a page; `to` replaces ".."."""
        low, high = format(self.low, form), format(self.high, form)
        return f"{self.value:{form}} ({low} {to} {high})"

    def as_dict(self) -> dict[str, float]:
        """Returns the three numbers by name, for JSON."""
        return {name: float(number) for name, number in vars(self).items()}


def bootstrap_means(
    rows: np.ndarray, num_resamples: int, seed: int, num_drawn: int | None = None
) -> np.ndarray:
    """Returns the means of c quantities over resampled images.

    Args:
        rows: float32 (n, c + 1); the first c columns are sums over one or more images,
            the last column is the number of these images.
        num_resamples: at least 1000 if percentiles are taken.
        seed: seed of the resampling.
        num_drawn: rows per resample; None: n.

    Returns:
        float64 (num_resamples, c).
    """
    random, batch = np.random.default_rng(seed), 250
    totals = []
    for start in range(0, num_resamples, batch):
        size = min(batch, num_resamples - start), num_drawn or len(rows)
        drawn = random.integers(0, len(rows), size, dtype=np.int32)
        counts = [np.bincount(indices, minlength=len(rows)) for indices in drawn]
        totals.append(np.array(counts, np.float32) @ rows)
    sums = np.concatenate(totals).astype(np.float64)
    return sums[:, :-1] / sums[:, -1:]


def percentile_interval(table: np.ndarray) -> Interval:
    """Returns row 0 as the estimate, and the percentile interval of the other rows."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(table[1:], [tail, 1 - tail], axis=0)
    return Interval(table[0], low, high)


def t_interval(values: np.ndarray) -> Interval:
    """Returns the mean of n independent runs with its t-interval.

    There are n - 1 degrees of freedom. The values 1, 2, 3 give
    2 +- 4.303 / sqrt(3).

    Raises:
        ValueError: if there are fewer than two runs.
    """
    if len(values) < 2:
        raise ValueError(f"received {len(values)} runs, expected at least 2")
    mean = np.mean(values, dtype=np.float64)
    quantile = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
    half = quantile * scipy.stats.sem(values)
    return Interval(mean, mean - half, mean + half)


def paired_difference(first: np.ndarray, second: np.ndarray) -> tuple[Interval, float]:
    """Returns the mean of first - second over runs paired by seed, and its p-value.

    The p-value is that of a two-sided t-test of the differences against 0. Where no
    pair differs at all, such as values that all stand at the same limit, it is 1.

    Raises:
        ValueError: if the numbers of runs differ, or are less than two.
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
    becomes smaller than the one before or larger than 1. For example, 0.01, 0.04, 0.03
    become 0.03, 0.06, 0.06.
    """
    p_values = np.asarray(p_values, np.float64)
    order = np.argsort(p_values)
    scaled = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(scaled)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted
