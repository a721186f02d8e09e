"""Grid frequencies and their bins against lists worked by hand."""

from fractions import Fraction

import numpy as np
import pytest

from analysis.checkerboard.frequencies import (
    grid_frequencies,
    make_layout,
    strides_to_scan,
)


def places(strides, stage):
    return {(f.row, f.column) for f in grid_frequencies(strides) if f.stage == stage}


def test_two_doublings_have_three_and_six_frequencies():
    half, quarter, zero = Fraction(1, 2), Fraction(1, 4), Fraction(0)
    assert places((2, 2), 1) == {(zero, half), (half, zero), (half, half)}
    assert places((2, 2), 2) == {
        (zero, quarter),
        (quarter, zero),
        (quarter, quarter),
        (quarter, -quarter),
        (quarter, half),
        (half, quarter),
    }


def test_every_multiple_stands_once_with_its_conjugate():
    for strides in ((2,), (3,), (2, 2), (3, 2), (2, 2, 2, 2)):
        found = grid_frequencies(strides)
        total = int(np.prod(strides))
        assert sum(f.multiplicity for f in found) == total**2 - 1
        conjugates = {(-f.row % 1, -f.column % 1) for f in found if not f.is_real}
        assert not conjugates & {(f.row % 1, f.column % 1) for f in found}


def test_the_last_stride_owns_its_own_multiples():
    stages = {f.name: f.stage for f in grid_frequencies((2, 3))}
    assert stages["(1/3, 0)"] == 1
    assert stages["(1/2, 0)"] == 2


def test_bins_rings_and_bands_of_28_pixels():
    layout = make_layout(28, 28, (2, 2))
    names = [f.name for f in layout.frequencies]
    corner = names.index("(1/2, 1/2)")
    assert layout.centers[corner] == 14 * 28 + 14
    assert layout.radii[corner] == 3  # an eighth of 28 pixels
    assert layout.radii[names.index("(1/4, 0)")] == 2  # half of 7 bins, less one
    distances = [
        max(abs(i - 14), abs(j - 14))
        for i, j in zip(*np.divmod(layout.rings[corner], 28), strict=True)
    ]
    assert set(distances) == {2, 3}
    on_axis = layout.rings[names.index("(0, 1/2)")]
    assert set(on_axis // 28) == {0}


def test_bands_wrap_around_and_keep_their_order():
    layout = make_layout(28, 28, (2, 2))
    low, high = layout.band(3), layout.band(3, 14 * 28 + 14)
    assert len(low) == len(high) == 29  # points of a disc of radius 3
    for a, b in zip(low, high, strict=True):
        assert (np.array(divmod(b, 28)) - divmod(a, 28)) % 28 == pytest.approx([14, 14])


def test_odd_sizes_lose_what_does_not_fill_a_period():
    assert make_layout(31, 29, (2, 2)).shape == (28, 28)


def test_the_window_has_sum_one():
    assert make_layout(32, 24, (2,)).window.sum() == pytest.approx(1, rel=1e-6)


def test_images_too_small_for_the_strides_are_refused():
    with pytest.raises(ValueError, match="strides 2,2,2; .* sides of 32 px or more"):
        make_layout(28, 28, (2, 2, 2))


@pytest.mark.parametrize(
    ("side", "strides"), [(64, (2, 2, 2)), (28, (2, 2)), (12, (2,))]
)
def test_unknown_strides_are_scanned_as_far_as_the_size_allows(side, strides):
    assert strides_to_scan(side, side) == strides


def test_nothing_can_be_scanned_in_tiny_images():
    with pytest.raises(ValueError, match="expected sides of 8 px or more"):
        strides_to_scan(7, 7)
