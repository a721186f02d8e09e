"""Figures of the command `quality`: scores over training, and possible copies."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis.figures import new_figure, show_image, styles
from analysis.quality.reference import Copies, ReferenceSet


def draw_training(
    sources: dict[str, list[tuple[int, dict[str, float]]]],
    baselines: dict[str, dict[str, float]],
    reference: ReferenceSet,
) -> Figure:
    """Draws scores over training, one labelled line per source, with baselines.

    They are FCD, coverage and the mean distance of patches, as far as they are there.

    Args:
        sources: by label, the training step and the scores of each checkpoint. A
            negative step is not known: the scores become a horizontal line.
        baselines: scores by name.
        reference: the real images.
    """
    keys = [k for k in ("fcd", "coverage", "swd_mean") if k in baselines["floor"]]
    figure = new_figure(4, 4.5 * len(keys))
    panels = figure.subplots(1, len(keys), squeeze=False)[0]
    steps = {step for points in sources.values() for step, _ in points if step >= 0}
    for axes, key in zip(panels, keys, strict=True):
        for (label, points), style in styles([*sources.items()]):
            x, y = zip(*((step, scores[key]) for step, scores in points), strict=True)
            if min(x) >= 0:
                axes.plot(x, y, label=label, **style)
            else:
                axes.axhline(y[0], label=label, color=style["color"], linestyle="--")
        for name, scores in baselines.items():
            axes.axhline(scores[key], color="0.6", linewidth=0.8, zorder=0)
            is_floor = name == "floor"  # its label is on the side away from the noise
            side = "top" if is_floor == (key != "coverage") else "bottom"
            label = name if is_floor else f"{name} levels"
            text: Any = {"ha": "right", "va": side, "fontsize": 8, "color": "0.35"}
            text["xycoords"] = "axes fraction", "data"
            axes.annotate(label, (0.99, scores[key]), **text)
        axes.set_title(reference.name(key), fontsize=10)
        axes.set_xlabel("training step")
        if len(steps) < 2:
            axes.set_xticks([*steps])
        axes.grid(alpha=0.2)
        if key != "coverage":
            axes.set_yscale("log")
            axes.margins(y=0.1)
        else:
            axes.set_ylim(0, 1.08)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center")
    return figure


def draw_nearest_pairs(
    fakes_uint8: np.ndarray, train_uint8: np.ndarray, copies: Copies
) -> Figure:
    """Draws the 16 samples that are nearest to a training image, above that image."""
    figure = new_figure(5.8, 10)
    cells = figure.subplots(4, 8)
    closest = np.argsort(copies.distances, kind="stable")[:16]
    for place, index in enumerate(closest):
        row, column = 2 * (place // 8), place % 8
        pair = fakes_uint8[index], train_uint8[copies.nearest[index]]
        for axes, image in zip(cells[row : row + 2, column], pair, strict=True):
            show_image(axes, image)
        difference = copies.distances[index] / np.sqrt(fakes_uint8[0].size)
        cells[row, column].set_title(f"{difference:.1f}", fontsize=9)
    figure.suptitle(
        "The 16 samples nearest to a training image, each above that image; "
        "root mean squared difference in grey levels",
        fontsize=10,
    )
    return figure
