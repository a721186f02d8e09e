"""Audits a Keras model layer by layer: predicted, built and computed.

For each layer the audit compares the shape predicted from its hyper-parameters with the
shape that Keras built, and the values that it computes with those that its geometry
demands. It then lists the rules that the layer breaks: E1, E2, E4, W1-W6 and W10 of
`arithmetic.findings`, and here E6 predicted shape differs, E7 computed values differ,
W7 final size, W8 final range, W9 backends differ, I1 spectral line of equal weights, I2
all layers so far, I3 padding by input size.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from analysis.geometry import arithmetic, values
from analysis.geometry.arithmetic import AxisGeometry, Finding
from analysis.geometry.formulas import torch_axis
from analysis.geometry.keras_layers import (
    CROPPINGS,
    MAX_POOLS,
    PADDINGS,
    POOLS,
    REARRANGING,
    SPATIAL,
    UPSAMPLINGS,
    LayerCall,
    LayerGeometry,
    NotPredicted,
    NotRead,
    Shape,
    functional_graph,
    is_known_operation,
    layer_geometry,
    propagate,
)
from gan.files import first_line

Chain = tuple[tuple[AxisGeometry, ...], ...] | None  # (layers, axes)
AXIS_NAMES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
# These layers and operations leave values in [-1, 1] there.
KEEP_RANGE = (
    *(*REARRANGING, *PADDINGS, *CROPPINGS, *POOLS, *UPSAMPLINGS, layers.Resizing),
    *(layers.Concatenate, layers.Average, layers.Identity, layers.Dropout),
)
REARRANGE = ("Concatenate", "GetItem", "Reshape", "Transpose")
WRONG = "trust no number here, and check the layer and the version of Keras"
NO_TORCH_LAYER = "PyTorch has no layer of this kernel, stride and size: pad or crop"
# A file that is not trusted can lack any part of a node, or have another.
DAMAGE = ArithmeticError, AttributeError, LookupError, TypeError, ValueError
ROUNDING_PERCENT = 1e-9  # of a Fourier transform of small whole numbers
RECTIFIERS = layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU
FULL_RANGE = ("tanh", "hard_tanh", "softsign")  # activations from -1 to 1


class MapPath(NamedTuple):
    """The layers between a first map and a tensor; equal ones began at one map."""

    chain: Chain = ()
    origin: Any = None  # what made the first map; None: it is the model's input

    @classmethod
    def meeting(cls, paths: Iterable["MapPath"]) -> "MapPath":
        """The path of a tensor that is made of others."""
        found = set(paths)
        return found.pop() if len(found) == 1 else cls(None)


class Signal(NamedTuple):
    """What is known of one tensor of the model."""

    path: MapPath = MapPath()
    made_by: int | None = None  # place of the audit of the call that made it
    activation: str = ""  # name of the last one, "none", or "" if it is not known


@dataclass(frozen=True)
class LayerAudit:
    """The audit of one call of one layer; shapes have the batch axis first."""

    name: str
    type: str
    input_shape: Shape | None  # of its first input; None where unknown
    output_shape: Shape | None  # as built
    predicted_shape: Shape | None = None  # from the hyper-parameters
    checked: bool = False  # shape, and values where pixels move, were compared
    reason: str = ""  # why it was not checked
    params: int = 0  # without those of parts that have an audit of their own
    macs: int = 0  # multiply-accumulates for one image
    axes: tuple[AxisGeometry, ...] = ()  # one per spatial axis, where pixels move
    # The axes of all such layers from the first spatial map to here; None where
    # branches of different geometry have met.
    chain: Chain = field(default=(), repr=False)
    findings: tuple[Finding, ...] = ()

    @property
    def as_predicted(self) -> bool:
        """Whether the layer was checked and no error was found."""
        return self.checked and all(f.level != "error" for f in self.findings)

    @property
    def chain_by_axis(self) -> list[tuple[AxisGeometry, ...]]:
        """For each axis the chain's layers in order; empty if there is no chain."""
        return list(zip(*self.chain, strict=True)) if self.chain else []


def damaged(name: str, kind: str, error: Exception) -> LayerAudit:
    """The audit of a node of a file that cannot be read."""
    reason = f"its node is damaged ({type(error).__name__}: {first_line(error)})"
    return LayerAudit(name, kind, None, None, reason=reason)


def audit_model(
    model: Any, image_shape: tuple[int, int, int | None] | None = None
) -> list[LayerAudit]:
    """Audits every layer that can be found.

    Args:
        model: A functional, Sequential, nested or subclassed model. A subclassed one
            must have been called once, and its layers are listed without their order.
        image_shape: (height, width, channels) of the images that the model returns;
            None for any number of channels.

    Returns:
        One audit per call, in the order of the signal; errors are findings.
    """
    audits: list[LayerAudit] = []

    def visit(call: LayerCall, signals: list[Signal]) -> list[Signal]:
        path = MapPath.meeting(signal.path for signal in signals)
        audit = audit_call(call, path.chain)
        inner: list[LayerAudit] = []
        if not audit.predicted_shape:
            inner.extend(_inner_layers(call.layer, f"{call.name}/"))
            own = audit.params - sum(part.params for part in inner)
            audit = dataclasses.replace(audit, params=own)
        audits.append(audit)
        name = _last_activation(call.layer, [signal.activation for signal in signals])
        starts_anew = len(audit.input_shape or ()) != len(audit.output_shape or ())
        path = MapPath(audit.chain, len(audits) if starts_anew else path.origin)
        signal = Signal(path, len(audits) - 1, name)
        audits.extend(inner)
        return [signal] * len(call.output_shapes)

    graph = functional_graph(model)
    if graph is None:
        audits.extend(_inner_layers(model, ""))
        return audits
    outputs = propagate(model, [Signal()] * len(graph.inputs), visit)
    for tensor, signal in zip(graph.outputs, outputs, strict=True):
        if image_shape and signal.made_by is not None:
            last = audits[signal.made_by]
            final = _final_findings(tuple(tensor.shape), signal.activation, image_shape)
            found = dict.fromkeys((*last.findings, *final))
            audits[signal.made_by] = dataclasses.replace(last, findings=tuple(found))
    return audits


def _is_keras(layer: Any) -> bool:
    return type(layer).__module__.split(".")[0] == "keras"


def audit_call(call: LayerCall, chain: Chain = ()) -> LayerAudit:
    """Audits one call, given the chain of the layers before it."""
    layer, shapes = call.layer, call.input_shapes
    audit = LayerAudit(
        name=call.name,
        type=layer.kind if isinstance(layer, NotRead) else type(layer).__name__,
        input_shape=shapes[0] if shapes else None,
        output_shape=call.output_shapes[0] if call.output_shapes else None,
        params=layer.count_params() if getattr(layer, "built", False) else 0,
        chain=None,
    )
    try:
        if isinstance(layer, NotRead):
            raise NotPredicted("not read from the file, and its parameters not counted")
        if not isinstance(layer, keras.Layer) and not is_known_operation(layer):
            raise NotPredicted("an operation, not a layer")
        if not (isinstance(layer, SPATIAL) or _is_keras(layer)):
            raise NotPredicted("a custom layer")
        geometry = layer_geometry(layer, shapes)
    except NotPredicted as error:
        return dataclasses.replace(audit, reason=str(error))
    reason, errors = _compare(layer, geometry, audit.output_shape)
    chain = _extend(chain, layer, audit.input_shape, geometry)
    axes, shape = geometry.axes, geometry.output_shape
    audit = dataclasses.replace(audit, axes=axes, macs=geometry.macs, chain=chain)
    found = (*errors, *axis_findings(axes), *chain_finding(axes, chain))
    checks: Any = {"checked": not reason, "reason": reason, "findings": found}
    return dataclasses.replace(audit, predicted_shape=shape, **checks)


def upsamplers(audits: Sequence[LayerAudit]) -> list[tuple[str, tuple[int, int]]]:
    """Name and strides of the layers that enlarge a 2-D map, first to last."""
    return [
        (audit.name, (audit.axes[0].stride, audit.axes[1].stride))
        for audit in audits
        if len(audit.axes) == 2
        and audit.axes[0].is_scatter
        and any(axis.stride > 1 for axis in audit.axes)
    ]


def _compare(
    layer: Any, geometry: LayerGeometry, built: Shape | None
) -> tuple[str, list[Finding]]:
    """Why the layer is not checked, or "", and the errors found in checking it."""
    if built is None or built[1:] != geometry.output_shape[1:]:
        text = f"predicted output {geometry.output_shape[1:]}, built {built}"
        return _difference(layer, "E6", text)
    axes = geometry.axes
    if not all(axis.feasible for axis in axes):
        return "it cannot run", []  # the rules say why
    if geometry.size_only or not axes:
        return geometry.size_only, []
    try:
        computed = values.computed_values(layer, axes)
    except ValueError as error:
        return str(error), []
    expected = values.expected_values(axes, isinstance(layer, MAX_POOLS))
    if computed.shape != expected.shape:
        text = f"predicted {expected.shape} px, computed {computed.shape}"
        return _difference(layer, "E6", text)
    shift = values.shift_between(computed, expected)
    if shift is None:
        text = "the computed values are not those predicted"
        return _difference(layer, "E7", text)
    text = f"right size, but the values lie {shift} px from the prediction: {WRONG}"
    return "", [Finding("E7", "error", text)] if any(shift) else []


def _difference(layer: Any, code: str, text: str) -> tuple[str, list[Finding]]:
    """An error of a Keras layer; a custom subclass may compute something else."""
    if _is_keras(layer):
        return "", [Finding(code, "error", f"{text}: {WRONG}")]
    return f"a custom layer with an arithmetic of its own: {text}", []


def _extend(
    chain: Chain, layer: Any, input_shape: Shape | None, geometry: LayerGeometry
) -> Chain:
    """The chain behind this layer; it starts anew where the number of axes changes."""
    if geometry.size_only or chain is None:
        return None
    if len(input_shape or ()) != len(geometry.output_shape):
        return ()
    if isinstance(layer, REARRANGING):
        return None
    if not geometry.axes:
        return chain
    # Something between that this audit does not follow may have changed the size.
    sizes = [axis.input_size for axis in geometry.axes]
    if chain and sizes != [axis.output_size for axis in chain[-1]]:
        return None
    return (*chain, geometry.axes)


def axis_findings(
    axes: Sequence[AxisGeometry], in_keras: bool = True
) -> Iterator[Finding]:
    """Findings of all axes; one without the axis' name where all axes share it."""
    names = AXIS_NAMES.get(len(axes), ())
    per_axis = []
    for axis in axes:
        transposed = axis.kind == "transpose" and axis.feasible and axis.stride > 1
        found = [*arithmetic.findings(axis)]
        found += [_line_finding(axis)] if transposed else []
        found += _keras_findings(axis) if transposed and in_keras else []
        per_axis.append(found)
    for name, found in zip(names, per_axis, strict=True):
        for finding in found:
            if not all(finding in others for others in per_axis):
                yield finding._replace(text=f"{name}: {finding.text}")
            elif name == names[0]:
                yield finding


def chain_finding(axes: Sequence[AxisGeometry], chain: Chain) -> Iterator[Finding]:
    """I2: what the layers up to an enlarging one do together."""
    if not chain or not axes or not axes[0].is_scatter:
        return
    rows = list(zip(*chain, strict=True))
    size = _joined([str(row[0].input_size) for row in rows])
    fields = [min(arithmetic.chain_output_field(r), r[-1].output_size) for r in rows]
    reached = _joined([str(field) for field in fields])
    shift = _joined([f"{arithmetic.chain_shift(row):+g}" for row in rows], ", ")
    text = f"one pixel of the first map ({size} px) spreads over {reached} px here; "
    yield Finding("I2", "info", f"{text}the image is shifted by {shift} px")


def _joined(words: Sequence[str], between: str = "x") -> str:
    """One word for each axis, or a single one if all are equal."""
    return between.join(dict.fromkeys(words) if len(set(words)) == 1 else words)


def _line_finding(axis: AxisGeometry) -> Finding:
    """I1 of one axis of a transposed convolution of stride 2 or more."""
    spectrum = np.abs(np.fft.fft(axis.taps_by_phase()))
    strongest = int(np.argmax(spectrum[1 : axis.stride // 2 + 1])) + 1
    share = 100 * spectrum[strongest] / spectrum[0]
    line = f"a spectral line at {strongest}/{axis.stride} cycles per pixel with "
    line += f"{share:.3g} % of the mean"
    if share < ROUNDING_PERCENT:
        line = "no spectral line"
    text = f"with equal weights, a constant input gives {line}"
    return Finding("I1", "info", text)


def _keras_findings(axis: AxisGeometry) -> Iterator[Finding]:
    """W9 and I3 of one axis of Keras' transposed convolution of stride 2 or more."""
    same_size = axis.output_size == axis.input_size * axis.stride
    pads = axis.pad_before, axis.pad_after
    if same_size and sum(pads) % 2:
        text = (
            "Keras on PyTorch before May 2026 shifts these values by one pixel (pull "
            "request 22876 of keras-team/keras): use a later Keras there"
        )
        yield Finding("W9", "warning", text)
    if not same_size or not sum(pads):
        return
    by_input = arithmetic.conv_axis(
        axis.input_size, axis.kernel, axis.stride, "same", axis.dilation
    )
    wrong = by_input.pad_before, by_input.pad_after
    shift = wrong[0] - pads[0]
    if shift:
        extra = sum(wrong) - sum(pads)
        corner = "upper left" if shift > 0 else "lower right"
        text = (
            f"crop {pads} follows from the output size {axis.output_size}, as "
            f"TensorFlow computes it; from the input size {axis.input_size} it would "
            f"be {wrong} plus {extra} of output padding: the same size, every value "
            f"{abs(shift)} px to the {corner}"
        )
        yield Finding("I3", "info", text)


def _last_activation(layer: Any, before: list[str]) -> str:
    """Name of the last activation behind a layer, given those of its inputs."""
    name = type(layer).__name__
    if isinstance(layer, layers.Wrapper):
        return _last_activation(layer.layer, before)
    is_operation = not isinstance(layer, keras.Layer)
    rearranges = is_known_operation(layer) or (is_operation and name in REARRANGE)
    if isinstance(layer, KEEP_RANGE) or rearranges:
        return before[0] if len(set(before)) == 1 else ""
    if isinstance(layer, RECTIFIERS):
        return name
    if is_operation:  # keras.ops.tanh is the operation Tanh
        return name.lower() if hasattr(keras.activations, name.lower()) else "none"
    if not _is_keras(layer) and not hasattr(layer, "activation"):
        return ""
    activation = getattr(layer, "activation", None)
    if activation is None:
        return "none"
    return getattr(activation, "__name__", type(activation).__name__)


def _final_findings(
    shape: Shape, activation: str, image_shape: tuple[int, int, int | None]
) -> Iterator[Finding]:
    """W7 and W8 of one output of the model; what is not known is not compared."""
    pairs = list(zip(shape[1:], image_shape, strict=False))
    differ = any(None not in pair and pair[0] != pair[1] for pair in pairs)
    if differ or len(shape) != len(image_shape) + 1:
        given, wanted = (
            "x".join("?" if n is None else str(n) for n in sizes)
            for sizes in (shape[1:], image_shape)
        )
        text = f"the output is {given}, but the images are {wanted}: change the first "
        yield Finding("W7", "warning", text + "map, the strides or the filters")
    if activation and activation not in FULL_RANGE:
        what = "no activation" if activation == "none" else f"activation {activation}"
        text = "the images lie in [-1, 1], but the last layer that changes the range "
        yield Finding("W8", "warning", f"{text}has {what}: end with tanh")


def _inner_layers(parent: Any, prefix: str) -> Iterator[LayerAudit]:
    """Layers inside a subclassed model or layer, each audited by itself."""
    if not isinstance(parent, keras.Layer):
        return
    for layer in parent._flatten_layers(include_self=False, recursive=False):
        name = prefix + layer.name
        shape = (layer.get_build_config() or {}).get("input_shape")
        if list(layer._flatten_layers(include_self=False)):
            yield from _inner_layers(layer, f"{name}/")
        elif not isinstance(shape, tuple | list) or not all(
            size is None or isinstance(size, int) for size in shape
        ):
            reason = "its input shape is not known: call the model once"
            yield LayerAudit(name, type(layer).__name__, None, None, reason=reason)
        else:
            built: tuple[Shape, ...] = ()
            with suppress(NotImplementedError):  # the cell of a recurrent layer
                built = (tuple(layer.compute_output_shape(tuple(shape))),)
            call = LayerCall(name, layer, (tuple(shape),), built)
            yield dataclasses.replace(audit_call(call), chain=None)


def audit_summary(
    name: str, audits: Sequence[LayerAudit], torch: bool = False
) -> dict[str, Any]:
    """The audits of the model `name` as one JSON object, on request with PyTorch's."""
    found = [finding for audit in audits for finding in audit.findings]
    return {
        "model": name,
        "layers": [_layer_summary(audit, torch) for audit in audits],
        "num_errors": sum(finding.level == "error" for finding in found),
        "num_as_predicted": sum(audit.as_predicted for audit in audits),
        "num_not_checked": sum(not audit.checked for audit in audits),
        **total_cost(audits),
    }


def total_cost(audits: Sequence[LayerAudit]) -> dict[str, int]:
    """Sums parameters, and multiply-accumulates per image, over the calls of a model.

    A layer that is called several times has its parameters once.
    """
    params = {audit.name: audit.params for audit in audits}
    return {
        "params": sum(params.values()),
        "macs": sum(audit.macs for audit in audits),
    }


def _layer_summary(audit: LayerAudit, torch: bool) -> dict[str, Any]:
    """One audit; lists have one entry for each spatial axis."""
    axes, rows = audit.axes, audit.chain_by_axis
    before = ("input_shape", "output_shape", "predicted_shape")
    after = ("params", "macs", "checked")
    layer: dict[str, Any] = {
        "name": _printable(audit.name),
        "type": _printable(audit.type),
        **{key: getattr(audit, key) for key in before},
        "kernel_size": [axis.kernel for axis in axes],
        "strides": [axis.stride for axis in axes],
        "pads": [[axis.pad_before, axis.pad_after] for axis in axes],
        "taps_by_phase": [list(axis.taps_by_phase()) for axis in axes],
        "border_px": [list(axis.border_px) for axis in axes],
        "shift_px": [axis.shift_px for axis in axes],
        "output_field_px": [axis.output_field() for axis in axes],
        "total_shift_px": [arithmetic.chain_shift(row) for row in rows],
        "total_output_field_px": [arithmetic.chain_output_field(row) for row in rows],
        **{key: getattr(audit, key) for key in after},
        "reason": _printable(audit.reason),
        "findings": [finding._asdict() for finding in audit.findings],
    }
    is_convolution = axes and axes[0].kind in ("conv", "transpose")
    if torch and is_convolution and all(axis.feasible for axis in axes):
        layer["torch"] = _torch_summary(axes)
    return layer


def _printable(text: str) -> str:
    """A text of a file without characters that control a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _torch_summary(axes: Sequence[AxisGeometry]) -> dict[str, Any]:
    """PyTorch's layer of the same sizes beside a convolution of Keras."""
    theirs = [other for axis in axes if (other := torch_axis(axis))]
    if len(theirs) < len(axes):
        return {"pads": [], "shift_px": [], "difference": NO_TORCH_LAYER}
    pads = [[other.pad_before, other.pad_after] for other in theirs]
    shifts = [b - a.pad_before for a, (b, _) in zip(axes, pads, strict=True)]
    difference = _torch_difference(axes[0], shifts)
    return {"pads": pads, "shift_px": shifts, "difference": difference}


def _torch_difference(axis: AxisGeometry, shifts: list[int]) -> str:
    """How PyTorch's pixels differ from TensorFlow's, in words."""
    if not any(shifts):
        return "the same values"
    by = "/".join(str(abs(shift)) for shift in dict.fromkeys(shifts))
    if axis.is_scatter:
        sign = "+" if max(shifts) > 0 else "-"
        return f"PyTorch's output n is TensorFlow's output n{sign}{by}"
    side = "earlier" if max(shifts) > 0 else "later"
    return f"PyTorch's windows start {by} px {side}"
