"""Intervals and corrections, compared with results computed by hand."""

import numpy as np
import pytest
import scipy.stats

from analysis.statistics import (
    detectable_difference,
    holm,
    provable_margin,
    t_interval,
    welch_difference,
)


def test_t_interval_of_three_runs():
    interval = t_interval(np.array([1.0, 2.0, 3.0]))
    half = 4.302653 * 1 / np.sqrt(3)
    assert vars(interval) == pytest.approx(
        {"value": 2, "low": 2 - half, "high": 2 + half}
    )


def test_the_difference_of_two_sets_by_hand():
    """Variances 1 and 4 of three runs each: se^2 = 5/3, (5/3)^2 / (17/18) = 2.94 df."""
    interval, p_value = welch_difference(np.array([1.0, 2, 3]), np.array([2.0, 4, 6]))
    error, freedom = np.sqrt(5 / 3), 50 / 17
    half = scipy.stats.t.ppf(0.975, freedom) * error
    expected = {"value": -2, "low": -2 - half, "high": -2 + half}
    assert vars(interval) == pytest.approx(expected)
    assert p_value == pytest.approx(2 * scipy.stats.t.cdf(-2 / error, freedom))


def test_sets_without_variance_differ_or_are_equal():
    assert welch_difference(np.full(3, -67.0), np.full(5, -67.0))[1] == 1
    interval, p_value = welch_difference(np.full(3, -60.0), np.full(3, -67.0))
    assert (interval.low, interval.high, p_value) == (7, 7, 0)


def test_a_set_without_variance_does_not_hide_that_of_the_other():
    """Equal means, deviations 2 and 0: 5 % of 400 tests are wrong.

    The control pools the variance over the reference and four such sets.
    """
    random = np.random.default_rng(0)
    pooled = wrong = 0
    limit = np.full(5, -67.0)
    for reference in random.normal(-67, 2, (400, 5)):
        wrong += welch_difference(limit, reference)[1] < 0.05
        error = np.sqrt(2 / 5 * reference.var(ddof=1) / 5)
        pooled += abs(reference.mean() + 67) / error > scipy.stats.t.ppf(0.975, 20)
    assert 8 <= wrong <= 34
    assert pooled > 60


def test_single_runs_are_refused():
    with pytest.raises(ValueError, match="3 and 1 runs"):
        welch_difference(np.zeros(3), np.zeros(1))
    with pytest.raises(ValueError, match="at least 2"):
        t_interval(np.array([1.0]))


def test_differences_are_found_with_the_stated_probability():
    """Cohen (1988): 64 runs of each find half a deviation with a probability of 80 %.

    Then other simulated studies, each tested as the page of a study tests: of 3 runs
    each, the power of a test with a pooled variance would be too good.
    """
    assert detectable_difference(1, 64) == pytest.approx(0.5, abs=0.01)
    assert detectable_difference(3, 64) == pytest.approx(1.5, abs=0.03)
    random = np.random.default_rng(1)
    for num_runs, comparisons in ((3, 1), (4, 5), (2, 300)):
        shift = detectable_difference(2, num_runs, comparisons)
        pairs = random.normal(0, 2, (500, 2, num_runs)) + [[shift], [0]]
        found = [welch_difference(*pair)[1] < 0.05 / comparisons for pair in pairs]
        assert np.mean(found) == pytest.approx(0.8, abs=0.06)
    assert detectable_difference(0, 4) == 0


def test_equal_means_are_shown_to_be_equal_with_the_stated_probability():
    """1,000 pairs of sets of 4 runs; each pair passes two one-sided tests or not."""
    margin = provable_margin(2, 4)
    first, second = np.random.default_rng(1).normal(0, 2, (2, 4, 1000))
    options = {"equal_var": False}
    above = scipy.stats.ttest_ind(
        first + margin, second, alternative="greater", **options
    )
    below = scipy.stats.ttest_ind(first - margin, second, alternative="less", **options)
    shown = (above.pvalue < 0.05) & (below.pvalue < 0.05)
    assert shown.mean() == pytest.approx(0.8, abs=0.04)


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.5, 0.9])) == pytest.approx([1, 1])
    assert holm(np.array([0.04])) == pytest.approx([0.04])
