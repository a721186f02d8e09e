"""Intervals and corrections, compared with results computed by hand."""

import time

import numpy as np
import pytest

from analysis.statistics import (
    Interval,
    bootstrap_means,
    holm,
    paired_difference,
    percentile_interval,
    t_interval,
)


def test_t_interval_of_three_runs():
    interval = t_interval(np.array([1.0, 2.0, 3.0]))
    half = 4.302653 * 1 / np.sqrt(3)
    assert interval.as_dict() == pytest.approx(
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


def test_bootstrap_of_a_mean_has_its_standard_error():
    values = np.random.default_rng(0).normal(5, 2, (4000, 1))
    rows = np.hstack([values, np.ones_like(values)]).astype(np.float32)
    means = bootstrap_means(rows, 2000, seed=0)
    assert means.shape == (2000, 1)
    # With 2000 resamples the deviation is known to 1.6 %.
    assert means.std() == pytest.approx(values.std() / np.sqrt(4000), rel=0.06)
    fewer = bootstrap_means(rows, 2000, seed=0, num_drawn=1000)
    assert fewer.std() == pytest.approx(2 * means.std(), rel=0.1)


def test_rows_that_sum_several_images_weigh_as_many():
    values = np.random.default_rng(1).exponential(1, 6000)
    single = np.stack([values, np.ones(6000)], axis=1)
    paired = single.reshape(-1, 2, 2).sum(axis=1)
    mixed = np.vstack([single[:2000], paired[1000:]])
    spreads = [
        bootstrap_means(rows.astype(np.float32), 2000, seed=3).std()
        for rows in (single, paired, mixed)
    ]
    assert spreads == pytest.approx([values.std() / np.sqrt(6000)] * 3, rel=0.06)


def test_an_interval_as_text():
    interval = Interval(1.5, -0.25, 2.0)
    assert interval.text() == "+1.50 (-0.25 .. +2.00)"
    assert interval.text(".1f", to="to") == "1.5 (-0.2 to 2.0)"


def test_percentile_interval_takes_row_0_as_the_estimate():
    table = np.array([7.0, *np.arange(1001)])
    interval = percentile_interval(table)
    assert interval.value == 7
    assert (interval.low, interval.high) == pytest.approx((25, 975))


def test_a_thousand_resamples_of_ten_thousand_images_are_quick():
    rows = np.ones((10_000, 206), np.float32)
    start = time.process_time()
    bootstrap_means(rows, 1000, seed=0)
    # It takes about 0.3 s; the bound allows for a busy machine.
    assert time.process_time() - start < 5
