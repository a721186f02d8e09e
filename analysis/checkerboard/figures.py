"""Figures from measured arrays; it measures nothing itself.

Built on matplotlib's Agg canvas directly, so that no window system is ever asked.
"""

import itertools
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.checkerboard.layout import Layout
from analysis.checkerboard.profiles import full

RATIO_LIMIT_DB = 20
TICKS = (-0.5, -0.25, 0, 0.25, 0.5)


def draw_spectra(
    power: np.ndarray, real_power: np.ndarray, layout: Layout, title: str = ""
) -> Figure:
    """Mean spectra of real and generated images and their ratio, lines marked.

    Args:
        power: half spectrum of the generated images.
        real_power: half spectrum of the real ones.
        layout: of both.
        title: above all three.

    Returns:
        A figure of three panels, DC in the middle, real and generated on one scale.
    """
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    real_db, generated_db = (
        10 * np.log10(full(half, layout.shape)) for half in (real_power, power)
    )
    low, high = min(real_db.min(), generated_db.min()), real_db.max()
    show_spectrum(panels[0], real_db, (low, high), "viridis", "real")
    image = show_spectrum(panels[1], generated_db, (low, high), "viridis", "generated")
    figure.colorbar(image, ax=panels[1], label="dB of a grey level²", shrink=0.8)
    limits = -RATIO_LIMIT_DB, RATIO_LIMIT_DB
    image = show_spectrum(panels[2], generated_db - real_db, limits, "RdBu_r", "ratio")
    figure.colorbar(image, ax=panels[2], label="dB", extend="both", shrink=0.8)
    for axes, color in zip(panels, ("white", "white", "black"), strict=True):
        mark_lines(axes, layout, color)
    panels[0].set_ylabel("vertical")
    figure.supxlabel(
        "horizontal, cycles per pixel (squares: last upsampling)", fontsize="medium"
    )
    figure.suptitle(title)
    return figure


def show_spectrum(
    axes: Axes,
    spectrum_db: np.ndarray,
    limits: tuple[float, float],
    colors: str,
    title: str,
) -> Any:
    """Draws a whole spectrum in dB, DC in the middle; 1/2 appears on both sides."""
    sides = spectrum_db.shape
    pads = [(0, 1 - side % 2) for side in sides]
    shown = np.pad(np.fft.fftshift(spectrum_db), pads, mode="wrap")
    bottom, right = ((side // 2 + 0.5) / side for side in sides)
    axes.set_title(title)
    axes.set(xticks=TICKS, yticks=TICKS)
    return axes.imshow(
        shown,
        cmap=colors,
        vmin=limits[0],
        vmax=limits[1],
        extent=(-right, right, bottom, -bottom),
    )


def mark_lines(axes: Axes, layout: Layout, color: str, size: float = 8) -> None:
    """Marks the bins of the strides wherever they are drawn."""
    for line in layout.lines:
        marker = "s" if line.layer == 1 else "o"
        row, column = line.row / layout.shape[0], line.column / layout.shape[1]
        for sign, i, j in itertools.product((1, -1), (-1, 0, 1), (-1, 0, 1)):
            y, x = sign * row + i, sign * column + j
            if max(abs(x), abs(y)) <= 0.5:
                axes.plot(x, y, marker, ms=size, mfc="none", mec=color, clip_on=False)
