"""The integer geometry against TensorFlow, value by value, and against theory."""

import itertools
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from analysis.geometry import arithmetic
from analysis.geometry.arithmetic import (
    chain_margins,
    chain_output_field,
    chain_overlap,
    chain_shift,
    conv_axis,
    conv_transpose_axis,
    pad_axis,
    resize_axis,
)

GRID = [
    (i, k, s, o)
    for i, k, s in itertools.product(range(1, 9), range(1, 8), range(1, 5))
    for o in range((i - 1) * s + 1, i * s + 1)
]


def taps(kernel: int) -> np.ndarray:
    """A kernel whose every tap differs: 1, 2, 3, ..."""
    return np.arange(1, kernel + 1, dtype=np.float32)


def tf_transpose(x, kernel, stride, output, padding="SAME") -> np.ndarray:
    """Rows of `x` (batch, i) through TensorFlow's transposed convolution."""
    return tf.nn.conv1d_transpose(
        x[:, :, None].astype(np.float32),
        kernel[:, None, None],
        (len(x), output, 1),
        stride,
        padding,
    ).numpy()[:, :, 0]


def agrees_with_tensorflow(axis: arithmetic.AxisGeometry, padding: str) -> bool:
    """Whether every impulse response of TensorFlow is a column of the matrix."""
    kernel = taps(axis.kernel)
    impulses = np.eye(axis.input_size)
    got = tf_transpose(impulses, kernel, axis.stride, axis.output_size, padding)
    return np.array_equal(got.T, matrix(axis, kernel))


def matrix(axis: arithmetic.AxisGeometry, kernel) -> list[list[float]]:
    """The dense matrix M of y = Mx, (output_size, input_size)."""
    rows = [[0.0] * axis.input_size for _ in range(axis.output_size)]
    for row, pairs in zip(rows, axis.terms, strict=True):
        for j, tap in pairs:
            row[j] += kernel[tap]
    return rows


def through_three_steps(axis: arithmetic.AxisGeometry, x, kernel) -> np.ndarray:
    """A plain correlation over the prepared cells."""
    steps = axis.three_steps()
    cells = [x[cell] if cell >= 0 else 0 for cell in steps.cells]
    return np.array(
        [
            sum(
                cells[steps.step * n + steps.dilation * q] * kernel[tap]
                for q, tap in enumerate(steps.kernel_order)
            )
            for n in range(axis.output_size)
        ]
    )


def pads(axis: arithmetic.AxisGeometry) -> tuple[int, int]:
    return axis.pad_before, axis.pad_after


def test_every_legal_same_output_is_tensorflows_value_by_value():
    assert len(GRID) == 560
    for i, k, s, o in GRID:
        axis = conv_transpose_axis(i, k, s, "same", output=o)
        assert axis.feasible
        assert agrees_with_tensorflow(axis, "SAME"), axis


def test_every_legal_valid_output_is_tensorflows_value_by_value():
    for i, k, s, o in GRID:
        axis = conv_transpose_axis(i, k, s, "valid", output=o + k - 1)
        assert axis.feasible
        assert agrees_with_tensorflow(axis, "VALID"), axis


def test_a_crop_moved_by_one_is_caught():
    axis = conv_transpose_axis(7, 5, 2)
    moved = arithmetic.AxisGeometry("transpose", 7, 14, 5, 2, 1, 2, 1)
    assert agrees_with_tensorflow(axis, "SAME")
    assert not agrees_with_tensorflow(moved, "SAME")


def test_the_padding_taken_from_the_input_size_is_often_wrong():
    wrong = 0
    for i, k, s, o in GRID:
        total = max(k - (i % s or s), 0)
        axis = conv_transpose_axis(i, k, s, "same", output=o)
        wrong += total != axis.pad_before + axis.pad_after
    assert wrong == 267


def test_forward_convolutions_are_tensorflows():
    for i, k, s, padding in itertools.product(
        range(1, 9), range(1, 6), range(1, 4), ("same", "valid")
    ):
        axis = conv_axis(i, k, s, padding)
        assert axis.feasible == (padding == "same" or i >= k)
        if axis.feasible:
            got = tf.nn.conv1d(
                np.eye(i, dtype=np.float32)[:, :, None],
                taps(k)[:, None, None],
                s,
                padding.upper(),
            )
            assert np.array_equal(got.numpy()[:, :, 0].T, matrix(axis, taps(k)))


def test_the_504_sizes_keras_states():
    cases = 0
    for k, s, padding in itertools.product(range(1, 8), (1, 2, 3), ("same", "valid")):
        for op in (None, *range(s)):
            layer = keras.layers.Conv2DTranspose(
                1, k, s, padding=padding, output_padding=op
            )
            for i in range(1, 5):
                axis = conv_transpose_axis(i, k, s, padding, op)
                shape = layer.compute_output_shape((None, i, i, 1))
                assert shape[1] == axis.output_size, axis
                cases += 1
    assert cases == 504


def test_infeasible_layers_are_flagged_before_any_call():
    for i, k, s in itertools.product((2, 3, 7), range(1, 8), (1, 2, 3)):
        for op in range(s):
            codes = [f.code for f in conv_transpose_axis(i, k, s, "same", op).problems]
            assert codes == (["E1"] if k % 2 == 0 and op == 0 else [])
    layer = keras.layers.Conv2DTranspose(1, 4, 2, padding="same", output_padding=0)
    with pytest.raises(tf.errors.OpError):
        layer(np.ones((1, 3, 3, 1), np.float32))


def test_the_other_errors_are_those_keras_raises():
    for axis, code in (
        (conv_transpose_axis(3, 5, 2, "valid", 2), "E2"),
        (conv_axis(3, 5, padding="valid"), "E4"),
    ):
        assert [problem.code for problem in axis.problems] == [code]
    with pytest.raises(ValueError, match="output_padding"):
        keras.layers.Conv2DTranspose(1, 5, 2, output_padding=2)
    with pytest.raises(ValueError, match="dilation_rate"):
        keras.layers.Conv2DTranspose(1, 5, 2, dilation_rate=2)


def test_dilated_transposed_convolution():
    for i, k, d, padding in itertools.product(
        (3, 5), (2, 3), (2, 3), ("same", "valid")
    ):
        axis = conv_transpose_axis(i, k, 1, padding, dilation=d)
        expected = matrix(axis, taps(k))
        spread = np.zeros((k - 1) * d + 1, np.float32)
        spread[::d] = taps(k)  # the same kernel with zeros between its taps
        assert np.array_equal(transposed_rows(i, spread, padding, 1), expected), axis
        try:
            native = transposed_rows(i, taps(k), padding, d)
        except tf.errors.InvalidArgumentError as error:
            assert "do not yet support dilation" in str(error)  # some processors
        else:
            assert np.array_equal(native, expected), axis


def transposed_rows(i, weights, padding, dilation):
    """What Keras' transposed convolution makes of each of i pixels: (o, i)."""
    layer = keras.layers.Conv1DTranspose(
        1, len(weights), padding=padding, dilation_rate=dilation, use_bias=False
    )
    layer.build((None, i, 1))
    layer.set_weights([np.asarray(weights, np.float32)[:, None, None]])
    return layer(np.eye(i, dtype=np.float32)[:, :, None]).numpy()[:, :, 0].T


def test_the_transposed_convolution_is_the_adjoint():
    for i, k, s, o in GRID:
        forward = matrix(conv_axis(o, k, s), taps(k))
        back = matrix(conv_transpose_axis(i, k, s, output=o), taps(k))
        assert [list(column) for column in zip(*back, strict=True)] == forward


def test_adjoint_identity_of_tensorflow_on_random_shapes():
    integers = random.Random(3)
    rng = np.random.default_rng(3)
    for _ in range(12):
        (h, w), (kh, kw), (sh, sw) = [
            (integers.randint(low, high), integers.randint(low, high))
            for low, high in ((4, 12), (1, 5), (1, 3))
        ]
        kernel = rng.normal(size=(kh, kw, 2, 3))
        x = rng.normal(size=(1, h, w, 2))
        y = tf.nn.conv2d(x, kernel, (sh, sw), "SAME")
        assert y.shape[1:3] == (
            conv_axis(h, kh, sh).output_size,
            conv_axis(w, kw, sw).output_size,
        )
        z = rng.normal(size=y.shape)
        back = tf.nn.conv2d_transpose(z, kernel, x.shape, (sh, sw), "SAME")
        # float64 sums of a few thousand terms
        assert np.sum(y * z) == pytest.approx(np.sum(x * back), rel=1e-10)


def test_overlap_is_a_transposed_convolution_of_ones_even_when_not_square():
    rows = conv_transpose_axis(4, 5, 2)
    columns = conv_transpose_axis(6, 4, 3, "valid")
    layer = keras.layers.Conv2DTranspose(1, (5, 4), (2, 3), "valid", use_bias=False)
    layer.build((None, 4, 6, 1))
    layer.set_weights([np.ones((5, 4, 1, 1), np.float32)])
    got = layer(np.ones((1, 4, 6, 1), np.float32)).numpy()[0, :, :, 0]
    got = got[rows.pad_before : rows.pad_before + rows.output_size]
    assert np.array_equal(got, np.outer(rows.overlap(), columns.overlap()))


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (2, [1] * 14),
        (3, [1, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1]),
        (4, [1, *[2] * 12, 1]),
        (5, [1, 2, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 2]),
        (6, [2, 2, *[3] * 10, 2, 2]),
    ],
)
def test_overlap_of_7_to_14(kernel, expected):
    assert conv_transpose_axis(7, kernel, 2).overlap() == expected


def test_the_interior_is_where_every_phase_has_all_its_taps():
    for i, k, s, o in GRID:
        axis = conv_transpose_axis(i, k, s, output=o)
        full = [
            n
            for n, count in enumerate(axis.overlap())
            if count == axis.taps_by_phase()[(n + axis.pad_before) % s]
        ]
        before, after = axis.border_px
        interior = list(range(before, axis.output_size - after))
        assert set(interior) <= set(full)
        if (
            k >= s
        ):  # with fewer taps than phases, border rows can be full by having none
            assert interior == full, axis


def test_phases_are_even_exactly_when_the_stride_divides_the_kernel():
    for k, s in itertools.product(range(1, 9), range(1, 5)):
        phases = conv_transpose_axis(5, k, s).taps_by_phase()
        assert sum(phases) == k
        assert (len(set(phases)) == 1) == (k % s == 0)
    assert conv_transpose_axis(7, 5, 2).taps_by_phase() == (3, 2)


def test_the_three_step_view_computes_the_same():
    rng = np.random.default_rng(0)
    axes = [conv_transpose_axis(i, k, s, output=o) for i, k, s, o in GRID[::7]]
    axes += [
        conv_transpose_axis(4, 3, 2, "valid", 1),
        conv_transpose_axis(4, 3, 2, 2, 1, 2),
        conv_transpose_axis(6, 2, 1, 3),
        conv_axis(8, 3, 2),
        conv_axis(8, 3, 1, "causal", 2),
        pad_axis(6, -2, -1),
        pad_axis(6, 3, 2, "reflect"),
        pad_axis(6, 3, 7, "edge"),
    ]
    for axis in axes:
        x = rng.integers(1, 9, axis.input_size)
        expected = np.array(matrix(axis, taps(axis.kernel))) @ x
        got = through_three_steps(axis, x, taps(axis.kernel))
        assert np.array_equal(got, expected), axis


def test_symmetric_three_steps_pad_k_minus_p_minus_1():
    steps = conv_transpose_axis(3, 3, 2, 1).three_steps()
    zero, pad = arithmetic.INSERTED, arithmetic.PADDED
    assert steps.cells == (pad, 0, zero, 1, zero, 2, pad)
    assert steps.kernel_order == (2, 1, 0)


def test_the_pads_and_the_chain_of_the_generator():
    chain = [conv_transpose_axis(i, 5, s) for i, s in ((7, 1), (7, 2), (14, 2))]
    assert [pads(axis) for axis in chain] == [(2, 2), (1, 2), (1, 2)]
    golden = [3, 10, 10, 17, 14, 26, 19, 28, 21, 35, 23, 33, 24, 39]
    golden += [25, 35, 25, 39, 24, 33, 23, 35, 21, 28, 19, 26, 14, 14]
    assert chain_overlap(chain) == golden
    assert chain_shift(chain) == 1.5
    assert chain_output_field(chain) == 29
    assert [axis.macs_exact**2 for axis in chain] == [29**2, 32**2, 67**2]
    assert chain[0].macs ** 2 * 256 * 128 == 40_140_800


@pytest.mark.parametrize(
    ("kernel", "shift"), [(2, 0), (3, 0.5), (4, 0), (5, 0.5), (6, 0), (7, 0.5)]
)
def test_half_a_pixel_of_shift_for_odd_padding(kernel, shift):
    assert conv_transpose_axis(7, kernel, 2).shift_px == shift


def test_shift_is_where_the_centre_of_mass_goes():
    for axis in (
        conv_transpose_axis(9, 5, 2),
        conv_transpose_axis(9, 5, 2, 2, 1),
    ):
        column = np.array(matrix(axis, [1.0] * 5))[:, 4]
        centre = np.average(np.arange(axis.output_size), weights=column)
        assert centre - (axis.output_size - 1) / 2 == axis.shift_px


def test_clean_margins_of_whole_generators():
    fives = [conv_transpose_axis(24 * f, 5, s) for f, s in ((1, 1), (1, 2), (2, 2))]
    fours = [fives[0], *(conv_transpose_axis(24 * f, 4, 2) for f in (1, 2))]
    assert chain_margins(fives) == (14, 11)
    assert chain_margins(fours) == (11, 11)
    resized = [resize_axis(24, 2), conv_axis(48, 5), resize_axis(48, 2, "bilinear")]
    assert chain_margins(resized) == (5, 5)


def test_margins_are_exact_on_a_field_of_ones():
    chain = [conv_transpose_axis(12 * f, 5, s) for f, s in ((1, 1), (1, 2), (2, 2))]
    overlap = np.array(chain_overlap(chain))
    before, after = chain_margins(chain)
    inside = overlap[before : overlap.size - after]
    assert np.array_equal(inside[:-4], inside[4:])  # periodic with the total stride
    assert overlap[before - 1] != overlap[before + 3]
    assert overlap[-after] != overlap[-after - 4]


def test_resizing_is_keras_upsampling():
    ways = ("nearest", "bilinear", "bicubic")
    for factor, way in itertools.product((2, 3, 4), ways):
        axis = resize_axis(5, factor, way)
        layer = keras.layers.UpSampling2D(factor, interpolation=way)
        x = np.eye(5, dtype=np.float32)[:, :, None, None] * np.ones((1, 1, 5, 1), "f4")
        expected = layer(x).numpy()[:, :, 0, 0]
        got = [axis.apply(row) for row in np.eye(5)]
        assert np.allclose(got, expected, atol=1e-6), axis  # float32 weights
        assert axis.shift_px == 0


def test_pools_pads_and_crops():
    assert conv_axis(7, 2, 2, "valid", kind="pool").output_size == 3
    assert conv_axis(7, 3, 2, kind="pool").output_size == 4
    assert pad_axis(5, 0, 1).overlap() == [1, 1, 1, 1, 1, 0]
    assert pad_axis(5, -1, -1).output_size == 3
    assert not pad_axis(2, -1, -1).feasible
    padded = [pad_axis(6, 1, 1), conv_axis(8, 3, padding="valid")]
    assert chain_shift(padded) == 0
    assert chain_overlap(padded) == conv_axis(6, 3).overlap()


@pytest.mark.parametrize("border", ["reflect", "edge"])
def test_borders_are_those_of_numpy_and_give_an_even_overlap(border):
    x = np.arange(1, 6)
    for before, after in itertools.product(range(5), repeat=2):
        axis = pad_axis(5, before, after, border)
        assert axis.apply(x) == np.pad(x, (before, after), border).tolist()
    padded = [pad_axis(5, 1, 1, border), conv_axis(7, 3, padding="valid")]
    assert set(chain_overlap(padded)) == {3} and chain_shift(padded) == 0
    assert set(conv_axis(5, 3).overlap()) == {2, 3}  # the control: zeros
    assert pad_axis(5, 5, 0, border).feasible is (border == "edge")


def test_pytorchs_window_is_tensorflows_moved_by_one():
    here = conv_transpose_axis(7, 5, 2)
    there = conv_transpose_axis(7, 5, 2, padding=2, output_padding=1)
    assert there.output_size == here.output_size == 14
    assert there.shift_px == -here.shift_px
    assert matrix(there, taps(5))[:-1] == matrix(here, taps(5))[1:]
    assert matrix(there, taps(5)) != matrix(here, taps(5))


def test_pytorch_itself():
    torch = pytest.importorskip("torch")
    dilated = conv_axis(9, 3, 2, 2, 2)
    weights, impulses = torch.from_numpy(taps(3))[None, None], torch.eye(9)[:, None]
    got = torch.nn.functional.conv1d(impulses, weights, None, 2, 2, 2)
    assert np.array_equal(got[:, 0].numpy().T, matrix(dilated, taps(3)))
    for i, k, s, p, op, d in itertools.product(
        (2, 5), (2, 3, 5), (1, 2, 3), (0, 1, 2), (0, 1), (1, 2)
    ):
        axis = conv_transpose_axis(i, k, s, p, op, d)
        if axis.feasible:
            got = torch.nn.functional.conv_transpose1d(
                torch.eye(i)[:, None],
                torch.from_numpy(taps(k))[None, None],
                None,
                s,
                p,
                op,
                1,
                d,
            )
            assert np.array_equal(got[:, 0].numpy().T, matrix(axis, taps(k))), axis


@pytest.mark.parametrize(
    ("axis", "codes"),
    [
        (conv_transpose_axis(7, 5, 2), "W1 W3 W5"),
        (conv_transpose_axis(7, 4, 2), "W5"),
        (conv_transpose_axis(7, 2, 2), ""),
        (conv_transpose_axis(3, 2, 3), "W2 W3"),
        (conv_transpose_axis(3, 3, 2, "valid", 1), "W1 W3 W4 W5"),
        (conv_transpose_axis(7, 4, 2, "same", 0), "E1"),
        (conv_axis(3, 5), "W6"),
        (conv_axis(28, 5, 2), "W3"),
        (conv_axis(28, 3), ""),
        (resize_axis(7, 2, "bilinear"), ""),
    ],
)
def test_findings(axis, codes):
    assert " ".join(finding.code for finding in arithmetic.findings(axis)) == codes


def test_zero_rows_are_zero():
    axis = conv_transpose_axis(3, 2, 3)
    assert axis.zero_positions == {"kernel": [2, 5, 8]}
    got = tf_transpose(np.ones((1, 3)), taps(2), 3, 9)[0]
    assert list(np.flatnonzero(got == 0)) == [2, 5, 8]


def random_axes(count):
    """Layers that can run, by the rules of Keras and of PyTorch, most of them odd."""
    integers = random.Random(5)
    while count:
        i, k, s, d = (integers.randint(1, high) for high in (12, 6, 5, 6))
        pad, op = integers.randint(0, (k - 1) * d + 1), integers.randrange(max(s, d))
        name = integers.choice(["same", "valid"])
        keras_op = integers.choice([None, integers.randrange(s)])
        for axis in (
            conv_transpose_axis(i, k, s, pad, op, d),
            conv_transpose_axis(i, k, s, name, keras_op),
            conv_transpose_axis(i, k, 1, name, None, d),
            conv_axis(i, k, s, integers.choice([name, "causal", pad]), d),
        ):
            count -= axis.feasible
            if axis.feasible:
                yield axis


@pytest.mark.reported
def test_positions_that_are_always_zero_have_the_cause_that_explains_them():
    """What each cause says is taken away, and then the position is reached."""
    seen = set()
    for axis in random_axes(3000):
        i, k, s, d = axis.input_size, axis.kernel, axis.stride, axis.dilation
        n = range(axis.output_size)
        if not axis.is_scatter:
            starts = [s * at - axis.pad_before for at in n]
            reached = [any(0 <= a + d * t < i for t in range(k)) for a in starts]
        else:
            full = {s * j + d * t for j in range(i) for t in range(k)}
            endless = {s * j + d * t for j in range(-99, 99) for t in range(k)}
            any_kernel = {s * j + d * t for j in range(-99, 99) for t in range(30)}
            reached = [at + axis.pad_before in full for at in n]
        zero = axis.zero_positions
        assert sorted(sum(zero.values(), [])) == [at for at in n if not reached[at]]
        for cause, position in (
            (c, at + axis.pad_before) for c in zero for at in zero[c]
        ):
            seen.add(cause)
            if axis.is_scatter:
                assert (position not in any_kernel) == (cause == "common factor")
                assert (position in endless) == (
                    cause in ("output padding", "dilation")
                )
                assert (position > max(full)) or cause != "output padding"
        codes = {finding.code for finding in arithmetic.findings(axis)}
        assert bool(zero) == bool(codes & {"W2", "W4", "W10"}), axis
    assert seen == {"common factor", "kernel", "output padding", "dilation", "padding"}


@pytest.mark.reported
def test_where_dilation_leaves_zeros_is_said_and_why():
    shared = conv_transpose_axis(4, 3, 2, 2, 1, 2)  # PyTorch: stride 2, dilation 2
    (text,) = [f.text for f in arithmetic.findings(shared) if f.code == "W10"]
    assert "4 of 8 positions (1, 3, 5, 7) are always zero" in text
    assert "stride 2 and dilation 2 share the factor 2" in text
    coprime = conv_transpose_axis(4, 3, 2, 3, 1, 3)
    assert coprime.zero_positions == {}
    small = conv_transpose_axis(2, 3, 1, "valid", None, 5)  # Keras, a map of 2 px
    assert small.zero_positions == {"dilation": [2, 3, 4, 7, 8, 9]}
    assert conv_transpose_axis(5, 3, 1, "valid", None, 5).zero_positions == {}


@pytest.mark.reported
@pytest.mark.parametrize(
    ("axis", "text"),
    [
        (conv_axis(28, 5, 2), "start 1 px before the map and end 2 px after it"),
        (conv_axis(10, 1, 2, 0), "start 0 px before the map and end 1 px before its"),
        (conv_transpose_axis(7, 5, 2), "1 px cropped at the start and 2 px cropped"),
        (conv_transpose_axis(3, 1, 2), "0 px cropped at the start and 1 px added"),
    ],
)
def test_the_cause_of_a_shift_is_what_the_layer_does(axis, text):
    (shift,) = [f.text for f in arithmetic.findings(axis) if f.code == "W3"]
    assert text in shift
    assert "spans one px more or less" in shift


def test_positions_with_fewer_taps_are_counted_one_by_one():
    """Inside the border of a dilated kernel, some positions have all their taps."""
    axis = conv_transpose_axis(8, 2, 1, "valid", None, 3)
    assert axis.overlap() == [1, 1, 1, 2, 2, 2, 2, 2, 1, 1, 1]
    (text,) = [f.text for f in arithmetic.findings(axis) if f.code == "W5"]
    assert "6 of 11 positions, within 3 + 3 px of the ends" in text


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="kernel must be 1 or more, got 0"):
        conv_axis(3, 0)
    with pytest.raises(ValueError, match="gives 14 px, the next expects 7"):
        chain_shift([conv_transpose_axis(7, 5, 2), conv_axis(7, 5)])
