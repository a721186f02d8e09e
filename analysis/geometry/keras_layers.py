"""What a Keras layer should do: its output shape and one `AxisPlan` per spatial axis.

Reads hyper-parameters only; `analysis.geometry.audit` compares the outcome with what
was built and what is computed. A layer that is not listed here is not guessed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keras import layers

from analysis.geometry import arithmetic
from analysis.geometry.arithmetic import AxisPlan
from analysis.geometry.graph import Shape


def _classes(names: str) -> tuple[Any, ...]:
    """Keras layers by name; "#" stands for 1D, 2D and 3D, where they exist."""
    found = [n.replace("#", d) for n in names.split() for d in ("1D", "2D", "3D")]
    return tuple(getattr(layers, n) for n in dict.fromkeys(found) if hasattr(layers, n))


DEPTHWISE = _classes("DepthwiseConv#")
SEPARABLE = _classes("SeparableConv#")
CONVOLUTIONS = (*_classes("Conv#"), *DEPTHWISE, *SEPARABLE)
TRANSPOSED = _classes("Conv#Transpose")
MAX_POOLS = _classes("MaxPooling#")
POOLS = (*MAX_POOLS, *_classes("AveragePooling#"))
UPSAMPLINGS = _classes("UpSampling#")
PADDINGS = _classes("ZeroPadding#")
CROPPINGS = _classes("Cropping#")
SPATIAL = (*CONVOLUTIONS, *TRANSPOSED, *POOLS, *UPSAMPLINGS, *PADDINGS, *CROPPINGS)
SHUFFLE = "DepthToSpace"  # an operation of Keras that has no public class
GLOBAL_POOLS = _classes("GlobalAveragePooling# GlobalMaxPooling#")
MERGES = _classes("Add Subtract Multiply Average Maximum Minimum")
POINTWISE = _classes(
    "Activation ActivityRegularization AlphaDropout BatchNormalization Dropout ELU "
    "GaussianDropout GaussianNoise GroupNormalization Identity LayerNormalization "
    "LeakyReLU Normalization PReLU ReLU Rescaling RMSNormalization Softmax "
    "SpatialDropout# UnitNormalization"
)


MAX_AXIS_PX = 2**14  # of a map, kernel or stride: beyond it nothing is listed by pixel


class NotPredicted(ValueError):
    """The layer, or its size, is unknown: nothing may be said about it."""


@dataclass(frozen=True)
class Prediction:
    """What a layer should do to its input.

    Attributes:
        output_shape: batch axis first.
        axes: one plan for each spatial axis; empty if pixels have no place in it.
        macs: multiply-accumulates for one image.
        sizes_only: why the values cannot be predicted; "" if they can.
    """

    output_shape: Shape
    axes: tuple[AxisPlan, ...] = ()
    macs: int = 0
    sizes_only: str = ""


def predict(layer: Any, input_shapes: Sequence[Shape]) -> Prediction:
    """Predicts a layer's output from its hyper-parameters.

    Args:
        layer: any Keras layer.
        input_shapes: of its inputs, batch axis first; None where unknown.

    Raises:
        NotPredicted: for a layer that is not known, or a size that is.
    """
    shape = input_shapes[0] if input_shapes else ()
    if isinstance(layer, (*SPATIAL, layers.Resizing)) or is_shuffle(layer):
        return _predict_spatial(layer, shape)
    if isinstance(layer, POINTWISE):
        return Prediction(shape)
    if isinstance(layer, MERGES):
        return Prediction(_merge(input_shapes))
    if isinstance(layer, layers.Concatenate):
        return Prediction(_concatenate(input_shapes, layer.axis))
    if isinstance(layer, layers.Dense):
        macs = math.prod(_known(shape[1:])) * layer.units
        return Prediction((*shape[:-1], layer.units), macs=macs)
    return Prediction((shape[0], *_predict_rest(layer, shape)))


def is_shuffle(layer: Any) -> bool:
    """Whether this is `keras.ops.depth_to_space`."""
    kind = type(layer)
    return kind.__name__ == SHUFFLE and kind.__module__.startswith("keras.")


def _predict_rest(layer: Any, shape: Shape) -> Shape:
    """Output sizes of the layers that rearrange or drop the axes behind the batch."""
    if isinstance(layer, layers.Flatten):
        return (math.prod(_known(shape[1:])),)
    if isinstance(layer, layers.Reshape):
        return _reshape(_known(shape[1:]), layer.target_shape)
    if isinstance(layer, layers.Permute):
        return tuple(shape[axis] for axis in layer.dims)
    if isinstance(layer, GLOBAL_POOLS):
        sizes, channels = split_shape(layer, shape)
        ones = (1,) * len(sizes) if layer.keepdims else ()
        return join_shape(layer, None, ones, channels)[1:]
    raise NotPredicted("a layer that this audit does not know")


def split_shape(layer: Any, shape: Shape) -> tuple[Shape, int | None]:
    """Spatial sizes and channels of a shape, by the layer's data format."""
    if getattr(layer, "data_format", None) == "channels_first":
        return shape[2:], shape[1]
    return shape[1:-1], shape[-1]


def join_shape(
    layer: Any, batch: int | None, sizes: Sequence[int], channels: int | None
) -> Shape:
    """The inverse of `split_shape`."""
    if getattr(layer, "data_format", None) == "channels_first":
        return (batch, channels, *sizes)
    return (batch, *sizes, channels)


def _known(sizes: Shape) -> tuple[int, ...]:
    if None in sizes:
        raise NotPredicted("its input size is not fixed")
    return tuple(size for size in sizes if size is not None)


def _each(value: Any, rank: int) -> tuple[Any, ...]:
    """A hyper-parameter for each axis: given so, or one for all."""
    return tuple(value) if isinstance(value, tuple | list) else (value,) * rank


def _predict_spatial(layer: Any, shape: Shape) -> Prediction:
    """A layer that moves pixels."""
    sizes, channels = split_shape(layer, shape)
    known, reason = _known(sizes), ""
    if isinstance(layer, layers.Resizing):
        axes, reason = _resizing_axes(layer, known)
        outputs: tuple[int, ...] = (layer.height, layer.width)
    else:
        interpolation = getattr(layer, "interpolation", "nearest")
        if interpolation not in arithmetic.INTERPOLATIONS:
            reason = f"only its size is predicted: {interpolation} interpolation"
        axes = axis_plans(layer, known)
        outputs = tuple(axis.output_size for axis in axes)
    lengths = [n for a in axes for n in (a.output_size, a.effective_kernel, a.stride)]
    if max((*known, *outputs, *lengths)) > MAX_AXIS_PX:
        raise NotPredicted(f"an axis of more than {MAX_AXIS_PX} px")
    filters = output_channels(layer, channels)
    macs = _macs(layer, axes, channels, filters)
    output_shape = join_shape(layer, shape[0], outputs, filters)
    return Prediction(output_shape, () if reason else axes, macs, reason)


def axis_plans(layer: Any, sizes: Sequence[int]) -> tuple[AxisPlan, ...]:
    """One plan for each spatial axis of a layer of `SPATIAL`."""
    rank = len(sizes)
    builder: Any
    columns: Sequence[Any]
    if isinstance(layer, CONVOLUTIONS):
        builder = arithmetic.conv_axis
        columns = layer.kernel_size, layer.strides, layer.padding, layer.dilation_rate
    elif isinstance(layer, TRANSPOSED):
        builder = arithmetic.conv_transpose_axis
        columns = (
            *(layer.kernel_size, layer.strides, layer.padding),
            *(layer.output_padding, layer.dilation_rate),
        )
    elif isinstance(layer, POOLS):
        builder = arithmetic.pool_axis
        columns = layer.pool_size, layer.strides, layer.padding
    elif isinstance(layer, UPSAMPLINGS):
        builder = arithmetic.resize_axis
        interpolation = getattr(layer, "interpolation", "nearest")
        known = interpolation in arithmetic.INTERPOLATIONS
        columns = layer.size, interpolation if known else "nearest"
    elif is_shuffle(layer):
        builder = arithmetic.shuffle_axis
        columns = (layer.block_size,)
    else:
        padded = isinstance(layer, PADDINGS)
        builder = arithmetic.pad_axis if padded else arithmetic.crop_axis
        pairs = layer.padding if padded else layer.cropping
        columns = tuple(zip(*((pairs,) if rank == 1 else pairs), strict=True))
    rows = zip(sizes, *(_each(column, rank) for column in columns), strict=True)
    return tuple(builder(*row) for row in rows)


def _resizing_axes(
    layer: Any, sizes: Sequence[int]
) -> tuple[tuple[AxisPlan, ...], str]:
    """Plans of a Resizing by whole factors, or why there are none."""
    targets = (layer.height, layer.width)
    plain = not (
        layer.crop_to_aspect_ratio or layer.pad_to_aspect_ratio or layer.antialias
    )
    whole = all(target % size == 0 for target, size in zip(targets, sizes, strict=True))
    if plain and whole and layer.interpolation in arithmetic.INTERPOLATIONS:
        factors = [t // size for t, size in zip(targets, sizes, strict=True)]
        pairs = zip(sizes, factors, strict=True)
        return tuple(
            arithmetic.resize_axis(i, f, layer.interpolation) for i, f in pairs
        ), ""
    return (), "only its size is predicted: not an enlargement by whole factors"


def output_channels(layer: Any, channels: int | None) -> int | None:
    """Channels that leave a spatial layer."""
    if isinstance(layer, DEPTHWISE):
        return channels and channels * layer.depth_multiplier
    if is_shuffle(layer):
        return channels and channels // layer.block_size**2
    return getattr(layer, "filters", channels)


def _macs(
    layer: Any, axes: Sequence[AxisPlan], channels: int | None, filters: int | None
) -> int:
    """Multiply-accumulates of a convolution, dense; other layers count as 0."""
    if (
        not isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED))
        or not channels
        or not filters
    ):
        return 0
    taps = math.prod(axis.macs for axis in axes)
    if isinstance(layer, DEPTHWISE):
        return taps * filters
    if isinstance(layer, SEPARABLE):
        depth = channels * layer.depth_multiplier
        pixels = math.prod(axis.output_size for axis in axes)
        return taps * depth + pixels * depth * filters
    return taps * channels // getattr(layer, "groups", 1) * filters


def _merge(shapes: Sequence[Shape]) -> Shape:
    """Shape of an element-wise operation on tensors of one rank; size 1 stretches."""
    if len({len(shape) for shape in shapes}) > 1:
        raise NotPredicted("tensors of different rank are merged")
    output: list[int | None] = []
    for sizes in zip(*shapes, strict=True):
        known = set(sizes) - {1, None}
        if len(known) > 1:
            raise NotPredicted(f"sizes {sizes} cannot be merged")
        output.append(known.pop() if known else None if None in sizes else 1)
    return tuple(output)


def _concatenate(shapes: Sequence[Shape], axis: int) -> Shape:
    """The sizes add up along one axis and agree along the others."""
    axis %= len(shapes[0])
    others = [(*shape[:axis], 1, *shape[axis + 1 :]) for shape in shapes]
    total = sum(_known(tuple(shape[axis] for shape in shapes)))
    return tuple(total if i == axis else n for i, n in enumerate(_merge(others)))


def _reshape(sizes: tuple[int, ...], target: Sequence[int]) -> tuple[int, ...]:
    """The target with its -1 filled in."""
    fixed = math.prod(size for size in target if size != -1)
    return tuple(math.prod(sizes) // fixed if size == -1 else size for size in target)
