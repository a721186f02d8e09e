"""An ONNX model as a `decoders.Decoder`: onnxruntime runs it, also from its middle."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from analysis.checkerboard.decoders import (
    BATCH_SIZE,
    Upsampling,
    factor_between,
    first_images,
)
from analysis.geometry.onnx_layers import attribute, named_nodes, text_attribute
from gan.files import first_line

FLOAT = onnx.TensorProto.FLOAT
NORMALIZATIONS = ("InstanceNormalization", "GroupNormalization")
# Other forms of normalisation are made of these.
REDUCTIONS = ("GlobalAveragePool", "ReduceMean", "ReduceSum", "ReduceSumSquare")
UPSAMPLINGS = ("ConvTranspose", "Resize", "Upsample", "DepthToSpace")
FIELD = "constant field of "  # in front of the name of an input that is added


class OnnxDecoder:
    """A model of one input; its maps have the axes (N, C, H, W) inside."""

    def __init__(self, model: Any) -> None:
        """Takes the result of `onnx_layers.load_onnx`.

        Raises:
            ValueError: if it has other inputs than one of real numbers.
        """
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        graph = self.model.graph
        weights = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in weights]
        if len(inputs) != 1:
            names = ", ".join(value.name for value in inputs) or "none"
            raise ValueError(f"received the inputs {names}, expected one input")
        if not graph.output:
            raise ValueError("the graph has no output")
        self.input = inputs[0]
        if self.input.type.tensor_type.elem_type != FLOAT:
            raise ValueError(f"the input {self.input.name} is not float32")
        if len(self.input.type.tensor_type.shape.dim) < 2:
            raise ValueError(f"the shape of the input {self.input.name} is not stated")
        batch = self.input.type.tensor_type.shape.dim[0]
        self.batch_size = batch.dim_value or BATCH_SIZE
        self.has_fixed_batch = bool(batch.dim_value)
        del graph.value_info[:]  # they may state the sizes of one input
        self.inputs = np.zeros(0)
        # By name of an upsampling, the name of its output.
        self.outputs: dict[str, str] = {}
        # Further inputs of the model, each with one row for each recorded input.
        self.given: dict[str, np.ndarray] = {}

    def input_shape(self, side: int) -> tuple[int, ...]:
        """Shape of one input; sides that the file leaves open have `side` pixels."""
        dims = self.input.type.tensor_type.shape.dim[1:]
        return tuple(dim.dim_value or side for dim in dims)

    def record(self, inputs: np.ndarray) -> tuple[dict[str, Upsampling], np.ndarray]:
        """See `Decoder`. Afterwards no node depends on the size of a map."""
        self.inputs = inputs
        kinds = (*UPSAMPLINGS, *NORMALIZATIONS, *REDUCTIONS, "Reshape")
        nodes = [
            (n, node) for n, node in named_nodes(self.model) if node.op_type in kinds
        ]
        names = [name for _, node in nodes for name in (node.input[0], node.output[0])]
        names = [*dict.fromkeys(names)]
        shapes: dict[str, tuple[int, ...]] = {}
        # One by one, since all maps of a batch are in memory at the same time.
        size = self.batch_size if self.has_fixed_batch else 1
        given = {self.input.name: inputs}
        keep = partial(summaries, nodes, shapes)
        kept, images = self._run(self.model, given, names, size, keep)
        self._forget_groups(nodes, shapes)
        found = {}
        for name, node in nodes:
            before, after = shapes[node.input[0]], shapes[node.output[0]]
            if node.op_type in NORMALIZATIONS:
                self._keep_spread(node, before, kept[name])
            elif node.op_type in REDUCTIONS and name in kept:
                self.model.graph.node.remove(node)
                self._give(node.output[0], kept[name])
            elif [len(before), len(after)] == [4, 4]:
                self._forget_size(node, before, after)
                factor = factor_of(node, before, after)
                if factor != 1:
                    found[name] = Upsampling(factor, (before[2], before[3]), kept[name])
                    self.outputs[name] = node.output[0]
        return found, images

    def run_from(self, rows: slice, fields: dict[str, np.ndarray]) -> np.ndarray:
        """See `Decoder`."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        inputs = {self.input.name: self.inputs[rows]}
        inputs |= {name: values[rows] for name, values in self.given.items()}
        for name, maps in fields.items():
            output = self.outputs[name]
            (node,) = (n for n in model.graph.node if n.output[0] == output)
            node.input[0] = FIELD + name
            channels_first = np.moveaxis(maps, 3, 1)
            inputs[FIELD + name] = np.ascontiguousarray(channels_first, np.float32)
            model.graph.input.append(
                helper.make_tensor_value_info(
                    FIELD + name, FLOAT, [None, maps.shape[3], None, None]
                )
            )
        return self._run(model, inputs, [], self.batch_size, dict)[1]

    def _run(
        self,
        model: Any,
        inputs: dict[str, np.ndarray],
        names: list[str],
        size: int,
        keep: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Runs a model in batches of `size`.

        Returns:
            What `keep` makes of the values of `names`, and the images (N, H, W, C).
        """
        run, count = self._session(model, names), len(inputs[self.input.name])
        kept, images = [], []
        for start in range(0, count, size):
            rows = np.arange(start, start + size)
            # A model of a fixed batch gets other inputs again in the last one.
            rows = rows % count if self.has_fixed_batch else rows[rows < count]
            values = run({name: given[rows] for name, given in inputs.items()})
            kept.append(keep(dict(zip(names, values, strict=False))))
            images.append(channels_last(first_images(values[len(names) :])))
        whole = {
            name: np.concatenate([part[name] for part in kept])[:count]
            for name in kept[0]
        }
        return whole, np.concatenate(images)[:count]

    def _forget_groups(
        self, nodes: list[tuple[str, Any]], shapes: dict[str, tuple[int, ...]]
    ) -> None:
        """Lets the pair of Reshape around a group normalisation serve any size.

        Files write it as (N, C, H, W) to (N, groups, ...), InstanceNormalization, and
        back to a shape that is often a constant.
        """
        makers = {node.output[0]: node for _, node in nodes}
        for _, last in nodes:
            middle = makers.get(last.input[0])
            if last.op_type != "Reshape" or middle is None:
                continue
            first = makers.get(middle.input[0])
            if middle.op_type not in NORMALIZATIONS or first is None:
                continue
            before, after = shapes[first.input[0]], shapes[last.output[0]]
            if first.op_type != "Reshape" or before != after:
                continue
            groups = np.array([0, shapes[middle.input[0]][1], -1])
            names = f"groups of {first.output[0]}", f"shape for {last.output[0]}"
            self.model.graph.initializer.append(
                numpy_helper.from_array(groups, names[0])
            )
            first.input[1] = names[0]
            shape = helper.make_node("Shape", [first.input[0]], [names[1]])
            place = list(self.model.graph.node).index(last)
            self.model.graph.node.insert(place, shape)
            last.input[1] = names[1]

    def _give(self, name: str, values: np.ndarray) -> None:
        """Adds an input of the model, with a row for each recorded input."""
        self.given[name] = values.astype(np.float32)
        shape = [None, *values.shape[1:]]
        self.model.graph.input.append(helper.make_tensor_value_info(name, FLOAT, shape))

    def _keep_spread(self, node: Any, shape: Any, moments: np.ndarray) -> None:
        """Replaces a normalisation of maps (N, C, ...) by its factors for real maps.

        `moments` are those of `spread`.

        Raises:
            ValueError: if its weights are no constants.
        """
        constants = {tensor.name: tensor for tensor in self.model.graph.initializer}
        for other in self.model.graph.node:
            if other.op_type == "Constant" and other.attribute[0].name == "value":
                constants[other.output[0]] = other.attribute[0].t
            if other.op_type == "Identity" and other.input[0] in constants:
                constants[other.output[0]] = constants[other.input[0]]
        if not all(name in constants for name in node.input[1:3]):
            raise ValueError(f"{node.output[0]}: its scale and bias are no constants")
        scale, bias = (numpy_helper.to_array(constants[n]) for n in node.input[1:3])
        channels = shape[1]
        deviation = np.sqrt(moments[:, 1] + attribute(node, "epsilon", 1e-5))
        each = [
            np.repeat(x, channels // x.shape[1], 1) for x in (moments[:, 0], deviation)
        ]
        scale, bias = (np.repeat(x, channels // len(x)) for x in (scale, bias))
        factor = scale / each[1]
        shape = len(moments), channels, *([1] * (len(shape) - 2))
        place = list(self.model.graph.node).index(node)
        output, between = node.output[0], f"scaled {node.output[0]}"
        names = f"factor of {output}", f"offset of {output}"
        for name, values in zip(names, (factor, bias - each[0] * factor), strict=True):
            self._give(name, values.reshape(shape))
        source = node.input[0]
        del self.model.graph.node[place]
        pair = (("Mul", source, names[0], between), ("Add", between, names[1], output))
        for step, (kind, first, second, made) in enumerate(pair):
            new = helper.make_node(kind, [first, second], [made])
            self.model.graph.node.insert(place + step, new)

    def _session(self, model: Any, names: list[str]) -> Any:
        """A function from inputs to the values of `names`, then all outputs."""
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        wanted = [*names, *(output.name for output in copy.graph.output)]
        del copy.graph.output[:]
        for name in dict.fromkeys(wanted):
            copy.graph.output.append(onnx.ValueInfoProto(name=name))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(copy.SerializeToString(), options)
        except Exception as error:  # its errors have no common class
            raise ValueError(f"onnxruntime: {first_line(error)}") from error

        def run(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            try:
                return session.run(wanted, inputs)
            except Exception as error:
                raise ValueError(f"onnxruntime: {first_line(error)}") from error

        return run

    def _forget_size(self, node: Any, before: Any, after: Any) -> None:
        """Lets a node that states the size of its output serve maps of any size."""
        to_last = (before[0], *before[2:], 1)
        if node.op_type == "Reshape" and before[1] == 1 and after == to_last:
            # tf2onnx exchanges the axes of maps of one channel in this way.
            node.op_type = "Transpose"
            del node.input[1:]
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("perm", (0, 2, 3, 1)))
        if node.op_type == "Resize" and len(node.input) > 3 and node.input[3]:
            scales = np.divide(after, before).astype(np.float32)
            name = f"scales of {node.output[0]}"
            self.model.graph.initializer.append(numpy_helper.from_array(scales, name))
            inputs = node.input[0], node.input[1], name
            del node.input[:]
            node.input.extend(inputs)
        if node.op_type == "ConvTranspose" and attribute(node, "output_shape", None):
            kernel = attribute(node, "kernel_shape", None)
            strides = attribute(node, "strides", [1, 1])
            dilations = attribute(node, "dilations", [1, 1])
            added = attribute(node, "output_padding", [0, 0])
            totals = [
                strides[k] * (before[2 + k] - 1)
                + dilations[k] * (kernel[k] - 1)
                + (1 + added[k] - after[2 + k])
                for k in range(2)
            ]
            upper = text_attribute(node, "auto_pad", "NOTSET") == "SAME_UPPER"
            first = [t // 2 if upper else t - t // 2 for t in totals]
            last = [t - f for t, f in zip(totals, first, strict=True)]
            names = ("auto_pad", "output_shape", "pads")
            kept = [a for a in node.attribute if a.name not in names]
            del node.attribute[:]
            node.attribute.extend(
                [*kept, helper.make_attribute("pads", [*first, *last])]
            )


def summaries(
    nodes: Sequence[tuple[str, Any]],
    shapes: dict[str, tuple[int, ...]],
    values: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """What is needed of the maps of a batch, by name of the node; notes all shapes."""
    shapes.update({name: value.shape for name, value in values.items()})
    areas = {v.shape[2] * v.shape[3] for v in values.values() if v.ndim == 4}
    found = {}
    for name, node in nodes:
        maps, made = values[node.input[0]], values[node.output[0]]
        if node.op_type in NORMALIZATIONS:
            found[name] = spread(node, maps)
        elif node.op_type in REDUCTIONS and is_whole(maps, made, areas):
            found[name] = made
        elif node.op_type in UPSAMPLINGS and maps.ndim == 4:
            found[name] = maps.mean(axis=(2, 3))
    return found


def spread(node: Any, maps: np.ndarray) -> np.ndarray:
    """Mean and variance of each group of maps (N, C, ...): (N, 2, groups)."""
    groups = attribute(node, "num_groups", maps.shape[1])
    grouped = maps.reshape(len(maps), groups, -1)
    return np.stack([grouped.mean(axis=2), grouped.var(axis=2)], axis=1)


def is_whole(maps: np.ndarray, made: np.ndarray, areas: set[int]) -> bool:
    """Whether a mean or sum is one over whole maps, of those with the given areas.

    Maps (N, C, H, W) lose two axes, and (N, C, H W) the one that has the area of a map.
    A mean over the channels of each pixel is none.
    """
    lost = list((Counter(maps.shape) - Counter(made.shape)).elements())
    whole = len(lost) >= 2 if maps.ndim > 3 else bool(areas & set(lost))
    return whole and made.dtype == np.float32


def factor_of(node: Any, before: Any, after: Any) -> int:
    """By how much a node enlarges maps (N, C, H, W), as `decoders.stride_of`."""
    if node.op_type in ("Reshape", "Transpose"):
        return 1
    if node.op_type != "ConvTranspose":
        return factor_between(before[2:], after[2:])
    strides = set(attribute(node, "strides", [1, 1]))
    return int(strides.pop()) if len(strides) == 1 else 0


def channels_last(images: np.ndarray) -> np.ndarray:
    """Images (N, C, H, W) or (N, H, W, C), whichever has 1, 3 or 4 channels."""
    if images.shape[1] in (1, 3, 4) or images.shape[3] not in (1, 3, 4):
        return np.moveaxis(images, 1, 3)
    return images
