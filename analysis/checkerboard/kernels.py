"""What a kernel does to a constant input: phase gains, imbalance and spectral lines.

The functions take weights as arrays and know nothing of layers; `predictions.py` feeds
them. A stage puts stride - 1 zeros
between the samples and then convolves: y[n] = sum_j x[j] w[n - stride j]. Its output
spectrum is Y(f) = W(f) X(stride f), so a constant input reappears at every multiple of
1/stride, weighted by W. All these lines are zero exactly if all phase gains are equal
(the polyphase condition of Harada, Muramatsu and Kiya; the Strang-Fix condition of
order 1). The uneven overlap described by Odena et al. 2016
(doi:10.23915/distill.00003) decides this only for kernels with equal weights.

Kernels have the axes of Conv2DTranspose: (kernel_height, kernel_width, out, in).
Frequencies are in cycles per pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Strides = tuple[int, int]


@dataclass(frozen=True)
class Stage:
    """One linear step of a generator: zero insertion, then a convolution.

    Attributes:
        strides: Strides of the height and the width; (1, 1) for a plain convolution.
        kernel: (kernel_height, kernel_width, out, in), as Conv2DTranspose keeps it. A
            Conv2D correlates: rotate its kernel by 180 degrees and swap its channels.
    """

    strides: Strides
    kernel: np.ndarray


def phase_gains(kernel: np.ndarray, strides: Strides) -> np.ndarray:
    """Gain of a constant at each output phase: G[r] is the sum of its taps.

    The taps of phase r are those whose index modulo the stride is r.

    Returns:
        (stride_height, stride_width, out, in) float64. A 5x5 kernel of ones at stride 2
        gives 9, 6, 6, 4.
    """
    height, width = strides
    gains = np.zeros((height, width, *kernel.shape[2:]))
    for row in range(height):
        for column in range(width):
            gains[row, column] = kernel[row::height, column::width].sum(axis=(0, 1))
    return gains


def imbalance(kernel: np.ndarray, strides: Strides) -> float:
    """Imbalance index in [0, 1]: the share of the phase gains' power not in their mean.

    eta = 1 - sum |sum_r G|^2 / (S sum sum_r |G|^2), where the outer sums run over the
    channel pairs and S is the number of phases. At 0 no constant gives a line.
    Independent zero-mean weights give 1 - 1/S on average if the kernel is at least as
    long as the stride: 0.75 at stride 2. A kernel of zeros gives 0.
    """
    gains = phase_gains(kernel, strides)
    total = np.prod(strides) * np.sum(gains**2)
    return float(1 - np.sum(gains.sum(axis=(0, 1)) ** 2) / total) if total else 0.0


def subpixel_kernel(kernel: np.ndarray, block_size: int = 2) -> np.ndarray:
    """The transposed convolution that equals a convolution and depth to space.

    Args:
        kernel: (height, width, in, b * b * out), as Conv2D keeps it; channel p out + c
            is phase p of channel c.
        block_size: Enlargement b of the height and the width.

    Returns:
        (b height, b width, out, in): tap b t + r is tap t of phase r, rotated by 180
        degrees, since Conv2D correlates.
    """
    height, width, channels, total = kernel.shape
    b = block_size
    turned = kernel[::-1, ::-1].reshape(height, width, channels, b, b, total // b**2)
    taps = turned.transpose(0, 3, 1, 4, 5, 2)
    return taps.reshape(b * height, b * width, total // b**2, channels)


def response(kernel: np.ndarray, frequency: tuple[float, float]) -> np.ndarray:
    """The kernel's Fourier transform W(f) = sum_t w[t] exp(-2 pi i f.t).

    Returns:
        (out, in) complex128. At (0, 0) it is the sum of the taps; k equal taps give
        zero at the multiples of 1/k.
    """
    waves = [
        np.exp(-2j * np.pi * f * np.arange(taps))
        for f, taps in zip(frequency, kernel.shape[:2], strict=True)
    ]
    return np.einsum("hwoi,h,w->oi", kernel, *waves)


def chain_lines(stages: Sequence[Stage], mean_activations: np.ndarray) -> np.ndarray:
    """Line amplitudes at the end of a linear chain of stages fed with a constant.

    After one stage A_o(m) = (1/S) sum_c W_co(m/s) mu_c, with S phases; the mean
    activations in front of a layer predict what the layer itself adds. A bias adds to
    DC alone. In a chain, a line at b/S after a stage of stride s comes from b/(S/s)
    before it: A'[b] = W(b/S) A[b mod (S/s)] / s^2. So the stage that makes a line is
    the last one in front of which the line is a constant
    (`frequencies.GridFrequency.stage`); later stages only filter it. Two stages of 5
    equal taps give 1/5 of the mean at (1/2, 0) and 1/25 at (1/4, 0).

    Args:
        stages: Stages in the order of the signal.
        mean_activations: (in,) for one constant input, (in, N) for N of them.

    Returns:
        (S_height, S_width, out) complex128, where S are the products of all strides and
        bin b lies at b/S; for N inputs (S_height, S_width, out, N).
    """
    lines = np.asarray(mean_activations, complex)[None, None]
    for stage in stages:
        before, strides = lines, stage.strides
        rows, columns = before.shape[0] * strides[0], before.shape[1] * strides[1]
        shape = (rows, columns, stage.kernel.shape[2], *before.shape[3:])
        lines = np.empty(shape, complex)
        for row in range(rows):
            for column in range(columns):
                source = before[row % before.shape[0], column % before.shape[1]]
                gain = response(stage.kernel, (row / rows, column / columns))
                lines[row, column] = gain @ source / np.prod(strides)
    return lines
