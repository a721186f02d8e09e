"""What a Keras layer does to its input: output shape and one `AxisGeometry` per axis.

`layer_geometry` reads hyper-parameters only; a layer that is not listed here is not
guessed. `propagate` walks the calls of a model in the order of the signal; only it
reads Keras' lists of nodes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

from analysis.geometry import arithmetic
from analysis.geometry.arithmetic import AxisGeometry

Shape = tuple[int | None, ...]


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
# Operations of Keras, which have no public class.
SHUFFLE, PAD = "DepthToSpace", "Pad"
# These layers keep each pixel where it is.
POINTWISE = _classes(
    "Activation ActivityRegularization AlphaDropout BatchNormalization Dropout ELU "
    "GaussianDropout GaussianNoise GroupNormalization Identity LayerNormalization "
    "LeakyReLU Normalization PReLU ReLU Rescaling RMSNormalization Softmax "
    "SpatialDropout# UnitNormalization"
)
MERGES = _classes("Add Subtract Multiply Average Maximum Minimum Concatenate")
# These layers drop or rearrange the axes; their sizes follow Keras' own rule.
REARRANGING = _classes(
    "Flatten Reshape Permute GlobalAveragePooling# GlobalMaxPooling#"
)
MAX_AXIS_PX = 2**14  # of a map, kernel or stride: larger axes are not worked through


class NotPredicted(ValueError):
    """The layer or its input size is not known, so nothing is said about it."""


class NotRead(keras.Layer):
    """Stands for a layer of a file that is not read, and makes the `outputs` stated."""

    def __init__(self, kind: str, outputs: Sequence[Shape], **options: Any) -> None:
        super().__init__(**options)
        self.kind, self.outputs = kind, outputs

    def compute_output_spec(self, *inputs: Any) -> Any:
        """Tensors of the shapes that the file states."""
        made = [keras.KerasTensor(shape) for shape in self.outputs]
        return made[0] if len(made) == 1 else made


@dataclass(frozen=True)
class LayerGeometry:
    """What a layer should do to its input; shapes have the batch axis first."""

    output_shape: Shape
    axes: tuple[AxisGeometry, ...] = ()  # empty if the layer moves no pixels
    macs: int = 0  # multiply-accumulates for one image
    size_only: str = ""  # why the values cannot be predicted, if they cannot


def layer_geometry(layer: Any, input_shapes: Sequence[Shape]) -> LayerGeometry:
    """Predicts a layer's output from its hyper-parameters and its inputs' shapes.

    Raises:
        NotPredicted: If the layer or a size that matters is not known.
    """
    shape = input_shapes[0] if input_shapes else ()
    if isinstance(layer, (*SPATIAL, layers.Resizing)) or is_known_operation(layer):
        return _spatial_geometry(layer, shape)
    if isinstance(layer, POINTWISE):
        return LayerGeometry(shape)
    if isinstance(layer, layers.Dense):
        macs = math.prod(_known(shape[1:])) * layer.units
        return LayerGeometry((*shape[:-1], layer.units), macs=macs)
    if isinstance(layer, MERGES):
        return LayerGeometry(layer.compute_output_shape(list(input_shapes)))
    if isinstance(layer, REARRANGING):
        if isinstance(layer, layers.Flatten | layers.Reshape):
            _known(shape[1:])
        return LayerGeometry(layer.compute_output_shape(shape))
    raise NotPredicted("a layer that this audit does not know")


def is_known_operation(layer: Any) -> bool:
    """Whether this is `depth_to_space` of `keras.ops`, or its `pad` that reflects."""
    return is_shuffle(layer) or (_is_operation(layer, PAD) and layer.mode == "reflect")


def is_shuffle(layer: Any) -> bool:
    """Whether this is `keras.ops.depth_to_space`."""
    return _is_operation(layer, SHUFFLE)


def _is_operation(layer: Any, name: str) -> bool:
    kind = type(layer)
    return kind.__name__ == name and kind.__module__.startswith("keras.")


def _known(sizes: Shape) -> tuple[int, ...]:
    if None in sizes:
        raise NotPredicted("its input size is not fixed")
    return tuple(size for size in sizes if size is not None)


def _spatial_geometry(layer: Any, shape: Shape) -> LayerGeometry:
    """The geometry of a layer that moves pixels."""
    channels_first = getattr(layer, "data_format", None) == "channels_first"
    channels = shape[1] if channels_first else shape[-1]
    sizes = _known(shape[2:] if channels_first else shape[1:-1])
    interpolation: Any = getattr(layer, "interpolation", "nearest")
    why = []  # the values cannot be predicted
    if interpolation not in arithmetic.INTERPOLATIONS:
        why.append(f"{interpolation} interpolation")
    if isinstance(layer, layers.Resizing):
        outputs: tuple[int, ...] = (layer.height, layer.width)
        pairs = list(zip(sizes, outputs, strict=True))
        if any(new % old for old, new in pairs):
            why.append("no enlargement by whole factors")
        options = ("antialias", "crop_to_aspect_ratio", "pad_to_aspect_ratio")
        why.extend(option for option in options if getattr(layer, option))
        factors = () if why else ((old, new // old) for old, new in pairs)
        axes = tuple(arithmetic.resize_axis(*pair, interpolation) for pair in factors)
    else:
        axes = axis_geometries(layer, sizes)
        outputs = tuple(axis.output_size for axis in axes)
    size_only = f"only its size is predicted: {', '.join(why)}" if why else ""
    lengths = [n for a in axes for n in (a.output_size, a.effective_kernel, a.stride)]
    if max((*sizes, *outputs, *lengths)) > MAX_AXIS_PX:
        raise NotPredicted(f"an axis of more than {MAX_AXIS_PX} px")
    filters = getattr(layer, "filters", channels)
    if channels and isinstance(layer, DEPTHWISE):
        filters = channels * layer.depth_multiplier
    elif channels and is_shuffle(layer):
        filters = channels // layer.block_size**2
    macs = _macs(layer, axes, channels, filters)
    inner = (filters, *outputs) if channels_first else (*outputs, filters)
    return LayerGeometry((shape[0], *inner), () if size_only else axes, macs, size_only)


def axis_geometries(layer: Any, sizes: Sequence[int]) -> tuple[AxisGeometry, ...]:
    """One geometry for each spatial axis of a layer of `SPATIAL`."""
    rank = len(sizes)
    builder: Any
    settings: Sequence[Any]
    if isinstance(layer, CONVOLUTIONS):
        builder = arithmetic.conv_axis
        settings = layer.kernel_size, layer.strides, layer.padding, layer.dilation_rate
    elif isinstance(layer, TRANSPOSED):
        builder = arithmetic.conv_transpose_axis
        settings = layer.kernel_size, layer.strides, layer.padding
        settings = *settings, layer.output_padding, layer.dilation_rate
    elif isinstance(layer, POOLS):
        builder = arithmetic.conv_axis
        settings = layer.pool_size, layer.strides, layer.padding, 1, "pool"
    elif isinstance(layer, UPSAMPLINGS):
        builder = arithmetic.resize_axis
        interpolation = getattr(layer, "interpolation", "nearest")
        known = interpolation in arithmetic.INTERPOLATIONS
        settings = layer.size, interpolation if known else "nearest"
    elif is_shuffle(layer):
        builder = arithmetic.shuffle_axis
        settings = (layer.block_size,)
    elif _is_operation(layer, PAD):
        stored = [tuple(pair) for pair in layer.pad_width]
        stored *= rank + 2 if len(stored) == 1 else 1  # a single pair is for each axis
        batch, *pairs, channels = stored
        if not rank or len(pairs) != rank or any((*batch, *channels)):
            raise NotPredicted("it pads other axes than the spatial ones")
        if min(map(min, pairs)) < 0:
            raise NotPredicted("it reflects a negative number of pixels")
        return tuple(
            arithmetic.pad_axis(size, before, after, "reflect")
            for size, (before, after) in zip(sizes, pairs, strict=True)
        )
    else:
        builder = arithmetic.pad_axis
        sign = 1 if isinstance(layer, PADDINGS) else -1
        pairs = layer.padding if sign > 0 else layer.cropping
        sides = zip(*((pairs,) if rank == 1 else pairs), strict=True)
        settings = [tuple(sign * amount for amount in side) for side in sides]
    each = [v if isinstance(v, tuple | list) else (v,) * rank for v in settings]
    return tuple(builder(*values) for values in zip(sizes, *each, strict=True))


def _macs(
    layer: Any, axes: Sequence[AxisGeometry], channels: int | None, filters: int | None
) -> int:
    """Multiply-accumulates of a convolution, dense; other layers count as 0."""
    is_convolution = isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED))
    if not is_convolution or not channels or not filters:
        return 0
    products = math.prod(axis.macs for axis in axes)
    if isinstance(layer, DEPTHWISE):
        return products * filters
    if isinstance(layer, SEPARABLE):
        depth = channels * layer.depth_multiplier
        pixels = math.prod(axis.output_size for axis in axes)
        return products * depth + pixels * depth * filters
    return products * channels // getattr(layer, "groups", 1) * filters


@dataclass(frozen=True)
class LayerCall:
    """One call of one layer; a shared layer has several."""

    name: str  # after those of the nested models: "outer/inner"
    layer: Any  # a Keras layer, or another operation (`x + y`)
    input_shapes: tuple[Shape, ...]  # as built, batch axis first
    output_shapes: tuple[Shape, ...]
    node: Any = None  # Keras' description of the call, if Keras keeps one

    def run(self, values: Sequence[Any], **options: Any) -> list[Any]:
        """Calls the layer again on other tensors; only a layer gets the `options`."""
        old = self.node.input_tensors
        inputs = {id(t): value for t, value in zip(old, values, strict=True)}
        args, kwargs = self.node.arguments.fill_in(inputs)
        if isinstance(self.layer, keras.Layer):
            kwargs |= options
        return keras.tree.flatten(self.layer(*args, **kwargs))


def functional_graph(model: Any) -> Any | None:
    """The functional graph of a model, or None if it has none (subclassed, unbuilt)."""
    graph = getattr(model, "_functional", model)  # Sequential keeps one inside
    return graph if hasattr(graph, "_nodes_by_depth") else None


def propagate(
    model: Any,
    inputs: Sequence[Any],
    visit: Callable[[LayerCall, list[Any]], Sequence[Any]],
    prefix: str = "",
) -> list[Any]:
    """Carries values of any kind through a model, layer by layer.

    Args:
        model: A functional or built Sequential model; for others, a ValueError.
        inputs: One value for each input of the model.
        visit: Function of a call and the values of its inputs that returns the values
            of its outputs. Nested models are entered, not visited.
        prefix: Text in front of every name.
    """
    graph = functional_graph(model)
    if graph is None:
        received = f"received {type(model).__name__} without a graph of layers"
        expected = "expected a functional or a built Sequential model"
        raise ValueError(f"model {model.name!r}: {received}, {expected}")
    values = {id(t): v for t, v in zip(graph.inputs, inputs, strict=True)}
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if node.is_input:
                continue
            given = [values[id(t)] for t in node.input_tensors]
            layer, name = node.operation, prefix + node.operation.name
            outputs: Sequence[Any]
            if functional_graph(layer) is not None:
                outputs = propagate(layer, given, visit, f"{name}/")
            else:
                before = tuple(tuple(t.shape) for t in node.input_tensors)
                after = tuple(tuple(t.shape) for t in node.output_tensors)
                outputs = visit(LayerCall(name, layer, before, after, node), given)
            for tensor, value in zip(node.output_tensors, outputs, strict=True):
                values[id(tensor)] = value
    return [values[id(t)] for t in graph.outputs]
