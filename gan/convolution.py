"""Convolutions with padding "same" in the fastest form known for their shapes.

Large maps of few channels, and 4x4 kernels of many channels, are convolved by phases,
see `transpose_by_phases`. Small maps of many channels are convolved at their
frequencies, see `gan.fourier`, but not on a GPU, where this was not measured and cuDNN
has such forms of its own. All others take TensorFlow's form. The forms differ in
rounding only.
"""

from typing import Any

import tensorflow as tf

from gan import fourier

DIRECT, PHASES, FOURIER = "direct", "phases", "fourier"
FEW_CHANNELS = 3
# TensorFlow's transposed convolution reads the whole kernel once more for each image. A
# 4x4 kernel of so many weights does not stay in the cache, see docs/performance.md.
MANY_WEIGHTS = 2**19


def fastest_form(small_shape: tuple[Any, ...], kernel: tf.Tensor, stride: int) -> str:
    """Chooses the form for a small map (batch, height, width) and a kernel."""
    batch, height, width = small_shape
    taps, _, large, small = kernel.shape
    if large <= FEW_CHANNELS and (taps, stride) == (5, 2):
        return PHASES
    can_transform = batch and height == width and kernel.dtype == tf.float32
    if not can_transform or tf.config.list_logical_devices("GPU"):
        return DIRECT
    if taps**2 * large * small >= MANY_WEIGHTS and (taps, stride) == (4, 2):
        return PHASES
    saves_time = fourier.saves_time(batch, height, kernel.shape, stride)
    return FOURIER if saves_time else DIRECT


def convolve(large: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    """Convolves a large map to a small one.

    Args:
        large: (batch, stride * height, stride * width, large channels).
        kernel: (taps, taps, large channels, small channels).
        stride: pixels of the large map from one pixel of the small map to the next.

    Returns:
        (batch, height, width, small channels).
    """
    batch, height, width, _ = large.shape
    small_shape = batch, height // stride, width // stride
    form = fastest_form(small_shape, kernel, stride)
    if form == FOURIER:
        return fourier.convolve(large, kernel, stride)
    if form == PHASES:
        return convolve_with_phases(large, kernel)
    return tf.nn.conv2d(large, kernel, stride, "SAME")


def convolve_transposed(small: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    """The transposed convolution, from the small map of `convolve` to the large one."""
    form = fastest_form(tuple(small.shape[:3]), kernel, stride)
    if form == FOURIER:
        return fourier.convolve_transposed(small, kernel, stride)
    if form == PHASES:
        return transpose_with_phases(small, kernel)
    batch, height, width = tf.unstack(tf.shape(small)[:3])
    shape = batch, stride * height, stride * width, kernel.shape[2]
    return tf.nn.conv2d_transpose(small, kernel, shape, stride, "SAME")


@tf.custom_gradient
def convolve_with_phases(large: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """Convolution of stride 2 whose input gradient is computed by phases."""

    def gradients(small: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        gradient = transpose_by_phases(small, kernel)
        return gradient, kernel_gradient(large, kernel, small)

    return tf.nn.conv2d(large, kernel, 2, "SAME"), gradients


@tf.custom_gradient
def transpose_with_phases(small: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """Transposed convolution of stride 2, computed by phases."""

    def gradients(large: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        gradient = tf.nn.conv2d(large, kernel, 2, "SAME")
        return gradient, kernel_gradient(large, kernel, small)

    return transpose_by_phases(small, kernel), gradients


def transpose_by_phases(small: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Transposed convolution of stride 2 in the form of a sub-pixel convolution.

    Both are equal (Shi et al. 2016, arXiv:1609.07009). With few output channels this
    form takes less than half of the time.
    """
    by_shift = fourier.by_shift(kernel, 2)
    reach = len(fourier.shifts(kernel.shape[0], 2))
    cells = tf.reshape(by_shift, (reach, reach, *by_shift.shape[1:]))
    # A transposed convolution spreads pixels by the shifts, a convolution collects them
    # by the opposite ones.
    taps = tf.transpose(cells[::-1, ::-1], (0, 1, 3, 2))
    return tf.nn.depth_to_space(tf.nn.conv2d(small, taps, 1, "SAME"), 2)


def kernel_gradient(
    large: tf.Tensor, kernel: tf.Tensor, small: tf.Tensor, stride: int = 2
) -> tf.Tensor:
    """Gradient by the kernel, where `small` is the gradient by the small map."""
    shape, strides = kernel.shape, [1, stride, stride, 1]
    return tf.raw_ops.Conv2DBackpropFilter(
        input=large,
        filter_sizes=shape,
        out_backprop=small,
        strides=strides,
        padding="SAME",
    )
