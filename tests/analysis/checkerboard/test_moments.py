"""Sums over a set do not depend on how it is cut or stored."""

import numpy as np
import pytest

from analysis.checkerboard import moments
from analysis.checkerboard.moments import measure_moments
from gan.data.images import to_float

SUMS = ("mean_image", "power", "gram", "cross", "power_near", "lines", "ring_powers")


def totals(found):
    """All sums with the groups added up."""
    grouped = ("gram", "cross", "power_near", "lines", "ring_powers")
    return {
        name: getattr(found, name).sum(axis=1) if name in grouped else found_value
        for name in SUMS
        for found_value in [getattr(found, name)]
    }


def assert_equal(first, second, tolerance):
    for name, values in totals(first).items():
        other = totals(second)[name]
        scale = np.abs(values).max()
        assert np.abs(values - other).max() <= tolerance * scale, name


@pytest.fixture(scope="module")
def images(real):
    return real[0][:700]


def test_the_size_of_chunks_does_not_matter(images, monkeypatch):
    whole = measure_moments(images, (2, 2))
    monkeypatch.setattr(moments, "CHUNK_VALUES", 28 * 28 * 3)
    assert_equal(whole, measure_moments(images, (2, 2)), 1e-6)


def test_no_chunk_has_a_group_twice():
    images = np.empty((1500, 28, 28, 1), np.uint8)
    pieces = list(moments.chunks(images))
    numbers = np.concatenate([np.arange(len(images))[piece] for piece in pieces])
    assert np.array_equal(numbers, np.arange(1500))
    for piece in pieces:
        assert (
            piece.start // moments.NUM_GROUPS == (piece.stop - 1) // moments.NUM_GROUPS
        )


def test_floats_are_read_as_the_levels_they_stand_for(images):
    whole = measure_moments(images, (2, 2))
    # float32 in [-1, 1] keeps 2e-5 of a grey level.
    assert_equal(whole, measure_moments(to_float(images), (2, 2)), 1e-5)


def test_groups_stay_few_and_hold_every_image(images):
    found = measure_moments(images, (2, 2))
    assert found.gram.shape[1] == moments.NUM_GROUPS
    assert found.counts.sum() == pytest.approx(700)


def test_white_noise_has_a_flat_spectrum_and_a_wave_its_own_bin(fields):
    found = measure_moments((fields - 127.5) / 127.5, (2, 2))
    power = found.power / np.square(found.layout.window).sum()
    # 3000 images: each bin within six standard errors (2 % each, 3 % where real).
    assert power[1:, 1:] == pytest.approx(np.full((27, 27), 400.0), rel=0.16)
    columns = np.cos(2 * np.pi * 7 * np.arange(28) / 28)
    wave = np.broadcast_to(10 * columns, (600, 28, 28))[..., None] + 128
    found = measure_moments((wave - 127.5) / 127.5, (2, 2))
    assert found.power[0, 7] == pytest.approx(25, rel=1e-4)  # (10 / 2)^2


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((0, 28, 28, 1), np.uint8), "no images"),
        (np.full((3, 28, 28, 1), np.nan, np.float32), "not finite"),
    ],
)
def test_what_cannot_be_measured_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        measure_moments(images, (2, 2))
