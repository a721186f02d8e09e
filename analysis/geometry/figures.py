"""The figure of an audit: the ladder of maps, one card a layer, coverage maps.

Draws `analysis.geometry.audit` records on matplotlib's Agg canvas; it measures nothing
itself.
"""

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
from analysis.geometry.arithmetic import AxisPlan
from analysis.geometry.audit import LayerRecord
from analysis.geometry.tables import chain_axes, torch_plan

MOST_LAYERS = 7  # cards in one figure
MOST_CELLS = 44  # positions in one card
TENSORFLOW, TORCH, PAINTED = "tab:blue", "tab:red", "tab:orange"
DRIFT_SCALE = 4  # arrows are drawn longer than they are
BAR = 0.42  # height of a kernel's bar in a card


def draw_layers(records: Sequence[LayerRecord], title: str = "") -> Figure:
    """Draws the layers that move pixels.

    Args:
        records: of `audit_model`; those without two axes are left out, and those after
            the seventh.
        title: above all.

    Returns:
        A figure: the ladder of maps on top, then a row for each layer with its windows,
        its own coverage and that of all layers up to it.

    Raises:
        ValueError: if no layer moves pixels along two axes.
    """
    moving = [r for r in records if len(r.axes) == 2 and any(map(_moves, r.axes))]
    if not moving:
        raise ValueError("no layer moves pixels of a 2-D map: nothing to draw")
    shown = moving[:MOST_LAYERS]
    if len(shown) < len(moving):
        title += f" (the first {len(shown)} of {len(moving)} layers that move pixels)"
    ladder = min(23 / (2.1 * len(shown) + 1.2), 3) + 0.6  # its aspect, and its title
    heights = [ladder, *[2.5] * len(shown)]
    figure = Figure(figsize=(15, sum(heights) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=14)
    rows: Any = figure.subfigures(len(heights), 1, height_ratios=heights, hspace=0.03)
    draw_ladder(rows[0].subplots(), shown)
    for row, record in zip(rows[1:], shown, strict=True):
        card, own, chain = row.subplots(1, 3, width_ratios=[4, 1, 1])
        draw_card(card, record)
        alone = [(axis,) for axis in record.axes]
        draw_coverage(own, alone, "taps on each pixel, this layer")
        draw_coverage(chain, chain_axes(record), "paths to each pixel, all layers")
    return figure


def _moves(axis: AxisPlan) -> bool:
    """Whether the axis does more than a 1-tap kernel does."""
    return axis.kernel > 1 or axis.stride > 1 or axis.output_size != axis.input_size


def draw_ladder(axes: Axes, records: Sequence[LayerRecord]) -> None:
    """Each map to scale, what one cell of the first has painted, and how it drifted."""
    largest = max(max(a.input_size, a.output_size) for r in records for a in r.axes)
    sizes = [axis.input_size for axis in records[0].axes]
    _draw_map(axes, 0, [size / largest for size in sizes])
    _label(axes, 0, "×".join(str(n) for n in (records[0].input_shape or ())[1:]))
    for place, record in enumerate(records, start=1):
        x = 2.1 * place
        sizes = [axis.output_size for axis in record.axes]
        _draw_map(axes, x, [size / largest for size in sizes])
        text = "×".join(str(n) for n in (record.output_shape or ())[1:])
        rows = chain_axes(record)
        if rows:
            painted = [arithmetic.chain_footprint(row) for row in rows]
            drift = [arithmetic.chain_drift(row) for row in rows]
            _draw_path(axes, x, sizes, painted, drift, largest)
            text += f"\npaints {painted[1]} px\ndrift {drift[1]:+g} px"
        _label(axes, x, text)
        _draw_step(axes, x - 1.05, record)
    axes.set(xlim=(-0.6, 2.1 * len(records) + 0.6), ylim=(-0.95, 0.6), aspect="equal")
    axes.set_axis_off()
    axes.set_title(
        "The maps, to scale. Orange: what one cell of the first map paints (dashed: "
        f"more than the map). Arrow: the picture's drift, {DRIFT_SCALE} times as long.",
        fontsize=10,
    )


def _draw_map(axes: Axes, x: float, sides: Sequence[float]) -> None:
    height, width = sides
    corner = x - width / 2, -height / 2
    axes.add_patch(Rectangle(corner, width, height, fc="0.93", ec="black"))


def _draw_path(
    axes: Axes,
    x: float,
    sizes: Sequence[int],
    painted: Sequence[int],
    drift: Sequence[float],
    largest: int,
) -> None:
    """Footprint and drift inside one map."""
    height, width = (min(p, n) / largest for p, n in zip(painted, sizes, strict=True))
    whole = any(p > n for p, n in zip(painted, sizes, strict=True))
    style: dict[str, Any] = {
        "ls": "--" if whole else "-",
        "ec": PAINTED,
        "fc": "#ffe8d0",
        "lw": 1.5,
    }
    axes.add_patch(Rectangle((x - width / 2, -height / 2), width, height, **style))
    if any(drift):
        down, right = (DRIFT_SCALE * d / largest for d in drift)
        arrow: dict[str, Any] = {
            "arrowstyle": "->",
            "lw": 1.8,
            "shrinkA": 0,
            "shrinkB": 0,
        }
        axes.annotate("", (x + right, -down), (x, 0), arrowprops=arrow)


def _label(axes: Axes, x: float, text: str) -> None:
    axes.text(x, -0.54, text, ha="center", va="top", fontsize=10)


def _draw_step(axes: Axes, x: float, record: LayerRecord) -> None:
    """The layer between two maps."""
    axis = record.axes[1]
    crops = axis.is_scatter or axis.kind == "crop"
    pads = f"({abs(axis.pad_before)}, {abs(axis.pad_after)})"
    lines = [f"{axis.kind} k{axis.kernel} s{axis.stride}"]
    lines.append(f"{'crop' if crops else 'pad'} {pads}")
    if record.macs:
        lines.append(f"{record.macs / 1e6:.2f} M MAC")
    arrow: dict[str, Any] = {"arrowstyle": "-|>", "color": "0.4"}
    axes.annotate("", (x + 0.5, 0), (x - 0.5, 0), arrowprops=arrow)
    name = "\n".join(wrap(record.name.replace("_", " "), 16)).replace(" ", "_")
    axes.text(x, 0.05, name, ha="center", va="bottom", fontsize=9, weight="bold")
    axes.text(x, -0.05, "\n".join(lines), ha="center", va="top", fontsize=9)


def draw_card(axes: Axes, record: LayerRecord) -> None:
    """The width axis of one layer: kernels, cells, windows and the rules it breaks."""
    axis = record.axes[1]
    first = 0 if axis.is_scatter else -max(axis.pad_before, 0)
    _draw_cells(axes, axis, first)
    levels = _draw_kernels(axes, axis, first)
    bottom = _draw_windows(axes, axis) if axis.is_scatter else -0.7 - BAR * levels
    top = 1.9 + BAR * levels if axis.is_scatter else 1.5
    axes.set(xlim=(first - 0.7, first + MOST_CELLS), ylim=(bottom, top))
    sizes = f"width {axis.input_size} → {axis.output_size}"
    axes.set_title(f"{record.name}: {record.type}, {sizes}", loc="left", weight="bold")
    rules = [f for f in record.findings if f.level != "info" and f.code != "W9"]
    text = "\n".join(f"{f.code} {f.text}" for f in rules) or "breaks no rule"
    color = "darkred" if rules else "darkgreen"
    style: dict[str, Any] = {
        "transform": axes.transAxes,
        "va": "top",
        "fontsize": 9,
        "color": color,
    }
    axes.text(0.0, -0.02, text, **style)
    axes.set_axis_off()


def _draw_cells(axes: Axes, axis: AxisPlan, first: int) -> None:
    """The full output of a scatter, or the padded input of a gather, cell by cell."""
    if axis.is_scatter:
        painted = (axis.input_size - 1) * axis.stride + axis.effective_kernel
        length = max(painted, axis.pad_before + axis.output_size)
        kept = range(axis.pad_before, axis.pad_before + axis.output_size)
        full = replace(axis, output_size=length, pad_before=0, pad_after=0)
        numbers = [len(pairs) for pairs in full.all_reads]
        caption = "inputs added up in each cell of the full output; hatched: cropped"
    else:
        length = axis.input_size + max(axis.pad_before, 0) + max(axis.trailing, 0)
        kept = range(axis.input_size)
        numbers = [n if n in kept else 0 for n in range(first, first + length)]
        caption = "the input's pixels; hatched: padding with 0"
    for place, number in enumerate(numbers[: MOST_CELLS - 1], start=first):
        hatch = None if place in kept else "////"
        style: dict[str, Any] = {"fc": "white", "ec": "0.4", "hatch": hatch, "lw": 0.8}
        axes.add_patch(Rectangle((place - 0.5, 0), 1, 0.8, **style))
        box = {"fc": "white", "ec": "none", "pad": 0.6} if hatch else None
        axes.text(
            place, 0.4, str(number), ha="center", va="center", fontsize=8, bbox=box
        )
    if length >= MOST_CELLS:
        axes.text(first + MOST_CELLS - 1.3, 0.4, "…", va="center", fontsize=14)
    axes.text(first - 0.5, 0.95, caption, fontsize=8.5, va="bottom", color="0.3")


def _draw_kernels(axes: Axes, axis: AxisPlan, first: int) -> int:
    """A bar for the kernel of each input (scatter) or output (gather); returns rows."""
    scatter, reach, step = axis.is_scatter, axis.effective_kernel, axis.stride
    levels = min(-(-reach // step), 5)
    count = axis.input_size if scatter else axis.output_size
    base, direction = (1.75, 1) if scatter else (-0.55, -1)
    for index in range(count):
        start = index * step + (0 if scatter else -axis.pad_before) - 0.5
        if start + reach > first + MOST_CELLS - 1:
            break
        y = base + direction * BAR * (index % levels)
        color = PAINTED if scatter else TENSORFLOW
        axes.plot([start + 0.12, start + reach - 0.12], [y, y], color=color, lw=2.5)
        axes.plot(start + reach / 2, y, "o", color=color, ms=4)
    what = f"each bar: what one {'input paints' if scatter else 'output reads'}"
    theirs = None if scatter else torch_plan(axis)
    if theirs and theirs.pad_before != axis.pad_before:
        what += (
            f"; PyTorch's start {theirs.pad_before - axis.pad_before} px further left"
        )
    y = base + direction * BAR * levels
    axes.text(first - 0.5, y, what, fontsize=8.5, va="center", color="0.3")
    return levels


def _draw_windows(axes: Axes, axis: AxisPlan) -> float:
    """Which cells TensorFlow and PyTorch keep as output; returns the lower limit."""
    theirs = torch_plan(axis)
    windows = [("TensorFlow keeps", axis, TENSORFLOW)]
    if theirs and axis.kind == "transpose":
        windows.append(("PyTorch keeps", theirs, TORCH))
    y = 0.0
    for name, plan, color in windows:
        y -= 0.55
        start, end = plan.pad_before, plan.pad_before + plan.output_size - 1
        last = min(end, MOST_CELLS - 2)
        axes.plot(
            [start - 0.4, last + 0.4], [y, y], color=color, lw=4, solid_capstyle="butt"
        )
        place = last + 0.9 if last < 33 else start + 0.5
        style: dict[str, Any] = {
            "fontsize": 9,
            "va": "center",
            "color": color,
            "weight": "bold",
        }
        shift = start - axis.pad_before
        text = f"{name} cells {start} to {end}" + (f" ({shift:+d} px)" if shift else "")
        axes.text(
            place, y, text, bbox={"fc": "white", "ec": "none", "pad": 0.5}, **style
        )
    return y - 0.4


def draw_coverage(axes: Axes, rows: Sequence[Sequence[AxisPlan]], caption: str) -> None:
    """How often each pixel is painted through all-ones kernels, the border outlined."""
    axes.set_axis_off()
    if not rows:
        return
    height, width = (np.array(arithmetic.chain_coverage(row)) for row in rows)
    counts = np.outer(height, width)
    low, high = counts.min(), counts.max()
    lowest = counts[counts > 0].min(initial=high)
    scale = LogNorm(lowest, high) if high > lowest else Normalize(0, max(high, 1))
    axes.imshow(np.ma.masked_equal(counts, 0), cmap="viridis", norm=scale)
    (top, bottom), (left, right) = (arithmetic.chain_margins(row) for row in rows)
    inner = counts[top : len(height) - bottom, left : len(width) - right]
    text = f"{low:.5g} to {high:.5g}" if low != high else f"{low:.5g} everywhere"
    if inner.size and inner.size < counts.size:
        style: dict[str, Any] = {"fill": False, "ec": "white", "lw": 1.5, "ls": "--"}
        corner, (rows_inside, columns_inside) = (left - 0.5, top - 0.5), inner.shape
        axes.add_patch(Rectangle(corner, columns_inside, rows_inside, **style))
        even = inner.min() == inner.max()
        span = "even" if even else f"{inner.min():.5g} to {inner.max():.5g}"
        text += f"\ninside the dashes {span}"
    elif not inner.size:
        text += "\nthe border reaches every pixel"
    axes.set_title(f"{caption}\n{text}", fontsize=9)
