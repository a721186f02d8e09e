"""Audits a Keras model layer by layer: predicted, built and measured.

For each layer: the shapes predicted from its hyper-parameters against those Keras
built, the values computed by a layer of its class against those its geometry demands
(`analysis.geometry.values`), and the rules it breaks. A layer that is not known is
reported as not checked. Codes E1-E4 and W1-W6 are those of
`analysis.geometry.arithmetic`; here are added E6 predicted shape differs, E7 computed
values differ, W7 final size, W8 final range, W9 backends differ, I1 lines of a constant
kernel, I2 path, I3 padding by input size.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from analysis.geometry import arithmetic, values
from analysis.geometry.arithmetic import AxisPlan, Finding
from analysis.geometry.graph import Call, Shape, fold, functional_graph
from analysis.geometry.keras_layers import (
    SPATIAL,
    NotPredicted,
    Prediction,
    is_shuffle,
    predict,
)

Chain = tuple[tuple[AxisPlan, ...], ...] | None  # layers x axes; None: branches differ
AXIS_NAMES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}


@dataclass(frozen=True)
class LayerRecord:
    """One call of one layer.

    Attributes:
        name: with the names of nested models in front.
        type: the layer's class.
        input_shape: of its first input, batch axis first; None where unknown.
        output_shape: as built.
        predicted_shape: from the hyper-parameters; None if not predicted.
        checked: shape (and values, where pixels move) were predicted and compared.
        reason: why not checked; "" if checked.
        params: weights, counted at each call of a shared layer.
        macs: multiply-accumulates for one image.
        axes: one plan per spatial axis of a layer that moves pixels.
        chain: the axes of all such layers from the first spatial map to here; None
            where branches of different geometry have met.
        findings: errors, warnings, information.
    """

    name: str
    type: str
    input_shape: Shape | None
    output_shape: Shape | None
    predicted_shape: Shape | None = None
    checked: bool = False
    reason: str = ""
    params: int = 0
    macs: int = 0
    axes: tuple[AxisPlan, ...] = ()
    chain: Chain = field(default=(), repr=False)
    findings: tuple[Finding, ...] = ()


def audit_model(
    model: Any, image_shape: tuple[int, int, int] | None = None
) -> list[LayerRecord]:
    """Audits every layer that can be found.

    Args:
        model: functional, Sequential, nested or subclassed; a subclassed one must have
            been called once, and its layers are listed without their order.
        image_shape: (height, width, channels) of the images in [-1, 1] that the model
            should return; None: not asked.

    Returns:
        One record a call, in the order of the signal. Errors are findings, not raised.
    """
    records: list[LayerRecord] = []

    def visit(call: Call, chains: list[Chain]) -> list[Chain]:
        chain = chains[0] if chains and len(set(chains)) == 1 else None
        record = audit_call(call, chain)
        records.append(record)
        if not record.predicted_shape:
            records.extend(_hidden_layers(call.layer, f"{call.name}/"))
        return [record.chain] * len(call.output_shapes)

    graph = functional_graph(model)
    if graph is None:
        records.extend(_hidden_layers(model, ""))
    else:
        fold(model, [()] * len(graph.inputs), visit)
    if image_shape and records:
        last = records[-1]
        found = (*last.findings, *_final_findings(last, model, image_shape))
        records[-1] = dataclasses.replace(last, findings=found)
    return records


def audit_call(call: Call, chain: Chain = ()) -> LayerRecord:
    """Audits one call: predicts, compares with the built shape, runs, applies rules."""
    layer, shapes = call.layer, call.input_shapes
    record = LayerRecord(
        name=call.name,
        type=type(layer).__name__,
        input_shape=shapes[0] if shapes else None,
        output_shape=call.output_shapes[0] if call.output_shapes else None,
        params=layer.count_params() if getattr(layer, "built", False) else 0,
        chain=None,
    )
    try:
        if not isinstance(layer, keras.Layer) and not is_shuffle(layer):
            raise NotPredicted("an operation, not a layer")
        if not (isinstance(layer, SPATIAL) or _is_keras(type(layer))):
            raise NotPredicted("a custom layer")
        prediction = predict(layer, shapes)
    except NotPredicted as error:
        return dataclasses.replace(record, reason=str(error))
    reason, errors = _compare(layer, prediction, record.output_shape)
    chain = _extend(chain, record, prediction)
    return dataclasses.replace(
        record,
        predicted_shape=prediction.output_shape,
        checked=not reason,
        reason=reason,
        macs=prediction.macs,
        axes=prediction.axes,
        chain=chain,
        findings=(*errors, *_rules(prediction.axes), *_path(prediction.axes, chain)),
    )


def _is_keras(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "keras"


def _compare(
    layer: Any, prediction: Prediction, built: Shape | None
) -> tuple[str, list[Finding]]:
    """Why the layer is not checked, or "", and the errors found in checking it."""
    if built is None or built[1:] != prediction.output_shape[1:]:
        text = f"predicted output {prediction.output_shape[1:]}, built {built}"
        return _differs(layer, "E6", text)
    axes = prediction.axes
    if prediction.sizes_only or not axes or not all(axis.feasible for axis in axes):
        return prediction.sizes_only, []
    try:
        measured = values.measure(layer, axes)
    except ValueError as error:
        return str(error), []
    expected = values.expect(layer, axes)
    if measured.shape != expected.shape:
        text = f"predicted {expected.shape} px, computed {measured.shape}"
        return _differs(layer, "E6", text)
    shift = values.shift_between(measured, expected)
    if shift is None:
        return _differs(layer, "E7", "the computed values are not those predicted")
    if any(shift):
        text = f"right size, but the computed values lie {shift} px from the prediction"
        return "", [Finding("E7", "error", text)]
    return "", []


def _differs(layer: Any, code: str, text: str) -> tuple[str, list[Finding]]:
    """An error of a Keras layer; a subclass may well compute something else."""
    if _is_keras(type(layer)):
        return "", [Finding(code, "error", text)]
    return f"a custom layer with an arithmetic of its own: {text}", []


def _extend(chain: Chain, record: LayerRecord, prediction: Prediction) -> Chain:
    """The chain behind this layer; it starts where a spatial map starts."""
    rank = len(prediction.output_shape) - 2
    before = len(record.input_shape or ()) - 2
    if prediction.sizes_only or chain is None:
        return None
    if before != rank:
        return ()
    return (*chain, prediction.axes) if prediction.axes else chain


def _rules(axes: Sequence[AxisPlan]) -> Iterator[Finding]:
    """Findings of all axes; said once where every axis says the same."""
    names = AXIS_NAMES.get(len(axes), ())
    per_axis = [(*arithmetic.findings(a), *transposed_findings(a)) for a in axes]
    for name, found in zip(names, per_axis, strict=True):
        for finding in found:
            shared = all(finding in others for others in per_axis)
            if not shared:
                yield finding._replace(text=f"{name}: {finding.text}")
            elif name == names[0]:
                yield finding


def _path(axes: Sequence[AxisPlan], chain: Chain) -> Iterator[Finding]:
    """I2: what the layers up to an enlarging one do together."""
    if not chain or not axes[0:1] or not axes[0].is_scatter:
        return
    rows = list(zip(*chain, strict=True))
    cells = _said([str(row[0].input_size) for row in rows])
    painted = _said([str(arithmetic.chain_footprint(row)) for row in rows])
    drift = _said([f"{arithmetic.chain_drift(row):+g}" for row in rows], ", ")
    text = f"a cell of the first map ({cells} px) paints {painted} px, drift {drift} px"
    yield Finding("I2", "info", text)


def _said(values: Sequence[str], between: str = "x") -> str:
    """One word for each axis, once if all are equal."""
    return between.join(dict.fromkeys(values) if len(set(values)) == 1 else values)


def transposed_findings(axis: AxisPlan) -> Iterator[Finding]:
    """Rules W9, I1 and I3 of one axis of a transposed convolution."""
    if axis.kind != "transpose" or not axis.feasible or axis.stride == 1:
        return
    same_size = axis.output_size == axis.input_size * axis.stride
    if same_size and (axis.pad_before + axis.pad_after) % 2:
        yield Finding(
            "W9",
            "warning",
            "Keras on PyTorch before May 2026 shifts these values by one pixel "
            "(keras-team/keras pull request 22876)",
        )
    lines = np.abs(np.fft.fft(axis.phases()))
    strongest = int(np.argmax(lines[1 : axis.stride // 2 + 1])) + 1
    share = 100 * lines[strongest] / lines[0]
    line = f"line at {strongest}/{axis.stride} of {share:.3g} % of the mean"
    yield Finding("I1", "info", f"an all-ones kernel: {line}")
    yield from input_size_finding(axis)


def input_size_finding(axis: AxisPlan) -> Iterator[Finding]:
    """I3: what the padding would be if it followed from the input's size."""
    pads = axis.pad_before, axis.pad_after
    if axis.output_size != axis.input_size * axis.stride or not sum(pads):
        return
    wrong = arithmetic.conv_axis(
        axis.input_size, axis.kernel, axis.stride, "same", axis.dilation
    )
    kept = wrong.pad_before, wrong.pad_after
    shift = kept[0] - pads[0]
    if not shift:
        return
    full = (axis.input_size - 1) * axis.stride + axis.effective_kernel
    extra = axis.output_size - (full - sum(kept))
    corner = "upper left" if shift > 0 else "lower right"
    yield Finding(
        "I3",
        "info",
        f"crop {pads} follows from the output size {axis.output_size}, as TensorFlow "
        f"computes it; from the input size {axis.input_size} it would be {kept} plus "
        f"{extra} of output padding: the same size, "
        f"every value {abs(shift)} px to the {corner}",
    )


def _final_findings(
    last: LayerRecord, model: Any, image_shape: tuple[int, int, int]
) -> Iterator[Finding]:
    """W7 and W8 of the model's output."""
    shape = last.output_shape
    if shape is None or shape[1:] != image_shape:
        yield Finding(
            "W7", "warning", f"the images are {image_shape}, the output {shape}"
        )
    layer = model.layers[-1]
    activation = getattr(layer, "activation", None)
    if activation is not keras.activations.tanh:
        name = getattr(activation, "__name__", "none")
        text = f"the images lie in [-1, 1], the last activation is {name}, not tanh"
        yield Finding("W8", "warning", text)


def _hidden_layers(parent: Any, prefix: str) -> Iterator[LayerRecord]:
    """Layers inside a subclassed model or layer, each as it was built by itself."""
    if not isinstance(parent, keras.Layer):
        return
    for layer in parent._flatten_layers(include_self=False, recursive=False):
        name = prefix + layer.name
        shape = (layer.get_build_config() or {}).get("input_shape")
        if list(layer._flatten_layers(include_self=False)):
            yield from _hidden_layers(layer, f"{name}/")
        elif not isinstance(shape, tuple | list) or not all(
            size is None or isinstance(size, int) for size in shape
        ):
            reason = "its input shape is not recorded: call the model once"
            yield LayerRecord(name, type(layer).__name__, None, None, reason=reason)
        else:
            built = tuple(layer.compute_output_shape(tuple(shape)))
            call = Call(name, layer, (tuple(shape),), (built,), None)
            yield dataclasses.replace(audit_call(call), chain=None)
