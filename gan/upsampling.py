"""The catalogue of x2 upsamplers: the independent variable of every experiment.

Each builder takes (batch, height, width, channels) to (batch, 2 height, 2 width,
filters) and differs from the others in nothing else; `kernel_size` is that of the one
convolution that learns. Adding a method is one builder and one row.

Sources: Odena, Dumoulin and Olah 2016 (doi:10.23915/distill.00003) name the artifacts
of transposed convolutions and propose resizing; Shi et al. 2016 (arXiv:1609.05158) the
sub-pixel convolution and Aitken et al. 2017 (arXiv:1707.02937) its initial weights;
Kinoshita and Kiya 2020 a fixed smoothing behind the convolution. Kernels of equal phase
gains by projection are this project's own, on the polyphase condition of Sugawara,
Shiota and Kiya 2019.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

BLUR_TAPS = (0.25, 0.5, 0.25)  # (1 + z)^2 / 4: a double zero at 1/2, no shift
PENALTY = 1e-3
PACKAGE = "seams"  # under which Keras files name the classes below


@dataclass(frozen=True)
class Upsampler:
    """One row of the catalogue.

    Attributes:
        build: (x, filters, kernel_size, name, **options) -> x2 tensor; `options` are
            the keyword arguments of the one convolution that learns.
        cost: multiply-accumulates for one pixel of the input map, k the kernel size, C
            and C' the channels before and after.
        expected: the artifact that the operator allows, in words.
    """

    build: Callable[..., Any]
    cost: str
    expected: str


def transpose(
    x: Any,
    filters: int,
    kernel_size: int,
    name: str,
    layer: type[layers.Conv2DTranspose] = layers.Conv2DTranspose,
    **options: Any,
) -> Any:
    """Transposed convolution of stride 2, `same` padding, by a form of Keras' layer."""
    return layer(filters, kernel_size, 2, padding="same", name=name, **options)(x)


def transpose_blur(
    x: Any, filters: int, kernel_size: int, name: str, **options: Any
) -> Any:
    """Transposed convolution, then a fixed [1, 2, 1] / 4 along both axes.

    The response of the smoothing is zero at 1/2, and so is that of the whole.
    """
    x = transpose(x, filters, kernel_size, name, **options)
    taps = np.outer(BLUR_TAPS, BLUR_TAPS)[..., None, None]
    return layers.DepthwiseConv2D(
        len(BLUR_TAPS),
        padding="same",
        use_bias=False,
        depthwise_initializer=keras.initializers.Constant(taps.tolist()),
        trainable=False,
        name=f"{name}_blur",
        dtype=options["dtype"],
    )(x)


def transpose_balanced(
    x: Any, filters: int, kernel_size: int, name: str, **options: Any
) -> Any:
    """Transposed convolution whose kernels have equal phase gains at every step."""
    balance = BalancedPhases()
    initializer = Projected(options.pop("kernel_initializer"), balance)
    options |= {"kernel_initializer": initializer, "kernel_constraint": balance}
    return transpose(x, filters, kernel_size, name, **options)


def transpose_penalized(
    x: Any, filters: int, kernel_size: int, name: str, **options: Any
) -> Any:
    """Transposed convolution that pays for unequal phase gains in its loss."""
    options |= {"kernel_regularizer": PhasePenalty()}
    return transpose(x, filters, kernel_size, name, **options)


def resize(interpolation: str) -> Callable[..., Any]:
    """Makes the builder of interpolation by 2 followed by a stride-1 convolution."""

    def build(x: Any, filters: int, kernel_size: int, name: str, **options: Any) -> Any:
        x = layers.UpSampling2D(
            2,
            interpolation=interpolation,
            name=f"{name}_resize",
            dtype=options["dtype"],
        )(x)
        return layers.Conv2D(
            filters, kernel_size, padding="same", name=f"{name}_conv", **options
        )(x)

    return build


def subpixel(x: Any, filters: int, kernel_size: int, name: str, **options: Any) -> Any:
    """Convolution to 4 channels a pixel, which become the 2x2 pixels of one channel."""
    x = layers.Conv2D(
        4 * filters, kernel_size, padding="same", name=f"{name}_conv", **options
    )(x)
    return ops.depth_to_space(x, 2)


def subpixel_icnr(
    x: Any, filters: int, kernel_size: int, name: str, **options: Any
) -> Any:
    """Sub-pixel convolution that begins as nearest resize of a convolution."""
    initializer = ICNR(options.pop("kernel_initializer"))
    return subpixel(
        x, filters, kernel_size, name, kernel_initializer=initializer, **options
    )


def phases(taps: int) -> np.ndarray:
    """Which phase at stride 2 each of a row of taps meets: float32 (taps, 2), 0 or 1.

    Raises:
        ValueError: for a single tap, which leaves a phase without any.
    """
    if taps < 2:
        raise ValueError(f"received {taps} tap, expected at least 2: one for a phase")
    return np.eye(2, dtype=np.float32)[np.arange(taps) % 2]


def phase_gains(kernel: Any) -> Any:
    """Sums of the taps that meet each phase: (height, width, ...) to (2, 2, ...)."""
    rows, columns = phases(kernel.shape[0]), phases(kernel.shape[1])
    return ops.einsum("hr,wc,hwoi->rcoi", rows, columns, kernel)


@keras.saving.register_keras_serializable(PACKAGE)
class BalancedPhases(keras.constraints.Constraint):
    """Kernel constraint: equal phase gains at stride 2, hence no line from a constant.

    The orthogonal projection on that subspace, for any
    `Conv2DTranspose(strides=2, kernel_constraint=BalancedPhases())`: every tap of phase
    r moves by (g - G[r]) / n[r], with n[r] the taps of the phase, G[r] their sum and g
    the mean of these weighted by 1 / n. Kernels need at least 2 x 2 taps.
    """

    def __call__(self, w: Any) -> Any:
        """Projects a kernel (height, width, out, in)."""
        rows, columns = phases(w.shape[0]), phases(w.shape[1])
        taps = np.outer(rows.sum(axis=0), columns.sum(axis=0))[..., None, None]
        gains = phase_gains(w)
        goal = ops.sum(gains / taps, axis=(0, 1)) / np.sum(1 / taps)
        shift = (goal - gains) / taps
        return w + ops.einsum("hr,wc,rcoi->hwoi", rows, columns, shift)


@keras.saving.register_keras_serializable(PACKAGE)
class PhasePenalty(keras.regularizers.Regularizer):
    """Power of all lines at stride 2: PENALTY times the sum over m != 0 of |W(m/2)|^2.

    By Parseval 4 sum G^2 - (sum G)^2, summed over channel pairs; 0 for balanced ones.
    """

    def __call__(self, x: Any) -> Any:
        """The loss of a kernel (height, width, out, in)."""
        gains = phase_gains(x)
        lines = 4 * ops.sum(gains**2) - ops.sum(ops.sum(gains, axis=(0, 1)) ** 2)
        return PENALTY * lines

    def get_config(self) -> dict[str, Any]:
        """Nothing to set."""
        return {}


@keras.saving.register_keras_serializable(PACKAGE)
class Projected(keras.initializers.Initializer):
    """Initial weights on which a constraint holds already."""

    def __init__(self, initializer: Any, constraint: Any) -> None:
        """Takes a Keras initializer and a Keras constraint, or their configurations."""
        self.initializer = keras.initializers.get(initializer)
        self.constraint = keras.constraints.get(constraint)

    def __call__(self, shape: Any, dtype: Any = None, **_: Any) -> Any:
        """Weights of `shape`."""
        return self.constraint(self.initializer(shape, dtype=dtype))

    def get_config(self) -> dict[str, Any]:
        """Both parts."""
        serialize = keras.saving.serialize_keras_object
        return {
            "initializer": serialize(self.initializer),
            "constraint": serialize(self.constraint),
        }


@keras.saving.register_keras_serializable(PACKAGE)
class ICNR(keras.initializers.Initializer):
    """Initial weights of a sub-pixel convolution, equal for all four phases.

    Channel p C' + c of the convolution is phase p of channel c, as `depth_to_space`
    reads them, so that the weights of C' channels are repeated four times.
    """

    def __init__(self, initializer: Any) -> None:
        """Takes the Keras initializer of one phase, or its configuration."""
        self.initializer = keras.initializers.get(initializer)

    def __call__(self, shape: Any, dtype: Any = None, **_: Any) -> Any:
        """Weights of shape (height, width, in, 4 out)."""
        *front, channels = shape
        one = self.initializer((*front, channels // 4), dtype=dtype)
        return ops.concatenate([one] * 4, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """The initializer of one phase."""
        serialize = keras.saving.serialize_keras_object
        return {"initializer": serialize(self.initializer)}


@keras.saving.register_keras_serializable(PACKAGE)
class Checker(keras.layers.Layer):
    """Adds a known checkerboard to finished images: what a meter must then read.

    Images in [-1, 1] shrink a little towards 0, so that nothing is clipped, and get
    +a and -a grey levels in turns, a (-1)^(row + column). Training passes unchanged:
    a network that saw the pattern would learn to cancel it.
    """

    def __init__(self, grey_levels: float, **options: Any) -> None:
        """Takes the amplitude a."""
        super().__init__(**options)
        self.grey_levels = grey_levels

    def call(self, images: Any, training: bool = False) -> Any:
        """Images (batch, height, width, channels) to the same shape."""
        if training:
            return images
        amplitude = self.grey_levels / 127.5
        height, width = images.shape[1:3]
        odd = (ops.arange(height)[:, None] + ops.arange(width)[None]) % 2
        signs = ops.cast(1 - 2 * odd, images.dtype)[..., None]
        return images * (1 - amplitude) + amplitude * signs

    def get_config(self) -> dict[str, Any]:
        """The amplitude."""
        return super().get_config() | {"grey_levels": self.grey_levels}


TONES = "lines at 1/2 and 1/4 from phase gains that differ"
CATALOGUE = {
    "transpose": Upsampler(
        transpose,
        "k^2 C C'",
        f"{TONES}; odd kernels also overlap unevenly and drift by half a pixel",
    ),
    "transpose-blur": Upsampler(
        transpose_blur, "k^2 C C' + 36 C'", "no line at 1/2 but a double zero there"
    ),
    "transpose-balanced": Upsampler(
        transpose_balanced,
        "k^2 C C', none for the balance once trained",
        "no line; odd kernels keep a variance that depends on the phase",
    ),
    "transpose-penalized": Upsampler(
        transpose_penalized, "k^2 C C'", "lines that shrink as training goes on"
    ),
    "resize-nearest": Upsampler(
        resize("nearest"), "4 k^2 C C'", "a notch at 1/2, no line"
    ),
    "resize-bilinear": Upsampler(
        resize("bilinear"), "4 k^2 C C'", "a deeper low-pass, no line"
    ),
    "resize-bicubic": Upsampler(
        resize("bicubic"), "4 k^2 C C'", "a milder low-pass, slight ringing, no line"
    ),
    "subpixel": Upsampler(
        subpixel, "4 k^2 C C'", f"{TONES}, as of a transposed kernel of 2 k taps"
    ),
    "subpixel-icnr": Upsampler(
        subpixel_icnr, "4 k^2 C C'", "no line before training, any after it"
    ),
}
