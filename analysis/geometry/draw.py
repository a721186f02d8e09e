"""Draws one convolution step by step, as a PNG or a GIF.

The drawings follow the animations of Dumoulin & Visin 2016, arXiv:1603.07285, for any
sizes and for both frameworks' paddings.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from PIL import Image

from analysis.figures import to_pixels
from analysis.geometry.arithmetic import INSERTED, PADDED, AxisGeometry, findings
from analysis.geometry.formulas import Convolution

MAX_CELLS = 40  # on a side; more cannot be told apart
MIN_POINTS = 4.5  # smaller type is left out
MAX_FRAMES = 80
WIDTH_INCHES = 13.0
COLOURS = {  # of a cell: (elsewhere, under the kernel)
    "input": ("#4c86c6", "#d9480f"),
    "inserted zero": ("#ffffff", "#ffe3c2"),
    "padding": ("#dfe3e8", "#f3cf9f"),
}
LEAST, MOST = (np.array(to_rgb(colour)) for colour in ("#e6f4ea", "#1e7d46"))
LINE = "#a9b0b8"
CENTRED: dict[str, Any] = {"ha": "center", "va": "center"}
FRAME: dict[str, Any] = {"fill": False, "ec": "#d9480f", "lw": 2, "clip_on": False}


@dataclass(frozen=True)
class Scene:
    """What a drawing shows: one convolution along the height and one along the width.

    Raises:
        ValueError: If the layer cannot run or is too large to be drawn.
    """

    height: Convolution
    width: Convolution

    def __post_init__(self) -> None:
        lengths = [len(axis.three_steps().cells) for axis in self.axes]
        largest = max(*lengths, *(max(a.output_size, a.kernel) for a in self.axes))
        if largest > MAX_CELLS:
            limit = f"{MAX_CELLS} at most: take a smaller input, kernel or stride"
            raise ValueError(f"{largest} cells on a side are too many to draw, {limit}")

    @cached_property
    def axes(self) -> tuple[AxisGeometry, AxisGeometry]:
        """The geometry along the height and along the width."""
        return self.height.geometry(), self.width.geometry()

    @cached_property
    def outputs(self) -> list[tuple[int, int]]:
        """The (row, column) of every output in reading order."""
        rows, columns = (range(axis.output_size) for axis in self.axes)
        return list(product(rows, columns))

    @cached_property
    def overlap(self) -> np.ndarray:
        """Number of inputs that each output sums, (height, width)."""
        rows, columns = (axis.overlap() for axis in self.axes)
        return np.outer(rows, columns)

    @property
    def title(self) -> str:
        """The constructor call; one for each axis where they differ."""
        calls = self.height.constructor_call(), self.width.constructor_call()
        return "\n".join(dict.fromkeys(calls))

    def text(self) -> list[str]:
        """The sizes, their formulas, the three steps and the findings, as lines."""
        rows, columns = self.axes
        before = f"{rows.input_size} x {columns.input_size}"
        lines = [f"{before} to {rows.output_size} x {columns.output_size} pixels"]
        layers = {self.height: "height: ", self.width: "width: "}
        for layer, name in layers.items():
            axis = layer.geometry()
            own = [*layer.formulas(), _steps_text(axis)]
            own += [f"{f.code} {f.level}: {f.text}" for f in findings(axis)]
            lines += [name + line for line in own] if len(layers) > 1 else own
        return lines


def _steps_text(axis: AxisGeometry) -> str:
    steps, length = axis.three_steps(), (axis.input_size - 1) * axis.stride + 1
    inserts = axis.is_scatter and axis.stride > 1
    words = [f"insert zeros: {length} px"] if inserts else []
    words.append(f"pad {steps.pad_before} + {steps.pad_after}: {len(steps.cells)} px")
    kernel = "rotated kernel" if axis.is_scatter else "kernel"
    words.append(f"slide the {kernel} by {steps.step}: {axis.output_size} px")
    return ", ".join(words)


def save_picture(scene: Scene, path: Path) -> None:
    """Writes a PNG with the formulas, the kernel and up to six steps."""
    rows, columns = scene.overlap.shape
    total, inside = rows * columns, rows // 2 * columns + columns // 2
    chosen = sorted({0, 1, columns, inside, inside + 1, total - 1} & set(range(total)))
    steps = [_draw_step(scene, at, WIDTH_INCHES / 2, dpi=100) for at in chosen]
    if len(steps) % 2:
        steps.append(np.full_like(steps[0], 255))
    pairs = [np.hstack(steps[at : at + 2]) for at in range(0, len(steps), 2)]
    Image.fromarray(np.vstack([_draw_header(scene, dpi=100), *pairs])).save(path)


def save_animation(scene: Scene, path: Path) -> None:
    """Writes a GIF; of many outputs it shows the first rows and the last."""
    total, columns = scene.overlap.size, scene.overlap.shape[1]
    chosen = list(range(total))
    if total > MAX_FRAMES:
        num_rows = max(MAX_FRAMES // columns - 1, 1)
        chosen = [*chosen[: num_rows * columns], *chosen[-columns:]]
    header = _draw_header(scene, dpi=75)
    steps = (_draw_step(scene, at, WIDTH_INCHES, dpi=75) for at in chosen)
    frames = [Image.fromarray(np.vstack([header, s])).quantize(64) for s in steps]
    durations = [300] * (len(frames) - 1) + [2000]  # ms
    first, rest = frames[0], frames[1:]
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0)


def _draw_header(scene: Scene, dpi: int) -> np.ndarray:
    """Formulas, legend, and the kernel as it slides."""
    lines, scatter = scene.text(), scene.axes[0].is_scatter
    lines = [part for line in lines for part in wrap(line, 115)]
    size = (WIDTH_INCHES, max(3.4, 1.5 + 0.25 * len(lines)))
    figure = Figure(figsize=size, dpi=dpi, layout="constrained")
    text, kernel = figure.subplots(1, 2, width_ratios=(3.6, 1))
    text.axis("off")
    text.set_title(scene.title, loc="left", fontsize=10.5, weight="bold")
    text.text(0, 1, "\n".join(lines), va="top", fontsize=10.5, linespacing=1.5)
    labels = {kind: plain for kind, (plain, _) in COLOURS.items()}
    if not scatter:
        del labels["inserted zero"]
    labels["input times weight"] = COLOURS["input"][1]
    labels["zero under the kernel"] = under_zero = COLOURS["padding"][1]
    patches = [Patch(fc=colour, ec=LINE, label=name) for name, colour in labels.items()]
    text.legend(handles=patches, loc="lower left", ncols=3, frameon=False, fontsize=10)
    rows, columns = (axis.three_steps().kernel_order for axis in scene.axes)
    _grid(kernel, np.full((len(rows), len(columns), 3), to_rgb(under_zero)))
    for (y, row), (x, column) in product(enumerate(rows), enumerate(columns)):
        kernel.text(x, y, _weight_name(row, column), fontsize=9, **CENTRED)
    turned = "rotated by 180°" if scatter else "as it is"
    kernel.set_title(f"kernel {turned}: row, column", fontsize=10.5)
    return to_pixels(figure)


def _weight_name(row: int, column: int) -> str:
    """The weight's place in the kernel, if it fits a cell."""
    return f"{row}{column}" if max(row, column) < 10 else ""


def under_kernel(
    scene: Scene, n: tuple[int, int]
) -> tuple[np.ndarray, dict, Rectangle]:
    """The prepared input while output `n` is computed.

    Returns:
        Its colours (height, width, 3) in [0, 1], the weight at each (row, column) that
        multiplies an input, and the kernel's outline.
    """
    rows, columns = (axis.three_steps() for axis in scene.axes)
    down, across = (
        {s.step * at + s.dilation * q: tap for q, tap in enumerate(s.kernel_order)}
        for s, at in zip((rows, columns), n, strict=True)
    )
    image, weights = np.empty((len(rows.cells), len(columns.cells), 3)), {}
    for y, x in np.ndindex(image.shape[:2]):
        cells, under = (rows.cells[y], columns.cells[x]), y in down and x in across
        kind = "inserted zero" if INSERTED in cells else "input"
        kind = "padding" if PADDED in cells else kind
        image[y, x] = to_rgb(COLOURS[kind][under])
        if under and kind == "input":
            weights[y, x] = _weight_name(down[y], across[x])
    corner = (min(across) - 0.5, min(down) - 0.5)
    spans = (max(across) - min(across) + 1, max(down) - min(down) + 1)
    return image, weights, Rectangle(corner, *spans, **FRAME)


def _draw_step(scene: Scene, number: int, width_inches: float, dpi: int) -> np.ndarray:
    """The prepared input under the kernel, and the output so far."""
    n = scene.outputs[number]
    image, weights, outline = under_kernel(scene, n)
    shape, (high, wide) = image.shape[:2], scene.overlap.shape
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
    if points > MIN_POINTS:
        for (y, x), weight in weights.items():
            prepared.text(x, y, weight, fontsize=points, color="white", **CENTRED)
    share = scene.overlap / max(scene.overlap.max(), 1)
    colours = LEAST + share[..., None] * (MOST - LEAST)
    colours.reshape(-1, 3)[number + 1 :] = 1
    _grid(output, colours)
    for y, x in scene.outputs[: number + 1] if points > MIN_POINTS else ():
        color = "white" if share[y, x] > 0.55 else "black"
        label = f"{scene.overlap[y, x]:g}"
        output.text(x, y, label, fontsize=points, color=color, **CENTRED)
    output.add_patch(Rectangle((n[1] - 0.5, n[0] - 0.5), 1, 1, **FRAME))
    prepared.set_title(f"step {number + 1} of {len(scene.outputs)}", loc="left")
    plural = "" if len(weights) == 1 else "s"
    output.set_title(f"output {n} sums {len(weights)} input{plural}", loc="left")
    return to_pixels(figure)


def _grid(axes: Axes, image: np.ndarray) -> None:
    """Square cells with thin lines between them and no ticks."""
    height, width = image.shape[:2]
    edges = (np.arange(size + 1) - 0.5 for size in (width, height))
    axes.pcolormesh(*edges, image, edgecolors=LINE, lw=0.6)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), aspect="equal")
    axes.set(xticks=[], yticks=[], anchor="N")
