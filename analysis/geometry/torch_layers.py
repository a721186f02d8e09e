"""Audits a program that PyTorch's torch.export saved: predicted, stated and computed.

A `.pt2` file is a zip, and only the JSON of the program in it is read: the operators of
PyTorch (`aten`), their settings, the names of the modules and the shapes that PyTorch
found. Nothing of the file is run or unpickled, and its weights are not read. Where
PyTorch is installed, each operator that moves pixels is called with one channel and
whole numbers, and must give what `values.py` expects. Findings are those of `audit.py`,
and I4 which layers of Keras and ONNX compute the same.

Source: torch/_export/serde/schema.py (versions 5 to 8 of the format), and PyTorch's
documentation of the operators.
"""

import dataclasses
import io
import json
import math
import re
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

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
from gan.files import first_line

MAX_PROGRAM_BYTES = 2**26  # about 30,000 operators
PROGRAM = re.compile(r"(^|/)(models/[^/]+|serialized_exported_program)\.json$")
CONVOLUTION = re.compile(r"convolution|conv(_transpose)?[123]d")
POOL = re.compile(r"(max|avg|adaptive_avg)_pool[123]d|max_pool[23]d_with_indices")
RESIZE = re.compile(r"upsample_(nearest|linear|bilinear|trilinear)[123]d")
PAD = re.compile(r"pad|constant_pad_nd")
# Each pixel stays where it is.
POINTWISE = """
_native_batch_norm_legit _native_batch_norm_legit_no_training _to_copy abs alias
alpha_dropout batch_norm celu clone contiguous detach dropout elu erf exp
feature_dropout gelu group_norm hardsigmoid hardswish hardtanh instance_norm layer_norm
leaky_relu log mish native_batch_norm native_dropout native_group_norm native_layer_norm
neg prelu relu relu6 rsqrt selu sigmoid silu softplus softsign sqrt square tanh to
""".split()
MERGING = """
add cat clamp clamp_max clamp_min div maximum minimum mul pow rsub sub where
""".split()
MIXING = ("softmax", "log_softmax", "_softmax", "_log_softmax")  # along any axis
# The values keep their number and get other axes.
REARRANGING = """
flatten permute reshape squeeze transpose unflatten unsqueeze unsafe_view view
_unsafe_view
""".split()
PRODUCTS = ("linear", "addmm", "mm", "bmm", "matmul")
NO_TORCH = "PyTorch is not installed, so its values were not computed"


def read_program(file: Path | BinaryIO) -> dict[str, Any]:
    """The program of a `.pt2` file, as PyTorch describes it in JSON.

    Raises:
        ValueError: if it is no such file, or too large.
    """
    expected = "expected a .pt2 file of torch.export.save"
    advice = (
        " (a file of torch.save holds code, which is not run here: save "
        "torch.export.export(module, (example,)) instead)"
    )
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if PROGRAM.search(name)]
            if len(names) != 1:
                text = f"received a zip file with {len(names)} programs"
                advice = "" if names else advice
                raise ValueError(f"{text}, {expected} with one{advice}")
            with archive.open(names[0]) as member:
                data = member.read(MAX_PROGRAM_BYTES + 1)
        if len(data) > MAX_PROGRAM_BYTES:
            raise ValueError(f"its program exceeds {MAX_PROGRAM_BYTES} bytes")
        return json.loads(data)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"received another format, {expected}{advice}") from error
    except (RecursionError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"received a damaged program, {expected}") from error


def export_module(module: Any, inputs: Sequence[Any]) -> dict[str, Any]:
    """The program of a PyTorch module in memory, traced with example inputs.

    Raises:
        ValueError: if PyTorch cannot trace it.
    """
    import torch

    file = io.BytesIO()
    try:
        torch.export.save(torch.export.export(module, tuple(inputs)), file)
    except Exception as error:  # tracing calls the user's own code
        raise ValueError(
            f"torch.export cannot trace it: {first_line(error)}"
        ) from error
    return read_program(file)


def audit_program(program: dict[str, Any], size: int | None = None) -> list[LayerAudit]:
    """Audits every operator that makes a tensor, in the order of the program.

    Args:
        program: the result of `read_program` or `export_module`.
        size: pixels of each spatial axis of an input that states none.

    Raises:
        ValueError: if the program lacks its inputs or sizes.
    """
    try:
        walk = Walk(program, size)
        nodes = list(enumerate(program["graph_module"]["graph"]["nodes"]))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError("received a damaged program: export it again") from error
    audits = []
    for index, node in nodes:
        try:
            audit = walk.visit(node)
        except DAMAGE as error:
            audit = damaged(f"operator {index}", "?", error)
        if audit is not None:
            audits.append(audit)
    if unused := sum(walk.weights.values()):
        names = "other parameters", "parameter"
        reason = "no operator uses them"
        audits.append(LayerAudit(*names, None, None, reason=reason, params=unused))
    return audits


class Walk:
    """What is known of each tensor while the operators are visited, by name.

    Attributes:
        shapes: shapes, stated or else predicted; None where a size is not fixed.
        weights: number of elements of each parameter that no operator has used yet.
        paths: the layers from a first map to the tensor.
        num_images: batch of the first input.
    """

    def __init__(self, program: dict[str, Any], size: int | None) -> None:
        module = program["graph_module"]
        self.shapes = {
            name: tuple(number.get("as_int") for number in tensor["sizes"])
            for name, tensor in module["graph"]["tensor_values"].items()
        }
        self.weights: dict[str, int] = {}
        self.paths: dict[str, MapPath] = {}
        self.names: set[str] = set()
        self.num_images = 0
        for spec in module["signature"]["input_specs"]:
            ((kind, content),) = spec.items()
            arg = content.get("arg", {})
            if kind == "parameter":
                self.weights[arg["name"]] = math.prod(self.shapes[arg["name"]])
            elif kind == "user_input" and "as_tensor" in arg:
                name = arg["as_tensor"]["name"]
                shape = self.shapes[name]
                spatial = (n or size for n in shape[2:])
                if shape:
                    self.shapes[name] = shape[0] or 1, *shape[1:2], *spatial
                    self.num_images = self.num_images or shape[0] or 1
                self.paths[name] = MapPath()
        self.num_images = self.num_images or 1

    def name(self, node: dict[str, Any], operator: str) -> str:
        """The path of the module that calls the operator, made unique."""
        stack = node["metadata"].get("nn_module_stack", "").split(";")
        path, _, kind = stack[-1].partition(",")[2].rpartition(",")
        output = _tensors(node["outputs"][:1])
        is_layer = kind.startswith("torch.nn.") and operator not in REARRANGING
        found = path if is_layer and not operator.startswith("_weight_norm") else ""
        if not found or found in self.names:
            found = "/".join(filter(None, [path, *output])) or node["target"]
        self.names.add(found)
        return found

    def visit(self, node: dict[str, Any]) -> LayerAudit | None:
        """Audits a node; None for one that computes no map and has no parameter."""
        outputs = _tensors(node["outputs"])
        tensors = _tensors([item["arg"] for item in node["inputs"]])
        maps = [tensor for tensor in tensors if tensor in self.paths]
        params = sum(self.weights.pop(tensor, 0) for tensor in tensors)
        if not outputs or not (maps or params):
            return None
        library, operator, *_ = node["target"].removeprefix("torch.ops.").split(".")
        is_in_place = operator.endswith("_")
        operator = operator.removesuffix("_")
        path = MapPath.meeting(self.paths[tensor] for tensor in maps)
        given = self.shapes[(maps or tensors)[0]]
        name, stated = self.name(node, operator), self.shapes[outputs[0]]
        audit = LayerAudit(name, operator, given, stated, params=params, chain=None)
        shape: Shape | None = None
        try:
            if library != "aten":
                inside = ": the layers inside are not audited"
                inside = inside if library == "higher_order" else ""
                raise NotPredicted(f"an operator of {library}{inside}")
            args = {item["name"]: _value(item["arg"]) for item in node["inputs"]}
            shapes = [self.shapes[tensor] for tensor in tensors]
            if operator in PRODUCTS:
                macs = _product_macs(operator, shapes, stated) // self.num_images
                audit = dataclasses.replace(audit, macs=macs)
            found = _simple_shape(operator, args, shapes, stated)
            if found is not None:
                kept = path.chain if operator in (*POINTWISE, *MERGING) else None
                audit = dataclasses.replace(audit, chain=kept, checked=True)
                shape = found
            else:
                axes, channels, reason = self.geometry(operator, args, given)
                shape = (given[0], channels, *(axis.output_size for axis in axes))
                audit = dataclasses.replace(audit, axes=axes, chain=path.chain)
                audit = self.spatial(audit, node["target"], args, reason)
        except NotPredicted as error:
            audit = dataclasses.replace(audit, reason=first_line(error))
        if len(given) != len(stated):  # a path starts anew where other axes begin
            path = MapPath((), outputs[0])
        else:
            path = path._replace(chain=audit.chain)
        self.paths |= dict.fromkeys(outputs, path)
        if is_in_place and operator not in POINTWISE and audit.chain is None:
            # It may have written into a part of any other tensor.
            self.paths = dict.fromkeys(self.paths, MapPath(None))
        return self.leave(audit, outputs[0], shape)

    def spatial(
        self, audit: LayerAudit, target: str, args: dict[str, Any], reason: str
    ) -> LayerAudit:
        """Adds the cost, the chain and the findings of an operator that moves pixels.

        A `reason` says why its values cannot be predicted; its axes then only have the
        right sizes.
        """
        axes, chain, macs = audit.axes, audit.chain, 0
        if CONVOLUTION.fullmatch(audit.type):
            batch, *_ = audit.input_shape or (1,)
            weights = (n or 0 for n in (batch or 1, *self.shapes[args["weight"]][:2]))
            products = math.prod((*(axis.macs for axis in axes), *weights))
            macs = products // self.num_images
        sizes = [axis.input_size for axis in axes]
        follows = not chain or [axis.output_size for axis in chain[-1]] == sizes
        if reason or chain is None or not follows:
            chain = None
        else:
            chain = (*chain, axes)
        found: list[Finding] = []
        if not reason:
            found += [*axis_findings(axes, in_keras=False), *chain_finding(axes, chain)]
            reason, errors = _check_values(target, args, axes)
            found = errors + found
        else:
            axes, reason = (), f"only its size is predicted: {reason}"
        if axes and macs:
            text = same_pixels(axes, "Keras", "ONNX", groups=args.get("groups", 1))
            found.append(Finding("I4", "info", text))
        return dataclasses.replace(
            audit,
            macs=macs,
            checked=not reason,
            reason=reason,
            axes=axes,
            chain=chain,
            findings=tuple(found),
        )

    def leave(self, audit: LayerAudit, output: str, shape: Shape | None) -> LayerAudit:
        """Notes what is known of the output; compares predicted and stated shape."""
        stated = audit.output_shape or ()
        if shape is None:
            return audit
        known = _filled(stated, shape)
        self.shapes[output] = known
        found = audit.findings
        if known != _filled(shape, stated):
            text = f"predicted output {shape}, the file states {stated}"
            error = Finding("E6", "error", f"{text}: trust no size behind it")
            found = (error, *found)
        return dataclasses.replace(
            audit, output_shape=known, predicted_shape=shape, findings=found
        )

    def geometry(
        self, operator: str, args: dict[str, Any], given: Shape
    ) -> tuple[tuple[AxisGeometry, ...], int | None, str]:
        """Axes, channels, and why the values cannot be predicted, or ""."""
        builders = {
            CONVOLUTION: self.convolution_axes,
            POOL: _pool_axes,
            RESIZE: _resize_axes,
            PAD: _pad_axes,
            re.compile("pixel_shuffle"): _shuffle_axes,
        }
        found = [b for pattern, b in builders.items() if pattern.fullmatch(operator)]
        if not found:
            raise NotPredicted("an operator that this audit does not know")
        rank = re.search(r"[123](?=d)", operator)
        num_axes = (
            int(rank[0]) if rank else 2 if "shuffle" in operator else len(given) - 2
        )
        if len(given) != 2 + num_axes:
            raise NotPredicted("its input has no batch axis, or has further axes")
        if None in given[1:]:
            what = "its input size is not fixed"
            raise NotPredicted(f"{what}: export fixed sizes, or give --input-size")
        sizes = [n for n in given[2:] if n is not None]
        axes, channels, reason = found[0](operator, args, sizes, given[1] or 0)
        lengths = [n for a in axes for n in (a.output_size, a.effective_kernel)]
        if max((*sizes, *lengths, *(axis.stride for axis in axes))) > MAX_AXIS_PX:
            raise NotPredicted(f"an axis of more than {MAX_AXIS_PX} px")
        return axes, channels, reason

    def convolution_axes(
        self, operator: str, args: dict[str, Any], sizes: list[int], _: int
    ) -> tuple[tuple[AxisGeometry, ...], int | None, str]:
        """Axes of a convolution, transposed or not."""
        first, second, *kernel = self.shapes[args["weight"]]
        setting = partial(_each, args, rank=len(sizes))
        shapes = sizes, kernel, setting("stride", 1), setting("padding", 0)
        dilations = setting("dilation", 1)
        if "transpose" in operator or args.get("transposed"):
            added = setting("output_padding", 0)
            rows = zip(*shapes, added, dilations, strict=True)
            axes = tuple(arithmetic.conv_transpose_axis(*row) for row in rows)
            return axes, second * args.get("groups", 1), ""
        rows = zip(*shapes, dilations, strict=True)
        return tuple(arithmetic.conv_axis(*row) for row in rows), first, ""


def _pool_axes(
    operator: str, args: dict[str, Any], sizes: list[int], channels: int
) -> tuple[tuple[AxisGeometry, ...], int, str]:
    rank = len(sizes)
    if operator.startswith("adaptive"):
        outputs = _each(args, "output_size", 1, rank=rank)
        if any(size % n for size, n in zip(sizes, outputs, strict=True)):
            raise NotPredicted("its windows have different sizes")
        steps = [size // n for size, n in zip(sizes, outputs, strict=True)]
        rows = zip(sizes, steps, steps, [(0, 0)] * rank, strict=True)
        return tuple(arithmetic.pool_axis(*row) for row in rows), channels, ""
    setting = partial(_each, args, rank=rank)
    kernel, padding = setting("kernel_size", 1), setting("padding", 0)
    strides = setting("stride", None)
    strides = kernel if None in strides else strides
    pads = [(amount, amount) for amount in padding]
    settings = zip(sizes, kernel, strides, pads, setting("dilation", 1), strict=True)
    ceil = bool(args.get("ceil_mode"))
    axes = tuple(arithmetic.pool_axis(*values, ceil) for values in settings)
    counts = operator.startswith("avg") and args.get("count_include_pad", True)
    if args.get("divisor_override"):
        return axes, channels, "its sums are divided by another number"
    if counts and any(padding):
        return axes, channels, "its averages count the padding"
    return axes, channels, ""


def _resize_axes(
    operator: str, args: dict[str, Any], sizes: list[int], channels: int
) -> tuple[tuple[AxisGeometry, ...], int, str]:
    outputs = args.get("output_size")
    if not outputs:
        # PyTorch samples with these scales, also where the sizes have another ratio.
        scales = args.get("scale_factors") or args["scale_factor"]
        pairs = list(zip(sizes, scales, strict=True))
        outputs = [math.floor(size * scale) for size, scale in pairs]
    else:
        scales = [new / old for old, new in zip(sizes, outputs, strict=True)]
    mode: Any = "nearest" if "nearest" in operator else "bilinear"
    if any(scale % 1 for scale in scales):
        reason, mode = "no enlargement by whole factors", "nearest"
    else:
        reason = ""
        if args.get("align_corners"):
            reason = "align_corners changes the weights along the map"
    factors = [max(n // o, 1) for o, n in zip(sizes, outputs, strict=True)]
    axes = tuple(
        dataclasses.replace(arithmetic.resize_axis(old, factor, mode), output_size=new)
        for old, factor, new in zip(sizes, factors, outputs, strict=True)
    )
    return axes, channels, reason


def _pad_axes(
    operator: str, args: dict[str, Any], sizes: list[int], channels: int
) -> tuple[tuple[AxisGeometry, ...], int, str]:
    amounts = list(args["pad"])
    pairs = list(zip(amounts[::2], amounts[1::2], strict=True))[::-1]  # last axis first
    pairs = [(0, 0)] * (len(sizes) - len(pairs)) + pairs
    if len(pairs) > len(sizes):
        raise NotPredicted("it pads other axes than the spatial ones")
    mode = args.get("mode", "constant")
    border: Any = {"reflect": "reflect", "replicate": "edge"}.get(mode, "pad")
    rows = zip(sizes, pairs, strict=True)
    axes = tuple(arithmetic.pad_axis(size, *pair, border) for size, pair in rows)
    zeros = mode == "constant" and not args.get("value")
    known = zeros or (border != "pad" and min(map(min, pairs)) >= 0)
    return axes, channels, "" if known else "it does not pad with zeros"


def _shuffle_axes(
    operator: str, args: dict[str, Any], sizes: list[int], channels: int
) -> tuple[tuple[AxisGeometry, ...], int, str]:
    factor = args["upscale_factor"]
    axes = tuple(arithmetic.shuffle_axis(size, factor) for size in sizes)
    return axes, channels // factor**2, ""


def _check_values(
    target: str, args: dict[str, Any], axes: Sequence[AxisGeometry]
) -> tuple[str, list[Finding]]:
    """Why the values are not checked, or "", and the error found in checking them."""
    try:
        import torch
    except ImportError:
        return NO_TORCH, []
    *_, operator, overload = target.split(".")
    try:
        inputs = values.known_inputs(axes)[None, None]
    except ValueError as error:
        return str(error), []
    try:
        if operator == "pixel_shuffle":
            channels = np.arange(1, axes[0].stride ** 2 + 1, dtype=np.float32)
            inputs = inputs * channels[:, None, None]
        first, *_ = args  # "input" or "self"
        call = args | {first: torch.from_numpy(inputs)}
        if "weight" in args:
            kernel = torch.from_numpy(values.known_kernel(axes)[None, None])
            call |= {"weight": kernel, "bias": None}
        call |= {"groups": 1} if "groups" in args else {}
        with torch.no_grad():
            found = getattr(getattr(torch.ops.aten, operator), overload)(**call)
        found = found[0] if isinstance(found, tuple) else found
        computed = found.numpy()[0, 0].astype(np.float64)
    except (RuntimeError, TypeError, AttributeError) as error:
        return f"PyTorch did not run it: {first_line(error)}", []
    expected = values.expected_values(axes, operator.startswith("max"))
    return "", values.value_findings(computed, expected)


def _value(arg: dict[str, Any]) -> Any:
    """A setting of an operator, or the name of a tensor."""
    ((kind, content),) = arg.items()
    if kind == "as_none":
        return None
    if kind == "as_sym_ints":
        return [_value({"as_sym_int": number}) for number in content]
    if kind == "as_sym_int" and "as_int" not in content:
        raise NotPredicted("one of its settings is a size that is not fixed")
    if kind == "as_sym_int":
        return content["as_int"]
    return content["name"] if kind == "as_tensor" else content


def _tensors(args: Sequence[dict[str, Any]]) -> list[str]:
    """Names of all tensors among arguments."""
    names = []
    for arg in args:
        ((kind, content),) = arg.items()
        if kind == "as_tensor":
            names.append(content["name"])
        elif kind == "as_tensors":
            names.extend(tensor["name"] for tensor in content)
    return names


def _each(args: dict[str, Any], name: str, default: Any, *, rank: int) -> list[Any]:
    """A setting for each axis; PyTorch takes one number for all of them."""
    found = args.get(name)
    found = default if found is None or found == [] else found
    if not isinstance(found, list):
        found = [found]
    return found * rank if len(found) == 1 else found


def _simple_shape(
    operator: str, args: dict[str, Any], shapes: Sequence[Shape], stated: Shape
) -> Shape | None:
    """The output's shape of an operator that moves no pixel to a place of its own.

    None for other operators.

    Raises:
        NotPredicted: if it depends on a size that is not known.
    """
    if operator in (*POINTWISE, *MIXING):
        return _filled(shapes[0], stated)
    if operator == "linear":
        return (*shapes[0][:-1], shapes[1][0])
    is_open = any(None in shape for shape in shapes)
    if operator in MERGING and operator != "cat" and not is_open:
        return np.broadcast_shapes(*shapes)  # type: ignore[arg-type]
    if operator in MERGING and all(len(shape) == len(stated) for shape in shapes):
        if is_open:
            return _filled(stated, shapes[0])
        joined, axis = list(shapes[0]), args.get("dim", 0)
        joined[axis] = sum(shape[axis] or 0 for shape in shapes)
        return tuple(joined)
    if operator in REARRANGING:
        if None in (*shapes[0], *stated):
            raise NotPredicted("it rearranges axes whose sizes are not fixed")
        same = math.prod(shapes[0]) == math.prod(stated)  # type: ignore[arg-type]
        return stated if same else shapes[0]
    return None


def _product_macs(operator: str, shapes: Sequence[Shape], stated: Shape) -> int:
    """Multiply-accumulates of a matrix product, for the whole batch."""
    rows = shapes[1] if operator == "addmm" else shapes[0]
    if None in (*stated[1:], rows[-1]):
        raise NotPredicted("its sizes are not fixed")
    return math.prod(n or 1 for n in (*stated, rows[-1]))


def _filled(shape: Shape, other: Shape | None) -> Shape:
    """A shape, with the sizes that it leaves open taken from another one."""
    if other is None or len(other) != len(shape):
        return shape
    return tuple(a if a is not None else b for a, b in zip(shape, other, strict=True))
