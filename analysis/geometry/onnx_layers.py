"""Audits the nodes of an ONNX file: predicted, stated and computed.

Nothing of the file is run. A node that moves pixels is built again with one channel and
whole-number weights, and onnxruntime computes it (`values.py` has the numbers that it
must give). Sizes are carried from node to node: by the rules of `arithmetic.py` where
pixels move, by onnx's own inference elsewhere, because that inference is wrong for some
transposed convolutions. Added to the findings of `audit.py` are E8 negative pads, E9 a
pooling that onnxruntime computes wrongly, W11 onnx infers another size, W12 older
versions of onnxruntime differ, and I4 which layers of Keras and PyTorch compute the
same.

Sources: the operators' specification (onnx.ai); onnxruntime issue 9370 and pull request
12537 (SAME_UPPER and SAME_LOWER were swapped before version 1.13).
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import helper, inliner, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from analysis.geometry import arithmetic, values
from analysis.geometry.arithmetic import AxisGeometry, Finding
from analysis.geometry.audit import (
    DAMAGE,
    LayerAudit,
    MapPath,
    axis_findings,
    chain_finding,
    damaged,
)
from analysis.geometry.formulas import same_pixels
from analysis.geometry.keras_layers import MAX_AXIS_PX, NotPredicted, Shape
from gan.files import first_line, write_atomically

MAX_FILE_BYTES = 2**31 - 1  # a larger file keeps its weights beside it
MAX_NODES = 100_000
MAX_FOLDED = 64  # elements of a constant that sizes are computed from
STANDARD = ("", "ai.onnx")  # domains
CONVOLUTIONS = ("Conv", "ConvTranspose")
POOLS = ("MaxPool", "AveragePool")
ENLARGING = ("Resize", "Upsample", "DepthToSpace")
SPATIAL = (*CONVOLUTIONS, *POOLS, *ENLARGING, "Pad")
# Each pixel stays where it is.
POINTWISE = """
Abs Add BatchNormalization Cast Celu Clip Concat Div Dropout Elu Erf Exp Gelu
GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization
LayerNormalization LeakyRelu Log LRN Max Mean Min Mish Mul Neg PRelu Pow Relu Selu
Sigmoid Softplus Softsign Sqrt Sub Sum Tanh Where
""".split()
# Sizes are computed by these, from constants.
FOLDED = """
Add Cast Concat Constant ConstantOfShape Div Floor Gather Identity Max Min Mod Mul Neg
Reshape Shape Slice Split Squeeze Sub Transpose Unsqueeze
""".split()
INTERPOLATIONS = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}


def load_onnx(path: Path) -> Any:
    """Reads a model without weights that lie in other files.

    Raises:
        ValueError: if it is not an ONNX model, or too large.
    """
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path}: received more than 2 GiB, expected less")
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise ValueError(f"{path}: not an ONNX model ({first_line(error)})") from error
    if not model.opset_import or not model.graph.node:
        raise ValueError(f"{path}: not an ONNX model (it has no nodes)")
    if len(model.graph.node) > MAX_NODES:
        raise ValueError(f"{path}: received more than {MAX_NODES} nodes")
    return inliner.inline_local_functions(model) if model.functions else model


def load_weights(model: Any, path: Path) -> Any:
    """Adds the weights that lie in other files of the folder of `path` to its model.

    Raises:
        ValueError: if such a file is missing, damaged or in another folder.
    """
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # onnx's checks have no common class
        raise ValueError(f"{path}: its weights: {first_line(error)}") from error
    return model


def audit_onnx(model: Any, size: int | None = None) -> list[LayerAudit]:
    """Audits every node that a feature map passes, in the order of the file.

    Args:
        model: the result of `load_onnx`.
        size: pixels of each spatial axis of an input that states none.
    """
    walk = Walk(model, size)
    audits = []
    for name, node in named_nodes(model):
        try:
            audit = walk.visit(node, name)
        except DAMAGE as error:
            audit = damaged(name, node.op_type, error)
        if audit is not None:
            audits.append(audit)
    return audits


def named_nodes(model: Any) -> Iterator[tuple[str, Any]]:
    """The nodes with names that differ, which ONNX does not ask for."""
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        name = node.name or node.op_type
        if not node.name or name in seen:
            name = f"{name}_{index}"
        seen.add(name)
        yield name, node


class Walk:
    """What is known of each tensor while the nodes are visited, by name.

    Attributes:
        types: types with as much of the shape as is known.
        constants: constants of few elements.
        weights: number of elements of each initializer that no node has used yet.
        stated: shapes that the file states.
        paths: the layers from a first map to the tensor.
    """

    def __init__(self, model: Any, size: int | None) -> None:
        graph = model.graph
        self.opsets = list(model.opset_import)
        self.types: dict[str, Any] = {}
        self.constants: dict[str, Any] = {}
        self.weights: dict[str, int] = {}
        self.paths: dict[str, MapPath] = {}
        for tensor in graph.initializer:
            self.weights[tensor.name] = math.prod(tensor.dims)
            self.set_shape(tensor.name, tuple(tensor.dims), tensor.data_type)
            is_here = tensor.data_location != onnx.TensorProto.EXTERNAL
            if is_here and self.weights[tensor.name] <= MAX_FOLDED:
                self.constants[tensor.name] = tensor
        for info in graph.input:
            if info.name in self.weights:
                continue
            shape = shape_of(info.type)
            if shape:  # one image, where any number is allowed
                shape = shape[0] or 1, *shape[1:2], *(n or size for n in shape[2:])
            self.set_shape(info.name, shape, info.type.tensor_type.elem_type)
            self.paths[info.name] = MapPath()
        self.stated = {
            info.name: shape_of(info.type)
            for info in (*graph.value_info, *graph.output)
        }

    def set_shape(self, name: str, shape: Shape | None, kind: int) -> None:
        """Notes what is known of a tensor."""
        dims = (
            None if shape is None else [n or f"{name}?{k}" for k, n in enumerate(shape)]
        )
        self.types[name] = helper.make_tensor_type_proto(kind, dims)

    def shape(self, name: str) -> Shape | None:
        """The shape of a tensor; None where it is not known."""
        return shape_of(self.types[name]) if name in self.types else None

    def visit(self, node: Any, name: str) -> LayerAudit | None:
        """Audits a node; None for one that only computes constants."""
        inferred = self.infer(node)
        self.fold(node)
        if all(out in self.constants for out in node.output):
            self.types |= inferred
            return None
        given = self.shape(node.input[0]) if node.input else None
        used = [n for n in dict.fromkeys(node.input) if n in self.weights]
        audit = LayerAudit(
            name=name,
            type=node.op_type,
            input_shape=given,
            output_shape=self.stated.get(node.output[0]),
            params=sum(self.weights.pop(n) for n in used),
        )
        onnx_shape = shape_of(inferred.get(node.output[0]))
        if node.domain not in STANDARD:
            return dataclasses.replace(audit, reason=f"an operator of {node.domain}")
        path = self.path(node)
        if node.op_type not in SPATIAL:
            self.types |= inferred
            self.paths |= dict.fromkeys(node.output, path)
            macs = self.product_macs(node)
            audit = dataclasses.replace(audit, macs=macs, chain=path.chain)
            return self.compare(audit, onnx_shape, onnx_shape)
        try:
            axes, shape, reason = self.geometry(node, given)
        except (NotPredicted, ValueError) as error:
            self.types |= inferred
            return dataclasses.replace(audit, reason=first_line(error))
        if shape[1] is None and onnx_shape:
            shape = shape[0], onnx_shape[1], *shape[2:]
        self.set_shape(
            node.output[0], shape, self.types[node.input[0]].tensor_type.elem_type
        )
        sizes, chain = [axis.input_size for axis in axes], path.chain
        if reason or (chain and [axis.output_size for axis in chain[-1]] != sizes):
            chain = None
        chain = None if chain is None else (*chain, axes)
        self.paths[node.output[0]] = path._replace(chain=chain)
        macs = self.convolution_macs(node, axes)
        audit = dataclasses.replace(audit, axes=axes, macs=macs, chain=chain)
        if reason:
            return self.compare(audit, shape, onnx_shape, reason)
        found = [*axis_findings(axes, in_keras=False), *chain_finding(axes, chain)]
        if broken := pooling_finding(node, axes):
            reason, found = "onnxruntime computes something else", [broken, *found]
        elif all(axis.feasible for axis in axes):
            reason, errors = _check_values(node, axes, self.constants, self.opsets)
            found = [*errors, *found, *elsewhere(node, axes)]
        else:
            reason = "it cannot run"
        audit = dataclasses.replace(audit, findings=tuple(found))
        return self.compare(audit, shape, onnx_shape, reason)

    def compare(
        self,
        audit: LayerAudit,
        shape: Shape | None,
        onnx_shape: Shape | None,
        reason: str = "",
    ) -> LayerAudit:
        """Compares the predicted shape with the stated one and with onnx's."""
        found = list(audit.findings)
        if differ(shape, audit.output_shape):
            text = f"predicted output {shape}, the file states {audit.output_shape}"
            found.insert(0, Finding("E6", "error", f"{text}: trust no size behind it"))
        if differ(shape, onnx_shape):
            text = f"onnx {onnx.__version__} infers {onnx_shape}, onnxruntime computes"
            advice = "state the pads as numbers (--explicit-pads)"
            found.append(Finding("W11", "warning", f"{text} {shape}: {advice}"))
        if shape is None:
            reason = "its shape is not known"
        return dataclasses.replace(
            audit,
            output_shape=audit.output_shape or shape,
            predicted_shape=shape,
            checked=not reason,
            reason=reason,
            findings=tuple(found),
        )

    def infer(self, node: Any) -> dict[str, Any]:
        """Types of the outputs by onnx's own rule for this node."""
        domain = "" if node.domain in STANDARD else node.domain
        versions = [o.version for o in self.opsets if (o.domain or "") == domain]
        known = {n: self.types[n] for n in node.input if n in self.types}
        try:
            schema = onnx.defs.get_schema(node.op_type, versions[0], domain)
            data = {n: self.constants[n] for n in node.input if n in self.constants}
            return shape_inference.infer_node_outputs(
                schema, node, known, data, opset_imports=self.opsets
            )
        except Exception:  # onnx raises several classes without a common one
            return {}

    def fold(self, node: Any) -> None:
        """Computes small constants, which state the sizes of other nodes."""
        if node.op_type not in FOLDED or node.domain not in STANDARD:
            return
        if node.op_type == "Shape":
            shape = self.shape(node.input[0])
            if shape is None or None in shape:
                return
            first = attribute(node, "start", 0)
            last = attribute(node, "end", None)
            results: Any = [np.array(shape[first:last], np.int64)]
        elif all(not n or n in self.constants for n in node.input):
            if any(math.prod(a.t.dims) > MAX_FOLDED for a in node.attribute):
                return
            kept = [self.constants[n] for n in dict.fromkeys(node.input) if n]
            if node.op_type == "ConstantOfShape" and not small(kept):
                return
            outputs = [helper.make_empty_tensor_value_info(n) for n in node.output]
            graph = helper.make_graph([node], "one node", [], outputs, kept)
            one = helper.make_model(graph, opset_imports=self.opsets)
            try:
                results = ReferenceEvaluator(one).run(None, {})
            except Exception:  # a constant that cannot be computed is not known
                return
        else:
            return
        for name, found in zip(node.output, map(np.asarray, results), strict=True):
            if found.size <= MAX_FOLDED:
                self.constants[name] = numpy_helper.from_array(found, name)

    def path(self, node: Any) -> MapPath:
        """The path in front of a node; it starts anew behind another rank."""
        maps = [n for n in node.input if n in self.paths]
        path = MapPath.meeting(self.paths[n] for n in maps)
        ranks = {len(self.shape(n) or ()) for n in (*maps, *node.output)}
        if node.op_type in (*SPATIAL, *POINTWISE):
            return path if maps else MapPath((), node.output[0])
        if node.op_type == "Transpose":
            perm = list(attribute(node, "perm", []))
            rests = ([axis for axis in perm if axis != moved] for moved in perm[1:])
            return (
                path if any(rest == sorted(rest) for rest in rests) else MapPath(None)
            )
        return MapPath((), node.output[0]) if len(ranks) > 1 else MapPath(None)

    def geometry(
        self, node: Any, given: Shape | None
    ) -> tuple[tuple[AxisGeometry, ...], Shape, str]:
        """Axes, output shape, and why values cannot be predicted, or ""."""
        if given is None or len(given) < 3:
            raise NotPredicted("the shape of its input is not known")
        if None in given[2:]:
            raise NotPredicted("its input size is not fixed: give it with --input-size")
        sizes = [n for n in given[2:] if n is not None]
        reason = ""
        if node.op_type in ("Resize", "Upsample"):
            outputs = self.resized(node, given)
            axes = resize_axes(node, sizes, outputs)
            if not axes:
                reason = "only its size is predicted: no enlargement by whole factors"
        else:
            axes, reason = self.fixed_axes(node, sizes)
            outputs = [axis.output_size for axis in axes]
        lengths = [n for a in axes for n in (a.effective_kernel, a.stride)]
        if max((*sizes, *outputs, *lengths)) > MAX_AXIS_PX:
            raise NotPredicted(f"an axis of more than {MAX_AXIS_PX} px")
        return axes, (given[0], self.channels(node, given[1]), *outputs), reason

    def fixed_axes(
        self, node: Any, sizes: Sequence[int]
    ) -> tuple[tuple[AxisGeometry, ...], str]:
        """Axes of all spatial nodes but those that interpolate."""
        if node.op_type == "DepthToSpace":
            block = attribute(node, "blocksize", 1)
            return tuple(arithmetic.shuffle_axis(n, block) for n in sizes), ""
        if node.op_type == "Pad":
            return self.pad_axes(node, sizes)
        if node.op_type in POOLS:
            axes = window_axes(node, sizes, attribute(node, "kernel_shape", []))
            padded = any(axis.pad_before or axis.pad_after > 0 for axis in axes)
            counted = attribute(node, "count_include_pad", 0) and padded
            why = "only its size is predicted: its averages count the padding"
            return axes, why if counted else ""
        weights = self.shape(node.input[1])
        if weights is None or None in weights:
            raise NotPredicted("the shape of its weights is not known")
        return window_axes(node, sizes, [n or 1 for n in weights[2:]]), ""

    def channels(self, node: Any, given: int | None) -> int | None:
        """The number of channels of the output."""
        if node.op_type in CONVOLUTIONS:
            weights = self.shape(node.input[1]) or (None, None)
            if node.op_type == "Conv":
                return weights[0]
            return (weights[1] or 0) * attribute(node, "group", 1)
        if node.op_type == "DepthToSpace":
            return given and given // attribute(node, "blocksize", 1) ** 2
        return given

    def pad_axes(
        self, node: Any, sizes: Sequence[int]
    ) -> tuple[tuple[AxisGeometry, ...], str]:
        """Axes of a Pad, whose amounts are an attribute or a constant input."""
        rank, pads = len(sizes) + 2, self.constant(node, 1, "pads")
        has_axes = len(node.input) > 3 and node.input[3]
        named = self.constant(node, 3, "axes") if has_axes else range(rank)
        pairs = zip(pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True)
        sides = dict(zip([axis % rank for axis in named], pairs, strict=True))
        if any(pair != (0, 0) for axis, pair in sides.items() if axis < 2):
            raise NotPredicted("it pads other axes than the spatial ones")
        mode = text_attribute(node, "mode", "constant")
        border: Any = mode if mode in ("reflect", "edge") else "pad"
        axes = []
        for axis, size in enumerate(sizes, start=2):
            before, after = map(int, sides.get(axis, (0, 0)))
            axes.append(arithmetic.pad_axis(size, before, after, border))
        reason = ""
        if mode == "constant":
            if not self.pads_with_zeros(node):
                reason = "it does not pad with zeros"
        elif border == "pad":
            reason = f"mode {mode}"
        elif any(axis.kind == "crop" for axis in axes):
            reason = "some of its amounts are negative"
        if reason and all(axis.feasible for axis in axes):
            return tuple(axes), f"only its size is predicted: {reason}"
        return tuple(axes), ""

    def pads_with_zeros(self, node: Any) -> bool:
        """Whether the value of a Pad, an attribute or an input, is known to be 0."""
        if len(node.input) < 3 or not node.input[2]:
            return not attribute(node, "value", 0.0)
        value = self.constants.get(node.input[2])
        return value is not None and not to_array(value).any()

    def resized(self, node: Any, given: Shape) -> list[int]:
        """Spatial sizes behind a Resize or Upsample."""
        sizes = [n or 1 for n in given]
        if node.op_type == "Resize" and len(node.input) > 3 and node.input[3]:
            outputs = [int(n) for n in self.constant(node, 3, "sizes")]
        else:
            last = 2 if node.op_type == "Resize" and len(node.input) > 2 else 1
            scales = self.constant(node, last, "scales")
            pairs = zip(sizes, scales, strict=False)
            outputs = [math.floor(n * float(scale)) for n, scale in pairs]
        axes_given = attribute(node, "axes", None)
        if axes_given is not None:
            by_axis = dict(zip(axes_given, outputs, strict=True))
            outputs = [by_axis.get(n, size) for n, size in enumerate(sizes)]
        if len(outputs) != len(sizes) or outputs[:2] != sizes[:2] and given[1]:
            raise NotPredicted("it resizes other axes than the spatial ones")
        if not all(1 <= n <= MAX_AXIS_PX for n in outputs[2:]):
            raise NotPredicted(f"an axis of 0 or of more than {MAX_AXIS_PX} px")
        return outputs[2:]

    def constant(self, node: Any, place: int, name: str) -> list[Any]:
        """A constant input, or the attribute that it was in older versions."""
        if len(node.input) > place and node.input[place] in self.constants:
            return to_array(self.constants[node.input[place]]).tolist()
        found = attribute(node, name, None)
        if found is None:
            raise NotPredicted(f"its {name} are not constant")
        return list(found)

    def convolution_macs(self, node: Any, axes: Sequence[AxisGeometry]) -> int:
        """Multiply-accumulates for one image of a convolution; others count as 0."""
        if node.op_type not in CONVOLUTIONS:
            return 0
        first, second = (n or 0 for n in (self.shape(node.input[1]) or (0, 0))[:2])
        return math.prod(axis.macs for axis in axes) * first * second

    def product_macs(self, node: Any) -> int:
        """The same of a matrix product with a constant matrix."""
        if node.op_type not in ("Gemm", "MatMul"):
            return 0
        rows, matrix = (self.shape(n) for n in node.input[:2])
        if not rows or not matrix or None in (*rows[1:], *matrix[-2:]):
            return 0
        if node.op_type == "Gemm" or len(rows) < 3:
            return math.prod(n or 0 for n in matrix[-2:])
        return math.prod(n or 0 for n in (*rows[1:], matrix[-1]))


def shape_of(kind: Any) -> Shape | None:
    """The shape in a type; None if it has none."""
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    return tuple(d.dim_value or None for d in kind.tensor_type.shape.dim)


def differ(first: Shape | None, second: Shape | None) -> bool:
    """Whether two shapes cannot be equal."""
    if first is None or second is None:
        return False
    pairs = zip(first, second, strict=False)
    unequal = any(None not in pair and pair[0] != pair[1] for pair in pairs)
    return unequal or len(first) != len(second)


def attribute(node: Any, name: str, default: Any) -> Any:
    """The value of an attribute."""
    found = [a for a in node.attribute if a.name == name]
    return helper.get_attribute_value(found[0]) if found else default


def text_attribute(node: Any, name: str, default: str) -> str:
    """The value of an attribute that is text."""
    return bytes(attribute(node, name, default.encode())).decode(errors="replace")


def small(shapes: Sequence[Any]) -> bool:
    """Whether tensors of these shapes, which are tensors themselves, are small."""
    return all(0 <= math.prod(to_array(s).tolist()) <= MAX_FOLDED for s in shapes)


def to_array(tensor: Any) -> np.ndarray:
    """The values of a constant."""
    return numpy_helper.to_array(tensor)


def resize_axes(
    node: Any, sizes: Sequence[int], outputs: Sequence[int]
) -> tuple[AxisGeometry, ...]:
    """Axes of an enlargement by whole factors; none for other resizes."""
    mode: Any = INTERPOLATIONS.get(text_attribute(node, "mode", "nearest"))
    pairs = list(zip(sizes, outputs, strict=True))
    if mode is None or any(new % old for old, new in pairs):
        return ()
    return tuple(arithmetic.resize_axis(old, new // old, mode) for old, new in pairs)


def window_axes(
    node: Any, sizes: Sequence[int], kernel: Sequence[int]
) -> tuple[AxisGeometry, ...]:
    """Axes of a convolution, transposed convolution or pooling."""
    rank = len(sizes)
    ones, auto_pad = [1] * rank, text_attribute(node, "auto_pad", "NOTSET")
    strides = attribute(node, "strides", ones)
    dilations = attribute(node, "dilations", ones)
    pads = attribute(node, "pads", [0] * 2 * rank)
    if auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise NotPredicted(f"its auto_pad is {auto_pad}")
    if [len(v) for v in (kernel, strides, dilations, pads)] != [rank] * 3 + [2 * rank]:
        raise NotPredicted("its attributes do not fit its input")
    if max(map(abs, (*kernel, *strides, *dilations, *pads))) > MAX_AXIS_PX:
        raise NotPredicted(f"an axis of more than {MAX_AXIS_PX} px")
    if min((*kernel, *strides, *dilations)) < 1:
        raise NotPredicted("a kernel, stride or dilation below 1")
    added = attribute(node, "output_padding", [0] * rank)
    asked = attribute(node, "output_shape", None)
    axes = []
    for n, settings in enumerate(zip(sizes, kernel, strides, strict=True)):
        pair = (0, 0) if auto_pad == "VALID" else (pads[n], pads[n + rank])
        if node.op_type == "ConvTranspose":
            axis = arithmetic.onnx_transpose_axis(
                *settings,
                auto_pad if auto_pad.startswith("SAME") else pair,  # type: ignore[arg-type]
                added[n],
                dilations[n],
                asked[n] if asked else None,
            )
        else:
            axis = gather_axis(node, settings, dilations[n], auto_pad, pair)
        axes.append(axis)
    return tuple(axes)


def gather_axis(
    node: Any,
    settings: tuple[int, int, int],
    dilation: int,
    auto_pad: str,
    pads: tuple[int, int],
) -> AxisGeometry:
    """One axis of a convolution or pooling; SAME_LOWER pads the odd pixel first."""
    size, kernel, stride = settings
    kind: Any = "conv" if node.op_type == "Conv" else "pool"
    if auto_pad.startswith("SAME"):
        axis = arithmetic.conv_axis(size, kernel, stride, "same", dilation, kind)
        if auto_pad == "SAME_LOWER":
            before, after = axis.pad_after, axis.pad_before
            axis = dataclasses.replace(axis, pad_before=before, pad_after=after)
        return axis
    ceil = kind == "pool" and bool(attribute(node, "ceil_mode", 0))
    axis = arithmetic.pool_axis(size, kernel, stride, pads, dilation, ceil)
    return dataclasses.replace(axis, kind=kind)


def pooling_finding(node: Any, axes: Sequence[AxisGeometry]) -> Finding | None:
    """E9: a pooling whose pads onnxruntime 1.32 takes as negative."""
    by_size = text_attribute(node, "auto_pad", "NOTSET").startswith("SAME")
    unread = any(axis.effective_pad_after < 0 for axis in axes)
    if node.op_type not in POOLS or not by_size or not unread:
        return None
    text = (
        "the windows leave pixels out, and onnxruntime 1.32 computes negative pads for "
        "them: it refuses a MaxPool and moves the windows of an AveragePool; state the "
        "pads as numbers (--explicit-pads)"
    )
    return Finding("E9", "error", text)


def _check_values(
    node: Any, axes: Sequence[AxisGeometry], constants: dict[str, Any], opsets: Any
) -> tuple[str, list[Finding]]:
    """Why the values are not checked, or "", and the error found in checking them."""
    try:
        computed = run_node(node, axes, constants, opsets)
    except ValueError as error:
        return str(error), []
    expected = values.expected_values(axes, node.op_type == "MaxPool")
    found = values.value_findings(computed, expected)
    resizes = node.op_type in ("Resize", "Upsample")
    if resizes and [finding.code for finding in found] == ["E7"]:
        rule = text_attribute(node, "coordinate_transformation_mode", "half_pixel")
        if text_attribute(node, "mode", "nearest") == "cubic":
            rule += f", cubic coefficient {attribute(node, 'cubic_coeff_a', -0.75):g}"
        return (
            f"only its size is predicted: it interpolates by another rule ({rule})",
            [],
        )
    return "", found


def run_node(
    node: Any, axes: Sequence[AxisGeometry], constants: dict[str, Any], opsets: Any
) -> np.ndarray:
    """Computes a node of one channel with known numbers; spatial shape.

    Raises:
        ValueError: if it cannot be run.
    """
    import onnxruntime

    inputs = values.known_inputs(axes)[None, None]
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.output[1:]
    one = [a for a in copy.attribute if a.name not in ("group", "storage_order")]
    del copy.attribute[:]
    copy.attribute.extend(one)
    kept = []
    if node.op_type in CONVOLUTIONS:
        del copy.input[2:]
        kernel = values.known_kernel(axes)[None, None]
        kept.append(numpy_helper.from_array(kernel, copy.input[1]))
    elif node.op_type == "DepthToSpace":
        block = axes[0].stride
        inputs = inputs * np.arange(1, block**2 + 1, dtype=np.float32)[:, None, None]
    else:
        for place, name in enumerate(copy.input[1:], start=1):
            if not name:
                continue
            if name not in constants:
                raise ValueError("an input is not constant")
            array = to_array(constants[name]).copy()
            if node.op_type == "Resize" and place == 3 and len(array) > len(axes):
                array[:2] = 1
            kept.append(numpy_helper.from_array(array, name))
    copy.input[0], copy.output[0] = "x", "y"
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [copy],
        "one node",
        [helper.make_tensor_value_info("x", floats, inputs.shape)],
        [helper.make_tensor_value_info("y", floats, None)],
        kept,
    )
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        return session.run(None, {"x": inputs})[0][0, 0].astype(np.float64)
    except Exception as error:  # its errors have no common class
        raise ValueError(f"onnxruntime: {first_line(error)}") from error


def elsewhere(node: Any, axes: Sequence[AxisGeometry]) -> Iterator[Finding]:
    """W12 and I4 of a convolution or transposed convolution."""
    if node.op_type not in CONVOLUTIONS:
        return
    auto_pad = text_attribute(node, "auto_pad", "NOTSET")
    if node.op_type == "ConvTranspose" and auto_pad.startswith("SAME"):
        added = attribute(node, "output_padding", [0] * len(axes))
        ends = [axis.pad_before + axis.effective_pad_after for axis in axes]
        # The two differ in where the odd row of a total lies.
        if any(max(end + op, 0) % 2 for end, op in zip(ends, added, strict=True)):
            text = (
                "onnxruntime before 1.13 swaps SAME_UPPER and SAME_LOWER, which moves "
                "these values by one pixel: state the pads as numbers "
                "(--explicit-pads)"
            )
            yield Finding("W12", "warning", text)
    groups = attribute(node, "group", 1)
    text = same_pixels(axes, "Keras", "PyTorch", groups=groups)
    yield Finding("I4", "info", text)


def write_explicit_pads(
    model: Any, audits: Sequence[LayerAudit], source: Path, out: Path
) -> int:
    """Writes the model with all pads as numbers; returns how many nodes changed.

    Each changed node is run, and must compute what the audit expects.

    Raises:
        ValueError: if a node cannot be changed, or computes something else then.
    """
    by_name = {audit.name: audit for audit in audits}
    outside = any(
        tensor.data_location == onnx.TensorProto.EXTERNAL
        for tensor in model.graph.initializer
    )
    if outside and source.resolve().parent != out.resolve().parent:
        raise ValueError(
            f"{out}: expected the folder of {source}, whose weights lie there"
        )
    changed = 0
    for name, node in named_nodes(model):
        by_rule = text_attribute(node, "auto_pad", "NOTSET") != "NOTSET"
        asks_size = attribute(node, "output_shape", None) is not None
        is_negative = min(attribute(node, "pads", None) or [0]) < 0
        if node.op_type not in (*CONVOLUTIONS, *POOLS):
            continue
        if not by_rule and not asks_size and not is_negative:
            continue
        audit = by_name[name]
        wrong = [f.code for f in audit.findings if f.level == "error"]
        if not audit.axes or not set(wrong) <= {"E8", "E9"}:
            raise ValueError(f"{name}: its pads are not known ({audit.reason})")
        expected = values.expected_values(audit.axes, node.op_type == "MaxPool")
        ends = [axis.effective_pad_after for axis in audit.axes]
        if not audit.axes[0].is_scatter:
            ends = [axis.pad_after for axis in audit.axes]
        pads = [axis.pad_before for axis in audit.axes] + [max(end, 0) for end in ends]
        names = "auto_pad", "output_shape", "pads", "output_padding"
        kept = [a for a in node.attribute if a.name not in names]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("pads", pads)])
        if min(ends) < 0:
            added = [max(-end, 0) for end in ends]
            node.attribute.append(helper.make_attribute("output_padding", added))
        try:
            computed = run_node(node, audit.axes, {}, model.opset_import)
        except ValueError as error:
            raise ValueError(f"{name}: no pads serve it: {error}") from error
        if values.shift_between(computed, expected) != (0,) * computed.ndim:
            raise ValueError(f"{name}: it computes something else with the pads {pads}")
        changed += 1
    write_atomically(out, lambda path: onnx.save(model, path))
    return changed
