"""Intervals and corrections, compared with results computed by hand."""

import numpy as np
import pytest

from analysis.statistics import holm, paired_difference, t_interval


def test_t_interval_of_three_runs():
    interval = t_interval(np.array([1.0, 2.0, 3.0]))
    half = 4.302653 * 1 / np.sqrt(3)
    assert vars(interval) == pytest.approx(
        {"value": 2, "low": 2 - half, "high": 2 + half}
    )


def test_a_paired_difference_finds_what_the_means_do_not_show():
    """Seeds differ by 10, methods by 1: only the pairs show a difference."""
    seeds = np.array([10.0, 20.0, 30.0, 40.0, 50.0])
    better = seeds - 1 + np.array([0.1, -0.1, 0.0, 0.1, -0.1])
    interval, p_value = paired_difference(seeds, better)
    assert interval.low < 1 < interval.high and interval.low > 0.8
    assert p_value < 1e-4
    assert t_interval(seeds).low < t_interval(better).high  # unpaired: overlap


def test_unequal_numbers_of_runs_and_single_runs_are_refused():
    with pytest.raises(ValueError, match="3 and 2 runs"):
        paired_difference(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="at least 2"):
        t_interval(np.array([1.0]))


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.5, 0.9])) == pytest.approx([1, 1])
    assert holm(np.array([0.04])) == pytest.approx([0.04])
