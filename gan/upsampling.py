"""Builders of the upsampling methods that `config.upsamplers` lists.

The builder of a method is the function of its name, with `_` for `-`. Each has one
convolution that learns, whose keyword arguments are `options`.

Sources: Odena, Dumoulin and Olah 2016 (doi:10.23915/distill.00003) name the artifacts
of transposed convolutions, propose resizing, and pad before the convolution against
artifacts at the borders; Shi et al. 2016 (arXiv:1609.05158) the sub-pixel convolution
and Aitken et al. 2017 (arXiv:1707.02937) its initial weights; Kinoshita and Kiya 2020 a
fixed smoothing behind the convolution. StyleGAN2 (Karras et al. 2020,
arXiv:1912.04958) has the four taps behind its transposed convolution, and fastai's
`PixelShuffle_ICNR(blur=True)` the two taps, with an activation before them and other
borders. The projection on equal phase gains is this project's own, from the
polyphase condition of Sugawara, Shiota and Kiya 2019.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from config.schema import ConfigError

# Taps of fixed filters: each factor (1 + z) / 2 gives one zero at 1/2.
MEAN = (1 / 2, 1 / 2)
BLUR = (1 / 4, 2 / 4, 1 / 4)
FIR = (1 / 8, 3 / 8, 3 / 8, 1 / 8)
PENALTY = 1e-3
PACKAGE = "seams"  # under which Keras files name the classes below


class LayerKinds(NamedTuple):
    """Classes of the layers that learn: Keras' own, or subclasses that train faster."""

    plain: type[layers.Conv2D] = layers.Conv2D
    transposed: type[layers.Conv2DTranspose] = layers.Conv2DTranspose


KERAS = LayerKinds()


def upsample(
    method: str,
    x: Any,
    filters: int,
    kernel_size: int,
    name: str,
    kinds: LayerKinds = KERAS,
    **options: Any,
) -> Any:
    """From a Keras tensor (batch, height, width, C) to (…, 2 height, 2 width, filters).

    Args:
        method: a key of `config.upsamplers.UPSAMPLERS`.
        x: the tensor.
        filters: number of channels of the result.
        kernel_size: taps of the convolution that learns.
        name: how the names of all layers begin.
        kinds: classes of the layers that learn.
        **options: keyword arguments of the layer that learns, with `dtype`.
    """
    options |= {"filters": filters, "kernel_size": kernel_size, "padding": "same"}
    return globals()[method.replace("-", "_")](x, kinds, name=name, **options)


def transpose(x: Any, kinds: LayerKinds, **options: Any) -> Any:
    """Transposed convolution of stride 2."""
    return kinds.transposed(strides=2, **options)(x)


def transpose_blur(x: Any, kinds: LayerKinds, **options: Any) -> Any:
    """Transposed convolution, then a fixed [1, 2, 1] / 4 along both axes."""
    return smooth(transpose(x, kinds, **options), BLUR, options)


def transpose_fir(x: Any, kinds: LayerKinds, **options: Any) -> Any:
    """Transposed convolution, then a fixed [1, 3, 3, 1] / 8 along both axes."""
    return smooth(transpose(x, kinds, **options), FIR, options)


def smooth(
    x: Any, taps: Sequence[float], options: dict[str, Any], stride: int = 1
) -> Any:
    """A fixed filter along both axes, whose response is 0 at 1/2.

    So is that of all that comes before it. At the borders the map goes on with zeros.
    """
    kernel = np.outer(taps, taps)[..., None, None]
    blur = layers.DepthwiseConv2D(
        len(taps),
        stride,
        padding="same",
        use_bias=False,
        depthwise_initializer=keras.initializers.Constant(kernel.tolist()),
        trainable=False,
        name=f"{options['name']}_blur",
        dtype=options["dtype"],
    )
    return blur(x)


def transpose_balanced(x: Any, kinds: LayerKinds, **options: Any) -> Any:
    """Transposed convolution whose kernels have equal phase gains at every step."""
    balance = BalancedPhases()
    options["kernel_initializer"] = Projected(options["kernel_initializer"], balance)
    return transpose(x, kinds, kernel_constraint=balance, **options)


def transpose_penalized(x: Any, kinds: LayerKinds, **options: Any) -> Any:
    """Transposed convolution with a penalty on unequal phase gains in its loss."""
    return transpose(x, kinds, kernel_regularizer=PhasePenalty(), **options)


def resize(form: str, x: Any, kinds: LayerKinds, name: str, **options: Any) -> Any:
    """Interpolation by 2 of the form "nearest", ..., then a convolution of stride 1."""
    dtype = options["dtype"]
    x = layers.UpSampling2D(2, None, form, name=f"{name}_resize", dtype=dtype)(x)
    return kinds.plain(name=f"{name}_conv", **options)(x)


def resize_nearest_reflect(x: Any, kinds: LayerKinds, name: str, **options: Any) -> Any:
    """Nearest interpolation, then a convolution of the map and its mirror images.

    The map is padded by reflection, and what the convolution computes there is cropped.
    """
    dtype, taps, side = options["dtype"], options["kernel_size"], min(x.shape[1:3])
    margin = taps // 2
    if margin >= 2 * side:
        raise ConfigError(
            f"model.kernel_size: received {taps}, expected at most {4 * side - 1}, "
            f"since resize-nearest-reflect enlarges a map of {side} px and has no more "
            "to reflect"
        )
    x = layers.UpSampling2D(2, name=f"{name}_resize", dtype=dtype)(x)
    sides = (margin, margin)
    x = ops.pad(x, [(0, 0), sides, sides, (0, 0)], mode="reflect")
    x = kinds.plain(name=f"{name}_conv", **options)(x)
    return layers.Cropping2D(margin, name=f"{name}_crop", dtype=dtype)(x)


resize_nearest = partial(resize, "nearest")
resize_bilinear = partial(resize, "bilinear")
resize_bicubic = partial(resize, "bicubic")


def subpixel(x: Any, kinds: LayerKinds, name: str, filters: int, **options: Any) -> Any:
    """Convolution to 4 channels per output channel, which become 2x2 pixels of it."""
    layer = kinds.plain(filters=4 * filters, name=f"{name}_conv", **options)
    return ops.depth_to_space(layer(x), 2)


def subpixel_icnr(x: Any, kinds: LayerKinds, **options: Any) -> Any:
    """Sub-pixel convolution that begins as nearest resize of a convolution."""
    options["kernel_initializer"] = ICNR(options["kernel_initializer"])
    return subpixel(x, kinds, **options)


def subpixel_icnr_blur(x: Any, kinds: LayerKinds, **options: Any) -> Any:
    """The same, then each pixel becomes the mean of 2x2 pixels."""
    return smooth(subpixel_icnr(x, kinds, **options), MEAN, options)


def phases(taps: int) -> np.ndarray:
    """Marks the phase that each tap meets at stride 2: float32 (taps, 2), 0 or 1."""
    if taps < 2:
        raise ValueError(f"received {taps} tap, expected at least 2: one for a phase")
    return np.eye(2, dtype=np.float32)[np.arange(taps) % 2]


def phase_gains(kernel: Any) -> Any:
    """Sums of the taps that meet each phase: (height, width, ...) to (2, 2, ...)."""
    rows, columns = phases(kernel.shape[0]), phases(kernel.shape[1])
    return ops.einsum("hr,wc,hwoi->rcoi", rows, columns, kernel)


@keras.saving.register_keras_serializable(PACKAGE)
class BalancedPhases(keras.constraints.Constraint):
    """Kernel constraint: equal phase gains at stride 2, so a constant gives no line.

    It serves any `Conv2DTranspose(strides=2, kernel_constraint=BalancedPhases())` with
    at least 2 x 2 taps. It is the orthogonal projection on the kernels of equal gains:
    each tap of phase r moves by (g - G[r]) / n[r], where n[r] is the number of taps of
    the phase, G[r] their sum, and g the mean of all G[r] with weights 1 / n[r].
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
    """Penalty on the lines at stride 2: PENALTY sum over m != 0 of |W(m/2)|^2.

    W is the kernel's Fourier transform. By Parseval the sum is 4 sum G^2 - (sum G)^2 of
    the phase gains G, added over all pairs of channels. It is 0 for equal gains.
    """

    def __call__(self, x: Any) -> Any:
        """The penalty of a kernel (height, width, out, in)."""
        gains = phase_gains(x)
        lines = 4 * ops.sum(gains**2) - ops.sum(ops.sum(gains, axis=(0, 1)) ** 2)
        return PENALTY * lines

    def get_config(self) -> dict[str, Any]:
        """Returns no arguments."""
        return {}


@keras.saving.register_keras_serializable(PACKAGE)
class Projected(keras.initializers.Initializer):
    """Initial weights that satisfy a constraint."""

    def __init__(self, initializer: Any, constraint: Any) -> None:
        self.initializer = keras.initializers.get(initializer)
        self.constraint = keras.constraints.get(constraint)

    def __call__(self, shape: Any, dtype: Any = None, **_: Any) -> Any:
        """Weights of `shape`."""
        return self.constraint(self.initializer(shape, dtype=dtype))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        serialize = keras.saving.serialize_keras_object
        initializer, constraint = (
            serialize(self.initializer),
            serialize(self.constraint),
        )
        return {"initializer": initializer, "constraint": constraint}


@keras.saving.register_keras_serializable(PACKAGE)
class ICNR(keras.initializers.Initializer):
    """Initial weights of a sub-pixel convolution, equal for all four phases.

    Channel p C' + c of the convolution is phase p of channel c, as `depth_to_space`
    reads them, so the weights of C' channels are repeated four times.
    """

    def __init__(self, initializer: Any) -> None:
        self.initializer = keras.initializers.get(initializer)

    def __call__(self, shape: Any, dtype: Any = None, **_: Any) -> Any:
        """Weights of shape (height, width, in, 4 out)."""
        *front, channels = shape
        one = self.initializer((*front, channels // 4), dtype=dtype)
        return ops.concatenate([one] * 4, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's argument."""
        serialize = keras.saving.serialize_keras_object
        return {"initializer": serialize(self.initializer)}


@keras.saving.register_keras_serializable(PACKAGE)
class Checker(keras.layers.Layer):
    """Adds a known checkerboard to finished images, as a control of the meter.

    Images in [-1, 1] shrink a little towards 0, so that nothing is clipped, and get a
    grey levels times (-1)^(row + column). In training they pass unchanged: a network
    whose discriminator saw the pattern would learn to cancel it.
    """

    def __init__(self, grey_levels: float, **options: Any) -> None:
        super().__init__(**options)
        self.grey_levels = grey_levels

    def call(self, images: Any, training: bool = False) -> Any:
        """From images (batch, height, width, channels) to the same shape."""
        if training:
            return images
        amplitude = self.grey_levels / 127.5
        height, width = images.shape[1:3]
        odd = (ops.arange(height)[:, None] + ops.arange(width)[None]) % 2
        signs = ops.cast(1 - 2 * odd, images.dtype)[..., None]
        return images * (1 - amplitude) + amplitude * signs

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return super().get_config() | {"grey_levels": self.grey_levels}
