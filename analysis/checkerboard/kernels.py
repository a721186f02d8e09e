"""What a kernel does to a constant: phase gains, imbalance, exact spectral lines.

Takes weights as arrays and knows nothing of layers; `analysis.checkerboard.probe`
measures what is predicted here. A stage is "put stride - 1 zeros between the samples,
then convolve": y[n] = sum_j x[j] w[n - stride j]. Its output spectrum is Y(f) = W(f)
X(stride f), so a constant input reappears at every multiple of 1/stride, weighted by W.
All lines vanish exactly if all phase gains are equal (the polyphase condition of
Harada, Muramatsu and Kiya; the Strang-Fix condition of order 1). The uneven overlap
that Odena et al. 2016 (doi:10.23915/distill.00003) blame decides this for constant
kernels only.

Arrays: kernel (kernel_height, kernel_width, out, in), the layout of Conv2DTranspose;
phases and bins (stride_height, stride_width, out, in). Frequencies in cycles per pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Strides = tuple[int, int]


@dataclass(frozen=True)
class Stage:
    """One linear step of a generator: zero insertion, then a convolution.

    Attributes:
        strides: of height and width; (1, 1) for a plain convolution.
        kernel: (kernel_height, kernel_width, out, in), as Conv2DTranspose keeps it. A
            Conv2D correlates: rotate its kernel by 180 degrees and swap its channels.
    """

    strides: Strides
    kernel: np.ndarray


def phase_gains(kernel: np.ndarray, strides: Strides) -> np.ndarray:
    """Gain of a constant at each output phase: G[r] = sum of the taps congruent to r.

    Returns:
        (stride_height, stride_width, out, in) float64. All-ones 5 taps at stride 2 give
        9, 6, 6, 4.
    """
    height, width = strides
    gains = np.zeros((height, width, *kernel.shape[2:]))
    for row in range(height):
        for column in range(width):
            gains[row, column] = kernel[row::height, column::width].sum(axis=(0, 1))
    return gains


def imbalance(kernel: np.ndarray, strides: Strides) -> float:
    """Imbalance index in [0, 1]: the share of the phase gains' power not in their mean.

    eta = 1 - sum |sum_r G|^2 / (S sum sum_r |G|^2), outer sums over channel pairs, S
    the number of phases. 0: no line from any constant. Independent zero-mean weights
    give 1 - 1/S on average if the kernel is at least as long as the stride: 0.75 at
    stride 2. An all-zero kernel gives 0.
    """
    gains = phase_gains(kernel, strides)
    total = np.prod(strides) * np.sum(gains**2)
    return float(1 - np.sum(gains.sum(axis=(0, 1)) ** 2) / total) if total else 0.0


def subpixel_kernel(kernel: np.ndarray, block_size: int = 2) -> np.ndarray:
    """The transposed kernel, b k taps long, of a convolution with depth to space.

    Args:
        kernel: (height, width, in, b * b * out), as Conv2D keeps it; channel p out + c
            is phase p of c.
        block_size: b.

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
        (out, in) complex128. At (0, 0) the sum of the taps; a box of k taps is zero at
        the multiples of 1/k.
    """
    waves = [
        np.exp(-2j * np.pi * f * np.arange(taps))
        for f, taps in zip(frequency, kernel.shape[:2], strict=True)
    ]
    return np.einsum("hwoi,h,w->oi", kernel, *waves)


def line_responses(kernel: np.ndarray, strides: Strides) -> np.ndarray:
    """W at the line frequencies (m1/s1, m2/s2): the DFT of the phase gains, exactly.

    Returns:
        (stride_height, stride_width, out, in) complex128; index (0, 0) is DC.
    """
    return np.fft.fft2(phase_gains(kernel, strides), axes=(0, 1))


def chain_lines(stages: Sequence[Stage], mean_activations: np.ndarray) -> np.ndarray:
    """Line amplitudes at the end of a linear chain of stages fed with a constant.

    Behind one stage A_o(m) = (1/S) sum_c W_co(m/s) mu_c, with S phases; give it the
    recorded mean activations of a layer to predict what the layer itself adds. A bias
    adds to DC alone. Further on, a line at b/S behind a stage of stride s came from
    b/(S/s) before it: A'[b] = W(b/S) A[b mod (S/s)] / s^2. Two all-ones 5-tap stages
    give 1/5 of the mean at (1/2, 0) and 1/25 at (1/4, 0).

    Args:
        stages: in the order of the signal.
        mean_activations: (in,), of the constant input; or (in, N), of N inputs.

    Returns:
        (S_height, S_width, out) complex128, S the cumulated strides, bin b at b/S; of N
        inputs (S_height, S_width, out, N).
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


def culprits(strides: Sequence[Strides]) -> np.ndarray:
    """Which stage puts a constant's power into each bin of the chain's line table.

    The first stage behind which the bin is no longer DC; later stages only let it
    through. With strides 2, 2 the lines at 1/2 belong to the last, those at 1/4 to the
    one before.

    Returns:
        (S_height, S_width) int64 index into `strides`; -1 at DC.
    """
    totals = np.cumprod(np.asarray(strides, int).reshape(-1, 2), axis=0)
    rows, columns = totals[-1]
    table = np.full((rows, columns), -1)
    for index in reversed(range(len(totals))):
        height, width = totals[index]
        is_line = (np.arange(rows) % height != 0)[:, None] | (
            np.arange(columns) % width != 0
        )[None]
        table[is_line] = index
    return table
