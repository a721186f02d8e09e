"""The figure of an audit: the maps to scale, then each layer's windows and overlap."""

from collections.abc import Sequence
from dataclasses import replace
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.geometry import arithmetic
from analysis.geometry.arithmetic import AxisGeometry
from analysis.geometry.audit import LayerAudit
from analysis.geometry.formulas import torch_axis

MAX_LAYERS = 7  # in one figure
MAX_CELLS = 44  # along one axis
TENSORFLOW, TORCH, OUTPUT_FIELD = "tab:blue", "tab:red", "tab:orange"
SHIFT_SCALE = 4  # arrows are drawn longer than the shift
MAP_DISTANCE = 2.1  # between the centres of two maps; the largest map has width 1
BAR_DISTANCE = 0.42  # between two bars that stand for kernels
BEHIND_TEXT = {"fc": "w", "ec": "none"}


def draw_layers(audits: Sequence[LayerAudit], title: str) -> Figure:
    """Draws the first seven layers that move pixels along two axes.

    The maps stand on top; then follow for each layer its windows, its own overlap and
    that of all layers up to it.

    Raises:
        ValueError: If no layer moves pixels along two axes.
    """
    moving = [a for a in audits if len(a.axes) == 2 and any(map(_moves, a.axes))]
    if not moving:
        raise ValueError("no layer moves pixels of a 2-D map: nothing to draw")
    shown = moving[:MAX_LAYERS]
    if len(shown) < len(moving):
        title += f" (the first {len(shown)} of {len(moving)} layers that move pixels)"
    top = min(23 / (MAP_DISTANCE * len(shown) + 1.2), 3) + 0.6  # its aspect, its title
    heights = [top, *[2.5] * len(shown)]
    figure = Figure(figsize=(15, sum(heights) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=14)
    rows: Any = figure.subfigures(len(heights), 1, height_ratios=heights, hspace=0.03)
    _draw_maps(rows[0].subplots(), shown)
    for row, audit in zip(rows[1:], shown, strict=True):
        windows, own, chain = row.subplots(1, 3, width_ratios=[4, 1, 1])
        _draw_width(windows, audit)
        single = [(axis,) for axis in audit.axes]
        _draw_overlap(own, single, "taps on each pixel, this layer")
        _draw_overlap(chain, audit.chain_by_axis, "paths to each pixel, all layers")
    return figure


def _moves(axis: AxisGeometry) -> bool:
    """Whether the axis does more than a 1-tap kernel does."""
    return axis.kernel > 1 or axis.stride > 1 or axis.output_size != axis.input_size


def _draw_maps(axes: Axes, audits: Sequence[LayerAudit]) -> None:
    """Each map to scale, the output field of one pixel of the first, and the shift."""
    largest = max(max(a.input_size, a.output_size) for au in audits for a in au.axes)

    def centred(x: float, height: float, width: float, **style: Any) -> None:
        height, width = height / largest, width / largest
        axes.add_patch(Rectangle((x - width / 2, -height / 2), width, height, **style))

    def label(x: float, shape: Any, more: str = "") -> None:
        text = "×".join(str(n) for n in (shape or ())[1:]) + more
        axes.text(x, -0.54, text, ha="center", va="top", fontsize=10)

    centred(0, *(axis.input_size for axis in audits[0].axes), fc="0.93", ec="black")
    label(0, audits[0].input_shape)
    for place, audit in enumerate(audits, start=1):
        x, sizes = MAP_DISTANCE * place, [axis.output_size for axis in audit.axes]
        centred(x, *sizes, fc="0.93", ec="black")
        rows, more = audit.chain_by_axis, ""
        if rows:
            field = [arithmetic.chain_output_field(row) for row in rows]
            inside = [min(pair) for pair in zip(field, sizes, strict=True)]
            line = "-" if inside == field else "--"
            centred(x, *inside, ls=line, ec=OUTPUT_FIELD, fc="#ffe8d0", lw=1.5)
            down, right = (arithmetic.chain_shift(row) for row in rows)
            if down or right:
                end = (x + SHIFT_SCALE * right / largest, -SHIFT_SCALE * down / largest)
                arrow = {"arrowstyle": "->", "lw": 1.8, "shrinkA": 0, "shrinkB": 0}
                axes.annotate("", end, (x, 0), arrowprops=arrow)
            more = f"\nfield {field[1]} px\nshift {right:+g} px"
        label(x, audit.output_shape, more)
        _draw_arrow(axes, x - MAP_DISTANCE / 2, audit)
    right_end = MAP_DISTANCE * len(audits) + 0.6
    axes.set(xlim=(-0.6, right_end), ylim=(-0.95, 0.6), aspect="equal")
    axes.set_axis_off()
    title = "The maps, to scale. Orange: output field of one pixel of the first map "
    title += "(dashed: larger than the map). Arrow: shift of the image, "
    axes.set_title(f"{title}{SHIFT_SCALE} times as long.", fontsize=10)


def _draw_arrow(axes: Axes, x: float, audit: LayerAudit) -> None:
    """The layer between two maps."""
    axis = audit.axes[1]
    verb = "crop" if axis.is_scatter or axis.kind == "crop" else "pad"
    lines = [f"{axis.kind} k{axis.kernel} s{axis.stride}"]
    lines.append(f"{verb} ({abs(axis.pad_before)}, {abs(axis.pad_after)})")
    if audit.macs:
        lines.append(f"{audit.macs / 1e6:.2f} M MAC")
    arrow = {"arrowstyle": "-|>", "color": "0.4"}
    axes.annotate("", (x + 0.5, 0), (x - 0.5, 0), arrowprops=arrow)
    name = "\n".join(wrap(audit.name.replace("_", " "), 16)).replace(" ", "_")
    axes.text(x, 0.05, name, ha="center", va="bottom", fontsize=9, weight="bold")
    axes.text(x, -0.05, "\n".join(lines), ha="center", va="top", fontsize=9)


def _draw_width(axes: Axes, audit: LayerAudit) -> None:
    """The width of one layer: kernels, cells, windows and the rules it breaks."""
    axis = audit.axes[1]
    first = 0 if axis.is_scatter else -max(axis.pad_before, 0)
    _draw_cells(axes, axis, first)
    num_levels = _draw_kernels(axes, axis, first)
    if axis.is_scatter:
        bottom, top = _draw_windows(axes, axis), 1.9 + BAR_DISTANCE * num_levels
    else:
        bottom, top = -0.7 - BAR_DISTANCE * num_levels, 1.5
    axes.set(xlim=(first - 0.7, first + MAX_CELLS), ylim=(bottom, top))
    sizes = f"width {axis.input_size} → {axis.output_size}"
    axes.set_title(f"{audit.name}: {audit.type}, {sizes}", loc="left", weight="bold")
    rules = [f for f in audit.findings if f.level != "info" and f.code != "W9"]
    text = "\n".join(f"{f.code} {f.text}" for f in rules) or "breaks no rule"
    color, place = "darkred" if rules else "darkgreen", axes.transAxes
    axes.text(0, -0.02, text, va="top", fontsize=9, color=color, transform=place)
    axes.set_axis_off()


def _draw_cells(axes: Axes, axis: AxisGeometry, first: int) -> None:
    """The full output of a scatter, or the padded input of a gather, cell by cell."""
    if axis.is_scatter:
        reach = (axis.input_size - 1) * axis.stride + axis.effective_kernel
        length = max(reach, axis.pad_before + axis.output_size)
        kept = range(axis.pad_before, axis.pad_before + axis.output_size)
        full = replace(axis, output_size=length, pad_before=0, pad_after=0)
        numbers = [len(pairs) for pairs in full.terms]
        caption = "inputs added up in each cell of the full output; hatched: cropped"
    else:
        length = axis.input_size - first + max(axis.effective_pad_after, 0)
        kept = range(axis.input_size)
        numbers = [n if n in kept else 0 for n in range(first, first + length)]
        if axis.kind in ("reflect", "edge"):
            numbers = [pairs[0][0] for pairs in axis.terms]
        filling = {"reflect": "a mirror", "edge": "edge pixels"}.get(axis.kind, "0")
        caption = f"the input's pixels; hatched: padding with {filling}"
    for place, number in enumerate(numbers[: MAX_CELLS - 1], start=first):
        hatch = None if place in kept else "////"
        style: Any = {"fc": "w", "ec": "0.4", "hatch": hatch, "lw": 0.8}
        axes.add_patch(Rectangle((place - 0.5, 0), 1, 0.8, **style))
        style = {"bbox": BEHIND_TEXT | {"pad": 0.6} if hatch else None, "fontsize": 8}
        axes.text(place, 0.4, str(number), ha="center", va="center", **style)
    if length >= MAX_CELLS:
        axes.text(first + MAX_CELLS - 1.3, 0.4, "…", va="center", fontsize=14)
    axes.text(first - 0.5, 0.95, caption, fontsize=8.5, va="bottom", color="0.3")


def _draw_kernels(axes: Axes, axis: AxisGeometry, first: int) -> int:
    """Draws the kernels as bars; returns the number of levels on which they lie."""
    scatter, reach, step = axis.is_scatter, axis.effective_kernel, axis.stride
    num_levels = min(-(-reach // step), 5)
    base, distance = (1.75, BAR_DISTANCE) if scatter else (-0.55, -BAR_DISTANCE)
    for index in range(axis.input_size if scatter else axis.output_size):
        start = index * step + (0 if scatter else -axis.pad_before) - 0.5
        if start + reach > first + MAX_CELLS - 1:
            break
        y = base + distance * (index % num_levels)
        color = OUTPUT_FIELD if scatter else TENSORFLOW
        axes.plot([start + 0.12, start + reach - 0.12], [y, y], color=color, lw=2.5)
        axes.plot(start + reach / 2, y, "o", color=color, ms=4)
    text = f"each bar: what one {'input reaches' if scatter else 'output reads'}"
    theirs = None if scatter else torch_axis(axis)
    if theirs and theirs.pad_before != axis.pad_before:
        shift = theirs.pad_before - axis.pad_before
        text += f"; PyTorch's start {shift} px further left"
    y = base + distance * num_levels
    axes.text(first - 0.5, y, text, fontsize=8.5, va="center", color="0.3")
    return num_levels


def _draw_windows(axes: Axes, axis: AxisGeometry) -> float:
    """The cells that TensorFlow and PyTorch keep as output; returns the lower limit."""
    theirs = torch_axis(axis) if axis.kind == "transpose" else None
    windows = [("TensorFlow", axis, TENSORFLOW)]
    windows += [("PyTorch", theirs, TORCH)] if theirs else []
    y = 0.0
    for name, kept, color in windows:
        y -= 0.55
        start, end = kept.pad_before, kept.pad_before + kept.output_size - 1
        last = min(end, MAX_CELLS - 2)
        ends = [start - 0.4, last + 0.4]
        axes.plot(ends, [y, y], color=color, lw=4, solid_capstyle="butt")
        text = f"{name} keeps cells {start} to {end}"
        if start != axis.pad_before:
            text += f" ({start - axis.pad_before:+d} px)"
        style: Any = {"color": color, "weight": "bold", "fontsize": 9, "va": "center"}
        x = last + 0.9 if last < 33 else start + 0.5
        axes.text(x, y, text, bbox=BEHIND_TEXT | {"pad": 0.5}, **style)
    return y - 0.4


def _draw_overlap(
    axes: Axes, rows: Sequence[Sequence[AxisGeometry]], caption: str
) -> None:
    """Number of products of each pixel with all-ones kernels, the border outlined."""
    axes.set_axis_off()
    if not rows:
        return
    height, width = (np.array(arithmetic.chain_overlap(row)) for row in rows)
    counts = np.outer(height, width)
    low, high = counts.min(), counts.max()
    lowest = counts[counts > 0].min(initial=high)
    scale = LogNorm(lowest, high) if high > lowest else Normalize(0, max(high, 1))
    axes.imshow(np.ma.masked_equal(counts, 0), cmap="viridis", norm=scale)
    (top, bottom), (left, right) = (arithmetic.chain_margins(row) for row in rows)
    inner = counts[top : len(height) - bottom, left : len(width) - right]
    text = f"{low:.5g} to {high:.5g}" if low != high else f"{low:.5g} everywhere"
    if not inner.size:
        text += "\nthe border reaches every pixel"
    elif inner.size < counts.size:
        style: Any = {"fill": False, "ec": "white", "lw": 1.5, "ls": "--"}
        axes.add_patch(Rectangle((left - 0.5, top - 0.5), *inner.shape[::-1], **style))
        even = inner.min() == inner.max()
        span = "even" if even else f"{inner.min():.5g} to {inner.max():.5g}"
        text += f"\ninside the dashes {span}"
    axes.set_title(f"{caption}\n{text}", fontsize=9)
