"""The controls pass on real images, and each fails when the meter would be wrong."""

import numpy as np
import pytest

from analysis.checkerboard import controls
from analysis.checkerboard.controls import (
    agrees,
    flat_control,
    holds,
    kernel_control,
    nearest_control,
    null_control,
    recovery_controls,
    run_controls,
    transposed_convolution,
)
from analysis.statistics import Interval
from gan.data.dataset import BUNDLED_FILE
from gan.data.images import round_to_uint8


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    with np.load(BUNDLED_FILE, allow_pickle=False) as arrays:
        return arrays["test_images"][..., np.newaxis]


def checkerboard(images: np.ndarray, amplitude: float) -> np.ndarray:
    sign = 1 - 2 * (np.indices(images.shape[1:3]).sum(axis=0) % 2)
    return round_to_uint8(images * 0.9 + 12.75 + amplitude * sign[..., np.newaxis])


def test_all_controls_pass_on_real_images(real: np.ndarray):
    results = run_controls(real)
    assert [result.name[:2] for result in results] == [
        *("C1", "C2", "C2", "C2", "C3", "C4", "C5", "C6", "C7")
    ]
    assert [result.name for result in results if not result.passed] == []


def test_an_artifact_in_one_half_fails_the_null(real: np.ndarray):
    r1, r2 = checkerboard(real[::2], 0), checkerboard(real[1::2], 1)
    assert null_control(r1, r1, seed=0).passed
    assert not null_control(r1, r2, seed=0).passed


def test_clipping_fails_the_recovery(real: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(controls, "HEADROOM", 1.0)
    diagonal = recovery_controls(real[:2000:2], real[1:2000:2], seed=0)[0]
    assert not diagonal.passed


def test_a_wrong_scale_fails_the_recovery(
    real: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    right = controls.checkerboard.squared_amplitudes
    monkeypatch.setattr(
        controls.checkerboard, "squared_amplitudes", lambda *a: 1.3 * right(*a)
    )
    assert not recovery_controls(real[:2000:2], real[1:2000:2], seed=0)[0].passed
    assert not kernel_control(np.random.default_rng(0), seed=0).passed


def test_structure_fails_the_flat_spectrum():
    noise = np.random.default_rng(0).normal(128, 20, (3000, 28, 28, 1))
    assert flat_control("noise", round_to_uint8(noise), seed=0).passed
    assert not flat_control(
        "lines", checkerboard(round_to_uint8(noise), 2), seed=0
    ).passed


def test_noise_on_repeated_pixels_fills_the_zero(monkeypatch: pytest.MonkeyPatch):
    random = np.random.default_rng(0)
    small = round_to_uint8(random.normal(128, 20, (500, 14, 14, 1)))
    assert nearest_control(small).passed
    exact = controls.measure
    monkeypatch.setattr(
        controls,
        "measure",
        lambda images, **options: exact(
            round_to_uint8(images + random.normal(0, 1, images.shape)), **options
        ),
    )
    assert not nearest_control(small).passed


def test_intervals_are_widened_but_not_endlessly():
    interval = Interval(1.0, 0.5, 1.4)
    assert holds(interval, 0.2) and holds(interval, 1.6)
    assert not holds(interval, 0.1) and not holds(interval, 1.8)
    assert agrees(Interval(2.09, 2.08, 2.10), 2.0)
    assert not agrees(Interval(2.2, 2.19, 2.21), 2.0)


def test_scattering_sums_the_phase_gains_of_a_constant():
    interior = transposed_convolution(np.ones((1, 18, 18)), np.ones((5, 5)))[0]
    assert interior.shape == (28, 28)
    assert interior[:2, :2] == pytest.approx(np.array([[9, 6], [6, 4]]))
    assert interior == pytest.approx(np.tile(interior[:2, :2], (14, 14)))
