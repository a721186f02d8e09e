"""Figures of the command `quality`: scores over training, and possible copies.

The figures use matplotlib's Agg canvas and need no display.
"""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.quality.reference import Copies, ReferenceSet


def draw_training(
    points: list[tuple[int, dict[str, float]]],
    baselines: dict[str, dict[str, float]],
    reference: ReferenceSet,
) -> Figure:
    """Draws FCD and coverage over training, with the baselines as horizontal lines.

    Args:
        points: training step and scores of each checkpoint.
        baselines: see `ReferenceSet.baselines`.
        reference: the reference set of all scores.
    """
    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    steps = [step for step, _ in points]
    for axes, key in zip(figure.subplots(1, 2), ("fcd", "coverage"), strict=True):
        axes.plot(steps, [scores[key] for _, scores in points], "o-", color="C0")
        for name, scores in baselines.items():
            axes.axhline(scores[key], color="0.6", linewidth=0.8, zorder=0)
            is_floor = name == "floor"  # its label is on the side away from the noise
            axes.annotate(
                name if is_floor else f"{name} levels",
                (0.99, scores[key]),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="top" if is_floor == (key == "fcd") else "bottom",
                fontsize=8,
                color="0.35",
            )
        axes.set_title(reference.name(key), fontsize=10)
        axes.set_xlabel("training step")
        if len(steps) == 1:
            axes.set_xticks(steps)
        axes.grid(alpha=0.2)
        if key == "fcd":
            axes.set_yscale("log")
            axes.margins(y=0.1)
        else:
            axes.set_ylim(0, 1.08)
    return figure


def draw_nearest_pairs(
    fakes_uint8: np.ndarray, train_uint8: np.ndarray, copies: Copies
) -> Figure:
    """Draws the 16 samples that are nearest to a training image, above that image.

    Args:
        fakes_uint8: uint8 (N, H, W, C), in the order of `copies`.
        train_uint8: uint8 (K, H, W, C), the images that `copies.nearest` refers to.
        copies: distances in grey levels.
    """
    figure = Figure(figsize=(10, 5.8), layout="constrained")
    FigureCanvasAgg(figure)
    cells = figure.subplots(4, 8)
    for axes in cells.flat:
        axes.set_axis_off()
    closest = np.argsort(copies.distances, kind="stable")[:16]
    for place, index in enumerate(closest):
        row, column = 2 * (place // 8), place % 8
        pair = fakes_uint8[index], train_uint8[copies.nearest[index]]
        for axes, image in zip(cells[row : row + 2, column], pair, strict=True):
            axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        difference = copies.distances[index] / np.sqrt(fakes_uint8[0].size)
        cells[row, column].set_title(f"{difference:.1f}", fontsize=9)
    figure.suptitle(
        "The 16 samples nearest to a training image, each above that image; "
        "root mean squared difference in grey levels",
        fontsize=10,
    )
    return figure
