import numpy as np
import pytest

from analysis.checkerboard.frequencies import grid_frequencies
from analysis.checkerboard.kernels import (
    Stage,
    chain_lines,
    imbalance,
    phase_gains,
    response,
)

EXACT = 1e-10  # float64 sums of a few hundred terms


def ones(size, channels=1):
    return np.ones((size, size, channels, channels))


def upsample_circular(x, stage):
    """Zero insertion and circular convolution: the slow reference of a stage."""
    sh, sw = stage.strides
    spaced = np.zeros((x.shape[0] * sh, x.shape[1] * sw, x.shape[2]))
    spaced[::sh, ::sw] = x
    output = np.zeros((*spaced.shape[:2], stage.kernel.shape[2]))
    for row, column in np.ndindex(stage.kernel.shape[:2]):
        moved = np.roll(spaced, (row, column), axis=(0, 1))
        output += moved @ stage.kernel[row, column].T
    return output


def test_phase_gains_of_five_ones_are_the_nine_six_six_four_overlap():
    assert phase_gains(ones(5), (2, 2))[..., 0, 0].tolist() == [[9, 6], [6, 4]]


@pytest.mark.parametrize("size", range(1, 8))
@pytest.mark.parametrize("strides", [(2, 2), (3, 3), (2, 3), (4, 1)])
def test_the_phase_gains_transform_is_the_kernels_transform_at_the_lines(size, strides):
    kernel = np.random.default_rng(size).standard_normal((size, size + 1, 3, 2))
    lines = np.fft.fft2(phase_gains(kernel, strides), axes=(0, 1))
    for row, column in np.ndindex(*strides):
        frequency = (row / strides[0], column / strides[1])
        expected = response(kernel, frequency)
        np.testing.assert_allclose(lines[row, column], expected, atol=EXACT)


def test_a_box_is_zero_at_the_frequencies_that_divide_its_size():
    assert np.abs(response(ones(4), (1 / 2, 0))) < EXACT
    assert np.abs(response(ones(4), (0, 1 / 4))) < EXACT
    assert np.abs(response(ones(5), (1 / 2, 0))) == pytest.approx(5)  # 25 at DC: 1/5


@pytest.mark.parametrize(
    ("stride", "expected"),
    [(2, 0.75), (3, 8 / 9)],  # 1 - 1/stride^2
)
def test_random_weights_are_as_unbalanced_as_their_phases_are_many(stride, expected):
    rng = np.random.default_rng(0)
    for size in range(stride, 7):
        kernel = rng.standard_normal((size, size, 128, 64))
        # 8192 pairs: the sum's relative spread is about 1 / sqrt(8192) of 1/4.
        assert imbalance(kernel, (stride, stride)) == pytest.approx(expected, abs=0.015)


def test_imbalance_is_zero_for_a_balanced_kernel_and_one_for_a_pure_checkerboard():
    board = np.array([[1.0, -1], [-1, 1]])[:, :, None, None]
    assert imbalance(ones(4), (2, 2)) == pytest.approx(0, abs=EXACT)
    assert imbalance(board, (2, 2)) == pytest.approx(1)
    assert imbalance(np.zeros((3, 3, 1, 1)), (2, 2)) == 0


def test_predicted_lines_are_the_transform_of_one_layers_constant_response():
    rng = np.random.default_rng(1)
    stage = Stage((2, 3), rng.standard_normal((5, 4, 6, 2)))
    means = rng.standard_normal(2)
    field = np.tile(means, (4, 4, 1))
    pattern = upsample_circular(field, stage)[:2, :3]
    measured = np.fft.fft2(pattern, axes=(0, 1)) / 6
    predicted = chain_lines([stage], means)
    np.testing.assert_allclose(measured, predicted, atol=EXACT)


def test_a_chain_of_layers_composes():
    rng = np.random.default_rng(2)
    stages = [
        Stage((2, 2), rng.standard_normal((5, 5, 4, 3))),
        Stage((1, 1), rng.standard_normal((3, 3, 5, 4))),
        Stage((1, 2), rng.standard_normal((1, 4, 5, 5))),
        Stage((2, 2), rng.standard_normal((4, 3, 2, 5))),
    ]
    means = rng.standard_normal(3)
    values = np.tile(means, (6, 6, 1))
    for stage in stages:
        values = upsample_circular(values, stage)
    measured = np.fft.fft2(values[:4, :8], axes=(0, 1)) / 32
    np.testing.assert_allclose(measured, chain_lines(stages, means), atol=1e-8)


def test_two_stages_of_five_ones_give_a_fifth_and_a_twenty_fifth_of_the_mean():
    stages = [Stage((2, 2), ones(5)), Stage((2, 2), ones(5))]
    lines = np.abs(chain_lines(stages, np.ones(1))[..., 0])
    assert lines[2, 0] / lines[0, 0] == pytest.approx(1 / 5)
    assert lines[1, 0] / lines[0, 0] == pytest.approx(1 / 25)


def test_four_ones_give_no_line():
    stages = [Stage((2, 2), ones(4)), Stage((2, 2), ones(4))]
    lines = np.abs(chain_lines(stages, np.ones(1))[..., 0])
    assert np.sort(lines.ravel())[-2] < EXACT * lines[0, 0]


@pytest.mark.parametrize("taps", [[1, 1], [1 / 4, 3 / 4, 3 / 4, 1 / 4], [1, 2, 1]])
def test_the_kernels_of_interpolation_keep_a_constant_and_give_no_line(taps):
    stage = Stage((2, 2), np.outer(taps, taps)[:, :, None, None])
    lines = chain_lines([stage], np.ones(1))[..., 0]
    assert lines[0, 0] == pytest.approx(sum(taps) ** 2 / 4)
    assert np.abs(lines.ravel()[1:]).max() < EXACT


@pytest.mark.parametrize("unbalanced", [0, 1, 2])
def test_the_lines_belong_to_the_stage_that_is_not_balanced(unbalanced, balanced):
    """`GridFrequency.stage` counts from the last one, the chain from the first."""
    free = np.random.default_rng(3).standard_normal((3, 4, 4, 1, 1))
    kernels = [balanced(kernel) for kernel in free]
    kernels[unbalanced] = free[unbalanced]
    lines = chain_lines([Stage((2, 2), kernel) for kernel in kernels], np.ones(1))
    for frequency in grid_frequencies((2, 2, 2)):
        line = lines[int(frequency.row * 8) % 8, int(frequency.column * 8) % 8, 0]
        assert (abs(line) > EXACT) == (frequency.stage == 3 - unbalanced)
