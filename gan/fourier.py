"""Convolutions of small maps, computed at their frequencies.

Where its outputs are used, a 5x5 convolution of a 7x7 map equals a cyclic one of 9x9
pixels. The Fourier transform turns that into one matrix product over channels per
frequency: at stride 1 a tenth of the multiply-accumulates (Mathieu, Henaff and LeCun
2014, arXiv:1312.5851). So small a transform is one matrix, in the form of Lavin and
Gray 2016 (arXiv:1509.09308): one matrix takes the map and one the kernel to points,
where they are multiplied, and a third takes the products back. The gradients use the
same points.

A convolution of stride s is one of stride 1 on the s x s phases of the large map. The
transposed convolution goes from the small map to the large one.
"""

import functools

import numpy as np
import tensorflow as tf

# Smallest useful ratio of the direct form's multiply-accumulates to those of this form:
# below it, moving the points through memory takes longer, see docs/performance.md.
LEAST_SAVING = 1.5


def saves_time(
    batch: int, size: int, kernel_shape: tuple[int, ...], stride: int
) -> bool:
    """Whether this form is faster than the direct one, for a small map of `size` px."""
    taps, _, large, small = kernel_shape
    if taps < stride:
        return False
    reach, phases = shifts(taps, stride), stride**2 * large
    of_maps = size**2 * batch * (phases + small)
    of_kernel = len(reach) ** 2 * phases * small
    products = batch * phases * small
    direct = size**2 * taps**2 * batch * large * small
    num_points = 1.5 * period(size, reach) ** 2  # at least
    return direct > LEAST_SAVING * num_points * (of_maps + of_kernel + products)


def convolve(large: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    """Convolution with padding "same", as `gan.convolution.convolve`."""
    size = large.shape[1] // stride
    of_large, of_kernel, of_small = matrices(size, kernel.shape[0], stride)
    points = transform(of_large, by_position(large, stride))
    products = tf.matmul(points, transform(of_kernel, by_shift(kernel, stride)))
    return from_position(transform(of_small.T, products), 1)


def convolve_transposed(small: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    """The transposed convolution, from the small map of `convolve` to the large one."""
    of_large, of_kernel, of_small = matrices(small.shape[1], kernel.shape[0], stride)
    points = transform(of_small, by_position(small, 1))
    kernel_points = transform(of_kernel, by_shift(kernel, stride))
    products = tf.matmul(points, kernel_points, transpose_b=True)
    return from_position(transform(of_large.T, products), stride)


def shifts(taps: int, stride: int) -> range:
    """Offsets in the small map that the taps reach from one of its pixels."""
    # For pixel m of the small map, tap t meets pixel stride * m + t - before of the
    # large map. In the small map that is an offset of (t - before) // stride.
    before = (taps - stride) // 2
    return range(-before // stride, (taps - 1 - before) // stride + 1)


def period(size: int, reach: range) -> int:
    """Size of the cyclic map, just large enough that no output used wraps around."""
    return size + max(-reach[0], reach[-1])


@functools.cache
def matrices(
    size: int, taps: int, stride: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The matrices that take maps and kernel to the points and, transposed, back.

    A frequency that is its own conjugate has one real point. Any other has three, for
    Gauss's product of complex numbers: with x = a + ib and k = c + id, the products
    (a + b) c, a (d - c) and b (c + d) give both parts of x k.

    Returns:
        float32 (points, size^2) for the large map, (points, shifts^2) for the kernel
        and (points, size^2) for the small map, whose transpose leads back to the map.
    """
    reach = shifts(taps, stride)
    cycle = period(size, reach)
    pixels = np.stack(np.divmod(np.arange(size**2), size), axis=-1)
    steps = np.stack(np.divmod(np.arange(len(reach) ** 2), len(reach)), axis=-1)
    rows: list[list[np.ndarray]] = [[], [], []]
    for frequency in np.ndindex(cycle, cycle):
        conjugate = tuple(-np.array(frequency) % cycle)
        if frequency > conjugate:
            continue
        angle = 2j * np.pi * np.array(frequency) / cycle
        x = np.exp(-pixels @ angle)
        k = np.exp((steps + reach[0]) @ angle)
        y = np.exp(pixels @ angle) / cycle**2
        if frequency == conjugate:
            of_points = [x.real], [k.real], [y.real]
        else:
            y *= 2  # it stands for its conjugate too
            of_points = (
                [x.real + x.imag, x.real, x.imag],
                [k.real, k.imag - k.real, k.real + k.imag],
                [y.real - y.imag, -y.imag, -y.real],
            )
        for matrix, new in zip(rows, of_points, strict=True):
            matrix += new
    large, kernel, small = (np.array(matrix, np.float32) for matrix in rows)
    return large, kernel, small


def transform(matrix: np.ndarray, values: tf.Tensor) -> tf.Tensor:
    """Applies (m, n) to the first axis of (n, rows, columns)."""
    flat = tf.matmul(matrix, tf.reshape(values, (matrix.shape[1], -1)))
    return tf.reshape(flat, (-1, *values.shape[1:]))


def by_position(maps: tf.Tensor, stride: int) -> tf.Tensor:
    """From (batch, s * m, s * m, channels) to (m^2, batch, s^2 * channels)."""
    batch, height, _, channels = maps.shape
    size = height // stride
    cells = tf.reshape(maps, (batch, size, stride, size, stride, channels))
    ordered = tf.transpose(cells, (1, 3, 0, 2, 4, 5))
    return tf.reshape(ordered, (size**2, batch, stride**2 * channels))


def from_position(values: tf.Tensor, stride: int) -> tf.Tensor:
    """The inverse of `by_position`."""
    positions, batch, channels = values.shape
    size = round(positions**0.5)
    cells = tf.reshape(values, (size, size, batch, stride, stride, -1))
    ordered = tf.transpose(cells, (2, 0, 3, 1, 4, 5))
    shape = (batch, size * stride, size * stride, channels // stride**2)
    return tf.reshape(ordered, shape)


def by_shift(kernel: tf.Tensor, stride: int) -> tf.Tensor:
    """From (taps, taps, large, small) to (shifts^2, s^2 * large, small)."""
    taps, _, large, small = kernel.shape
    reach = shifts(taps, stride)
    front = -(stride * reach[0] + (taps - stride) // 2)
    padding = [front, stride * len(reach) - front - taps]
    padded = tf.pad(kernel, [padding, padding, [0, 0], [0, 0]])
    cells = (len(reach), stride, len(reach), stride, large, small)
    ordered = tf.transpose(tf.reshape(padded, cells), (0, 2, 1, 3, 4, 5))
    return tf.reshape(ordered, (len(reach) ** 2, stride**2 * large, small))
