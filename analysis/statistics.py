"""Intervals: bootstrap over images, Student's t over training runs, Holm's correction.

Images of one run say how well that run was measured; only several runs say how a
method does. They are never pooled.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence limits: floats, or arrays of one shape."""

    value: Any
    low: Any
    high: Any

    def __getitem__(self, index: Any) -> "Interval":
        """One element, or some, of an interval of arrays."""
        return Interval(self.value[index], self.low[index], self.high[index])

    def text(self, form: str = "+.2f", to: str = "..") -> str:
        """Returns "value (low .. high)" for a table or a page; `to` replaces ".."."""
        low, high = format(self.low, form), format(self.high, form)
        return f"{self.value:{form}} ({low} {to} {high})"

    def as_dict(self) -> dict[str, float]:
        """The three numbers by name, for JSON."""
        return {name: float(number) for name, number in vars(self).items()}


def bootstrap_means(
    rows: np.ndarray, num_resamples: int, seed: int, num_drawn: int | None = None
) -> np.ndarray:
    """Means over resampled images, as products of matrices.

    Args:
        rows: float32 (n, c + 1); the last column counts the images that a row sums.
        num_resamples: at least 1000 for percentiles.
        seed: of the resampling.
        num_drawn: rows in a resample; None: n.

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


def percentile_interval(table: np.ndarray, level: float = LEVEL) -> Interval:
    """Row 0 as the estimate, the central share `level` of the other rows around it."""
    tail = (1 - level) / 2
    low, high = np.quantile(table[1:], [tail, 1 - tail], axis=0)
    return Interval(table[0], low, high)


def t_interval(values: np.ndarray, level: float = LEVEL) -> Interval:
    """Mean of independent runs with its t-interval, n - 1 degrees of freedom.

    For 1, 2, 3 at 0.95: 2 +- 4.303 / sqrt(3).

    Raises:
        ValueError: for fewer than two runs.
    """
    if len(values) < 2:
        raise ValueError(f"received {len(values)} runs, expected at least 2")
    mean = np.mean(values, dtype=np.float64)
    half = scipy.stats.t.ppf((1 + level) / 2, len(values) - 1) * scipy.stats.sem(values)
    return Interval(mean, mean - half, mean + half)


def paired_difference(
    first: np.ndarray, second: np.ndarray, level: float = LEVEL
) -> tuple[Interval, float]:
    """Mean of first - second over runs paired by seed, and its two-sided p-value.

    Raises:
        ValueError: if the runs do not pair, or are fewer than two.
    """
    if len(first) != len(second):
        raise ValueError(
            f"received {len(first)} and {len(second)} runs, expected pairs"
        )
    difference = np.subtract(first, second, dtype=np.float64)
    interval = t_interval(difference, level)
    return interval, float(scipy.stats.ttest_1samp(difference, 0.0).pvalue)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down adjusted p-values, in the order received.

    The smallest of m is multiplied by m, the next by m - 1, ..., never falling below
    the one before, at most 1: 0.01, 0.04, 0.03 become 0.03, 0.06, 0.06.
    """
    p_values = np.asarray(p_values, np.float64)
    order = np.argsort(p_values)
    scaled = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(scaled)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted
