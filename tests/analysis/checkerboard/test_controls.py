"""The controls pass, and fail for a meter that does not see."""

import numpy as np
import pytest

from analysis.checkerboard import meter
from analysis.checkerboard.controls import (
    PLANTED,
    colour_controls,
    nuisance_controls,
    null_control,
    period_controls,
    planted_control,
    run_controls,
)
from analysis.checkerboard.meter import Fit


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_nothing_is_found_in_real_images(prepared, random):
    assert null_control(prepared, 1, random).passed


def test_no_nuisance_is_a_pattern(prepared, random):
    for control in nuisance_controls(prepared, 1, random):
        assert control.passed, control


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_pattern_is_found(name, prepared, random):
    control = planted_control(name, PLANTED[name], prepared, 1, random)
    assert control.passed, control


@pytest.mark.parametrize(
    "name", ["1 level everywhere", "1 % of the intensity", "2 levels in columns"]
)
def test_a_blind_meter_fails(name, prepared, random, monkeypatch):
    blind = Fit(np.zeros(1), np.eye(1), np.eye(1), 512)
    monkeypatch.setattr(meter, "fit_line", lambda *_: blind)
    monkeypatch.setattr(meter, "fit_gain", lambda *_: blind)
    assert not planted_control(name, PLANTED[name], prepared, 1, random).passed


def test_a_meter_that_sees_patterns_everywhere_fails(prepared, random, monkeypatch):
    certain = Fit(np.full(1, 100.0), np.eye(1) * 1e-3, np.eye(1), 512)
    monkeypatch.setattr(Fit, "minus", lambda *_: certain)
    assert not null_control(prepared, 1, random).passed


@pytest.mark.slow
def test_patterns_of_four_stages_and_of_colour(random):
    for control in [*period_controls(random), *colour_controls(random)]:
        assert control.passed, control


@pytest.mark.slow
def test_all_controls_at_full_size():
    from config.schema import DataConfig
    from gan.data.dataset import load_dataset

    dataset = load_dataset(DataConfig())
    for control in run_controls(dataset.images_uint8, dataset.labels, num_draws=20):
        assert control.passed, control
