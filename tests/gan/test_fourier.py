import numpy as np
import pytest
import tensorflow as tf

from gan.fourier import convolve, convolve_transposed, matrices, saves_time, shifts

SHAPES = [  # size of the small map, taps, stride
    (7, 5, 1),
    (7, 5, 2),
    (8, 5, 2),
    (7, 4, 1),
    (7, 4, 2),
    (7, 3, 2),
    (5, 7, 3),
    (4, 2, 2),
    (2, 5, 1),
    (5, 1, 1),
]


def test_a_frequency_has_one_real_point_or_three():
    """9x9 pixels, of whose 81 frequencies 0 alone is real; of 8x8 four are."""
    assert len(matrices(7, 5, 1)[0]) == 1 + 3 * (81 - 1) // 2 == 121
    assert len(matrices(7, 5, 2)[0]) == 4 + 3 * (64 - 4) // 2 == 94


def test_taps_reach_as_far_as_padding_same_lets_them():
    """At stride 2, 5 taps meet pixels 2 m - 1 to 2 m + 3, of cells m - 1 to m + 1."""
    assert list(shifts(5, 1)) == [-2, -1, 0, 1, 2]
    assert list(shifts(5, 2)) == [-1, 0, 1]
    assert list(shifts(3, 2)) == [0, 1]


@pytest.mark.parametrize(("size", "taps"), [(7, 5), (6, 4), (3, 3), (2, 5)])
def test_points_link_each_pixel_with_those_that_its_taps_meet(size, taps):
    """The sum over points is 1 where a tap leads from one pixel to the other, else 0.

    The control, a kernel of the other direction, links others.
    """
    large, kernel, small = matrices(size, taps, 1)
    pixel = np.stack(np.divmod(np.arange(size**2), size), axis=-1)
    tap = np.stack(np.divmod(np.arange(taps**2), taps), axis=-1) - (taps - 1) // 2
    reached = pixel[None, None] + tap[None, :, None]  # from the small map's pixel
    linked = (pixel[:, None, None] == reached).all(axis=-1)
    found = np.einsum("pl,pt,ps->lts", large, kernel, small)
    np.testing.assert_allclose(found, linked, atol=1e-5)
    mirrored = np.einsum("pl,pt,ps->lts", large, kernel[:, ::-1], small)
    assert np.abs(mirrored - linked).max() > 0.9


@pytest.mark.parametrize(("size", "taps", "stride"), SHAPES)
def test_both_directions_are_tensorflows(size, taps, stride):
    random = np.random.default_rng(0)
    large_shape = (3, size * stride, size * stride, 4)
    large = tf.constant(random.normal(size=large_shape).astype("f"))
    small = tf.constant(random.normal(size=(3, size, size, 6)).astype("f"))
    kernel = tf.constant(random.normal(size=(taps, taps, 4, 6)).astype("f"))
    expected = tf.nn.conv2d(large, kernel, stride, "SAME")
    np.testing.assert_allclose(convolve(large, kernel, stride), expected, atol=5e-5)
    expected = tf.nn.conv2d_transpose(small, kernel, large_shape, stride, "SAME")
    found = convolve_transposed(small, kernel, stride)
    np.testing.assert_allclose(found, expected, atol=5e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_values_and_gradients_are_exact_to_a_millionth(stride):
    random = np.random.default_rng(0)
    arrays = [
        random.normal(size=shape).astype("f")
        for shape in ((16, 7 * stride, 7 * stride, 64), (5, 5, 64, 64), (16, 7, 7, 64))
    ]

    def all_three(form, dtype):
        large, kernel, small = (tf.constant(array, dtype) for array in arrays)
        with tf.GradientTape() as tape:
            tape.watch([large, kernel])
            result = form(large, kernel, stride)
        return [result, *tape.gradient(result, [large, kernel], small)]

    exact = all_three(lambda x, k, s: tf.nn.conv2d(x, k, s, "SAME"), tf.float64)
    for value, found in zip(exact, all_three(convolve, tf.float32), strict=True):
        error = np.linalg.norm(np.subtract(found, value, dtype="d"))
        assert 0 < error < 1e-6 * np.linalg.norm(value)


def test_xla_agrees():
    random = np.random.default_rng(0)
    large = tf.constant(random.normal(size=(2, 14, 14, 8)).astype("f"))
    kernel = tf.constant(random.normal(size=(5, 5, 8, 8)).astype("f"))
    compiled = tf.function(convolve, jit_compile=True)(large, kernel, 2)
    np.testing.assert_allclose(compiled, convolve(large, kernel, 2), atol=5e-5)


def test_small_batches_keep_the_direct_form_at_stride_2():
    """The kernel's points cost the same for 16 images as for 64."""
    kernel = (5, 5, 64, 128)
    assert saves_time(16, 7, kernel, stride=1)
    assert not saves_time(16, 7, kernel, stride=2)
    assert saves_time(64, 7, kernel, stride=2)
    assert not saves_time(64, 7, (1, 1, 64, 128), stride=2)  # taps that skip pixels
