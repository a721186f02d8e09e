"""Layer records as plain data for tables, JSON and figures."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from analysis.geometry import arithmetic
from analysis.geometry.arithmetic import AxisPlan
from analysis.geometry.audit import LayerRecord
from analysis.geometry.explain import Layer


def describe(
    name: str, records: Sequence[LayerRecord], torch: bool = False
) -> dict[str, Any]:
    """An audit as one JSON object.

    Args:
        name: of the model.
        records: of `audit_model`.
        torch: also tell each layer's counterpart in PyTorch.

    Returns:
        `model`, `layers` (one object a record), `num_errors`, `num_not_checked`,
        `params` and `macs` of all layers.
    """
    layers = [describe_layer(record, torch) for record in records]
    return {
        "model": name,
        "layers": layers,
        "num_errors": sum(
            f["level"] == "error" for layer in layers for f in layer["findings"]
        ),
        "num_not_checked": sum(not record.checked for record in records),
        "params": sum(record.params for record in records),
        "macs": sum(record.macs for record in records),
    }


def describe_layer(record: LayerRecord, torch: bool = False) -> dict[str, Any]:
    """One record; lists have one entry for each spatial axis."""
    axes = record.axes
    rows = chain_axes(record)
    layer: dict[str, Any] = {
        "name": record.name,
        "type": record.type,
        "input_shape": record.input_shape,
        "output_shape": record.output_shape,
        "predicted_shape": record.predicted_shape,
        "kernel_size": [axis.kernel for axis in axes],
        "strides": [axis.stride for axis in axes],
        "pads": [[axis.pad_before, axis.pad_after] for axis in axes],
        "taps_by_phase": [list(axis.phases()) for axis in axes],
        "border_px": [list(axis.border_px) for axis in axes],
        "drift_px": [axis.drift_px for axis in axes],
        "footprint_px": [axis.footprint() for axis in axes],
        "total_drift_px": [arithmetic.chain_drift(row) for row in rows],
        "total_footprint_px": [arithmetic.chain_footprint(row) for row in rows],
        "params": record.params,
        "macs": record.macs,
        "checked": record.checked,
        "reason": record.reason,
        "findings": [finding._asdict() for finding in record.findings],
    }
    theirs = [torch_plan(axis) for axis in axes] if torch else []
    found = [(a, p) for a, p in zip(axes, theirs, strict=False) if p]
    if found and len(found) == len(axes):
        shifts = [p.pad_before - a.pad_before for a, p in found]
        layer["torch"] = {
            "pads": [[p.pad_before, p.pad_after] for _, p in found],
            "shift_px": shifts,
            "difference": _difference(found[0][0], shifts),
        }
    return layer


def chain_axes(record: LayerRecord) -> list[tuple[AxisPlan, ...]]:
    """The record's chain by axis: layers in order for each; empty if there is none."""
    return list(zip(*record.chain, strict=True)) if record.chain else []


def upsamplers(records: Sequence[LayerRecord]) -> list[tuple[str, tuple[int, int]]]:
    """Name and strides of the layers that enlarge a 2-D map, first to last."""
    return [
        (record.name, (record.axes[0].stride, record.axes[1].stride))
        for record in records
        if len(record.axes) == 2
        and record.axes[0].is_scatter
        and any(axis.stride > 1 for axis in record.axes)
    ]


def torch_plan(axis: AxisPlan) -> AxisPlan | None:
    """PyTorch's layer of the same kernel, stride and sizes, or None."""
    if axis.kind not in ("conv", "transpose"):
        return None
    for padding in ("same", "valid"):
        for extra in (None, *range(axis.stride)):
            layer = Layer(
                "transpose" if axis.kind == "transpose" else "conv",
                axis.input_size,
                axis.kernel,
                axis.stride,
                "same" if padding == "same" else "valid",
                extra,
                axis.dilation,
            )
            with suppress(ValueError):
                if layer.plan() == axis:
                    theirs = layer.counterpart()
                    return theirs.plan() if theirs else None
    return None


def _difference(axis: AxisPlan, shifts: list[int]) -> str:
    """The same sizes, but whose pixels: in words."""
    if not any(shifts):
        return "the same values"
    by = "/".join(str(abs(shift)) for shift in dict.fromkeys(shifts))
    if axis.is_scatter:
        sign = "+" if max(shifts) > 0 else "-"
        return f"PyTorch's output n is TensorFlow's output n{sign}{by}"
    side = "earlier" if max(shifts) > 0 else "later"
    return f"PyTorch's windows start {by} px {side}"
