"""Draws one convolution step by step: a contact sheet, an animation or a page.

After the animations of Dumoulin & Visin 2016, arXiv:1603.07285, for any sizes and for
both frameworks' paddings. What is drawn is `AxisPlan.three_steps`; nothing is computed
here.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from PIL import Image

from analysis.figures import to_pixels
from analysis.geometry.arithmetic import INSERTED, PADDED, AxisPlan, findings
from analysis.geometry.explain import Layer

LARGEST_GRID = 40  # cells on a side that can still be told apart
TINY_POINTS = 4.5  # type of this size is left out
NUM_FRAMES = 80
WIDTH_INCHES = 13.0
COLOURS = {  # cell: (plain, under the kernel)
    "input": ("#4c86c6", "#d9480f"),
    "inserted zero": ("#ffffff", "#ffe3c2"),
    "padding": ("#dfe3e8", "#f3cf9f"),
}
COVERAGE = ("#e6f4ea", "#1e7d46")  # none, most
LINE = "#a9b0b8"
CENTRED: dict[str, Any] = {"ha": "center", "va": "center"}
FRAME: dict[str, Any] = {"fill": False, "ec": "#d9480f", "lw": 2, "clip_on": False}


@dataclass(frozen=True)
class Scene:
    """What a drawing shows: one layer for the height, one for the width.

    Raises:
        ValueError: if a layer cannot run, or is too large to be drawn.
    """

    height: Layer
    width: Layer

    def __post_init__(self) -> None:
        cells = [len(plan.three_steps().cells) for plan in self.plans]
        largest = max(*cells, *(max(p.output_size, p.kernel) for p in self.plans))
        if largest > LARGEST_GRID:
            raise ValueError(
                f"{largest} cells on a side are too many to draw, {LARGEST_GRID} at "
                "most: take a smaller input, kernel or stride"
            )

    @cached_property
    def plans(self) -> tuple[AxisPlan, AxisPlan]:
        """The geometry along the height and along the width."""
        return self.height.plan(), self.width.plan()

    @cached_property
    def outputs(self) -> list[tuple[int, int]]:
        """Every output in reading order."""
        rows, columns = (range(plan.output_size) for plan in self.plans)
        return list(product(rows, columns))

    @cached_property
    def coverage(self) -> np.ndarray:
        """How many inputs each output sums."""
        rows, columns = (plan.coverage() for plan in self.plans)
        return np.outer(rows, columns)

    @property
    def call(self) -> str:
        """The constructor call; one for each axis where they differ."""
        return "\n".join(dict.fromkeys(a.call() for a in (self.height, self.width)))

    def lines(self) -> list[str]:
        """The sizes, their formulas, the three steps and the findings."""
        rows, columns = self.plans
        before = f"{rows.input_size} x {columns.input_size}"
        found = [f"{before} to {rows.output_size} x {columns.output_size} pixels"]
        axes = {self.height: "height: ", self.width: "width: "}
        for layer, name in axes.items():
            name = name if len(axes) > 1 else ""
            plan = layer.plan()
            found += [name + line for line in [*layer.size_lines(), _in_words(plan)]]
            found += [f"{name}{f.code} {f.level}: {f.text}" for f in findings(plan)]
        return found


def _in_words(plan: AxisPlan) -> str:
    steps, spread = plan.three_steps(), (plan.input_size - 1) * plan.stride + 1
    inserts = plan.is_scatter and plan.stride > 1
    words = [f"insert zeros: {spread} px"] if inserts else []
    words.append(f"pad {steps.pad_before} + {steps.pad_after}: {len(steps.cells)} px")
    kernel = "rotated kernel" if plan.is_scatter else "kernel"
    words.append(f"slide the {kernel} by {steps.step}: {plan.output_size} px")
    return ", ".join(words)


def save_sheet(scene: Scene, path: Path) -> None:
    """Writes a PNG: formulas, kernel, coverage and up to six steps."""
    rows, columns = scene.coverage.shape
    total, inside = rows * columns, rows // 2 * columns + columns // 2
    chosen = sorted({0, 1, columns, inside, inside + 1, total - 1} & set(range(total)))
    steps = [_step(scene, number, WIDTH_INCHES / 2, dpi=100) for number in chosen]
    if len(steps) % 2:
        steps.append(np.full_like(steps[0], 255))
    pairs = [np.hstack(steps[at : at + 2]) for at in range(0, len(steps), 2)]
    Image.fromarray(np.vstack([_header(scene, dpi=100), *pairs])).save(path)


def save_animation(scene: Scene, path: Path) -> None:
    """Writes a GIF; of many outputs it shows the first rows and the last."""
    total, columns = scene.coverage.size, scene.coverage.shape[1]
    numbers = list(range(total))
    if total > NUM_FRAMES:
        rows = max(NUM_FRAMES // columns - 1, 1)
        numbers = [*numbers[: rows * columns], *numbers[-columns:]]
    header = _header(scene, dpi=75)
    pictures = (_step(scene, number, WIDTH_INCHES, dpi=75) for number in numbers)
    frames = [Image.fromarray(np.vstack([header, picture])) for picture in pictures]
    frames = [frame.quantize(64) for frame in frames]
    durations = [300] * (len(frames) - 1) + [2000]  # ms
    rest = frames[1:]
    frames[0].save(path, save_all=True, append_images=rest, duration=durations, loop=0)


def save_page(scene: Scene, path: Path) -> None:
    """Writes one HTML page that plays every step; it needs no network."""
    axes = [
        {
            "cells": plan.three_steps().cells,
            "order": plan.three_steps().kernel_order,
            "step": plan.three_steps().step,
            "dilation": plan.dilation,
            "outputs": plan.output_size,
            "coverage": plan.coverage(),
        }
        for plan in scene.plans
    ]
    assets = FileSystemLoader(Path(__file__).parents[1] / "assets")
    template = Environment(loader=assets, autoescape=True).get_template("draw.html.j2")
    scatter = scene.plans[0].is_scatter
    page = template.render(
        call=scene.call, lines=scene.lines(), axes=axes, scatter=scatter
    )
    path.write_text(page, encoding="utf-8")


def _header(scene: Scene, dpi: int) -> np.ndarray:
    """Formulas and legend, the kernel as it slides, the coverage of the output."""
    lines, scatter = scene.lines(), scene.plans[0].is_scatter
    size = (WIDTH_INCHES, max(3.4, 1.5 + 0.25 * len(lines)))
    figure = Figure(figsize=size, dpi=dpi, layout="constrained")
    text, kernel, coverage = figure.subplots(1, 3, width_ratios=(2.6, 1, 1.1))
    text.axis("off")
    text.set_title(scene.call, loc="left", fontsize=10.5, weight="bold")
    text.text(0, 1, "\n".join(lines), va="top", fontsize=10.5, linespacing=1.5)
    kinds = [kind for kind in COLOURS if scatter or kind != "inserted zero"]
    patches = [Patch(fc=COLOURS[kind][0], ec=LINE, label=kind) for kind in kinds]
    patches.append(Patch(fc=COLOURS["input"][1], label="input times weight"))
    patches.append(Patch(fc=COLOURS["padding"][1], label="zero under the kernel"))
    text.legend(handles=patches, loc="lower left", ncols=3, frameon=False, fontsize=10)
    rows, columns = (plan.three_steps().kernel_order for plan in scene.plans)
    shade = to_rgb(COLOURS["padding"][1])
    _grid(kernel, np.full((len(rows), len(columns), 3), shade))
    for (y, row), (x, column) in product(enumerate(rows), enumerate(columns)):
        kernel.text(x, y, _weight(row, column), fontsize=9, **CENTRED)
    turned = "rotated by 180°" if scatter else "as it is"
    kernel.set_title(f"kernel {turned}: row, column", fontsize=10.5)
    points = min(10, 105 / max(scene.coverage.shape))
    _output(coverage, scene, scene.coverage.size - 1, points)
    coverage.set_title("coverage: inputs summed", fontsize=10.5)
    return to_pixels(figure)


def _weight(row: int, column: int) -> str:
    """The weight's place in the kernel, as long as it fits a cell."""
    return f"{row}{column}" if max(row, column) < 10 else ""


def under_kernel(
    scene: Scene, n: tuple[int, int]
) -> tuple[np.ndarray, dict, Rectangle]:
    """The prepared input while output `n` is computed.

    Returns:
        Its colours (height, width, 3) in [0, 1], the weight at each (row, column) that
        multiplies an input, and the kernel's outline.
    """
    rows, columns = (plan.three_steps() for plan in scene.plans)
    down, across = (
        {
            step.step * at + step.dilation * q: tap
            for q, tap in enumerate(step.kernel_order)
        }
        for step, at in zip((rows, columns), n, strict=True)
    )
    image, weights = np.empty((len(rows.cells), len(columns.cells), 3)), {}
    for y, x in np.ndindex(image.shape[:2]):
        cells, under = (rows.cells[y], columns.cells[x]), y in down and x in across
        kind = "inserted zero" if INSERTED in cells else "input"
        kind = "padding" if PADDED in cells else kind
        image[y, x] = to_rgb(COLOURS[kind][under])
        if under and kind == "input":
            weights[y, x] = _weight(down[y], across[x])
    corner = (min(across) - 0.5, min(down) - 0.5)
    spans = (max(across) - min(across) + 1, max(down) - min(down) + 1)
    return image, weights, Rectangle(corner, *spans, **FRAME)


def _step(scene: Scene, number: int, width_inches: float, dpi: int) -> np.ndarray:
    """The prepared input under the kernel, and the output so far."""
    n = scene.outputs[number]
    image, weights, outline = under_kernel(scene, n)
    shape, (high, wide) = image.shape[:2], scene.coverage.shape
    room = width_inches - 0.6
    cell = min(room / (shape[1] + wide), (room - 2.6) / shape[1], 0.45)
    size = (width_inches, cell * max(shape[0], high) + 0.6)
    figure = Figure(figsize=size, dpi=dpi)

    def axes(left: float, height: int, width: int) -> Axes:
        bottom = size[1] - 0.4 - cell * height
        box = (left / size[0], bottom / size[1])
        return figure.add_axes((*box, cell * width / size[0], cell * height / size[1]))

    prepared = axes(0.1, *shape)
    output = axes(max(0.4 + cell * shape[1], 1.8), high, wide)
    points = min(10, 36 * cell)
    _grid(prepared, image)
    prepared.add_patch(outline)
    if points > TINY_POINTS:
        for (y, x), weight in weights.items():
            prepared.text(x, y, weight, fontsize=points, color="white", **CENTRED)
    _output(output, scene, number, points)
    output.add_patch(Rectangle((n[1] - 0.5, n[0] - 0.5), 1, 1, **FRAME))
    prepared.set_title(f"step {number + 1} of {len(scene.outputs)}", loc="left")
    plural = "" if len(weights) == 1 else "s"
    output.set_title(f"output {n} sums {len(weights)} input{plural}", loc="left")
    return to_pixels(figure)


def _output(axes: Axes, scene: Scene, number: int, points: float) -> None:
    """The outputs up to `number`, coloured by coverage."""
    coverage = scene.coverage
    least, most = (np.array(to_rgb(colour)) for colour in COVERAGE)
    share = coverage / max(coverage.max(), 1)
    image = least + share[..., None] * (most - least)
    image.reshape(-1, 3)[number + 1 :] = 1
    _grid(axes, image)
    if points > TINY_POINTS:
        for y, x in scene.outputs[: number + 1]:
            colour = "white" if share[y, x] > 0.55 else "black"
            label = f"{coverage[y, x]:g}"
            axes.text(x, y, label, fontsize=points, color=colour, **CENTRED)


def _grid(axes: Axes, image: np.ndarray) -> None:
    """Square cells with thin lines between them and no ticks."""
    height, width = image.shape[:2]
    edges = (np.arange(size + 1) - 0.5 for size in (width, height))
    axes.pcolormesh(*edges, image, edgecolors=LINE, lw=0.6)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), aspect="equal")
    axes.set(xticks=[], yticks=[], anchor="N")
