"""Figures of spectra, readings and the fixed pattern; nothing is measured here.

Built on matplotlib's Agg canvas directly, so that no window system is ever asked.
"""

import itertools
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.checkerboard.frequencies import Layout
from analysis.checkerboard.measurement import Measurement

RATIO_LIMIT_DB = 20
TICKS = (-0.5, -0.25, 0, 0.25, 0.5)
SMALLEST_TILE_SCALE = 1.0  # grey levels; a weaker fixed pattern looks as weak as it is


def draw_measurement(measurement: Measurement) -> Figure:
    """Spectra of real and generated images, their ratio, and the fixed pattern."""
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 4)
    arrays = measurement.arrays
    draw_spectra(panels[:3], arrays["power"], arrays["real_power"], measurement.layout)
    draw_tile(panels[3], measurement.tile)
    figure.suptitle(measurement.facts["samples"]["name"])
    return figure


def spectra_figure(
    power: np.ndarray, real_power: np.ndarray, layout: Layout, title: str
) -> Figure:
    """The three panels of spectra alone, as TensorBoard shows them while training."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    draw_spectra(figure.subplots(1, 3), power, real_power, layout)
    figure.suptitle(title)
    return figure


def draw_spectra(
    panels: Any, power: np.ndarray, real_power: np.ndarray, layout: Layout
) -> None:
    """Mean spectra of real and generated images and their ratio, (0, 0) in the middle.

    Args:
        panels: three axes.
        power: of the generated images, (height, width), squared grey levels.
        real_power: of the real ones.
        layout: of both; its grid frequencies are marked, squares for the last stage.
    """
    real_db, generated_db = (
        10 * np.log10(np.maximum(values, 1e-12)) for values in (real_power, power)
    )
    low, high = min(real_db.min(), generated_db.min()), real_db.max()
    show_spectrum(panels[0], real_db, (low, high), "viridis", "real")
    image = show_spectrum(panels[1], generated_db, (low, high), "viridis", "generated")
    bar = panels[1].figure.colorbar
    bar(image, ax=panels[1], label="dB of a squared grey level", shrink=0.8)
    limits = -RATIO_LIMIT_DB, RATIO_LIMIT_DB
    image = show_spectrum(panels[2], generated_db - real_db, limits, "RdBu_r", "ratio")
    bar(image, ax=panels[2], label="dB", extend="both", shrink=0.8)
    for axes, color in zip(panels, ("white", "white", "black"), strict=True):
        mark_frequencies(axes, layout, color)
        axes.set_xlabel("horizontal, cycles per pixel")
    panels[0].set_ylabel("vertical")


def show_spectrum(
    axes: Axes,
    spectrum_db: np.ndarray,
    limits: tuple[float, float],
    colors: str,
    title: str,
) -> Any:
    """Draws a spectrum in dB, (0, 0) in the middle; 1/2 appears on both sides."""
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


def mark_frequencies(axes: Axes, layout: Layout, color: str) -> None:
    """Marks the grid frequencies wherever they are drawn."""
    size = 8 if len(layout.frequencies) < 20 else 4
    for frequency in layout.frequencies:
        marker = "s" if frequency.stage == 1 else "o"
        row, column = float(frequency.row), float(frequency.column)
        for sign, i, j in itertools.product((1, -1), (-1, 0, 1), (-1, 0, 1)):
            y, x = sign * row + i, sign * column + j
            if max(abs(x), abs(y)) <= 0.5:
                axes.plot(x, y, marker, ms=size, mfc="none", mec=color, clip_on=False)


def draw_tile(axes: Axes, tile: np.ndarray) -> None:
    """The fixed pattern of a few periods, as the mean image has it at each phase.

    Args:
        axes: where to draw.
        tile: (period, period, C), grey levels about 0.
    """
    shown = tile.mean(axis=2) if tile.shape[2] == 3 else tile[..., 0]
    limit = max(float(np.abs(shown).max()), SMALLEST_TILE_SCALE)
    copies = np.tile(shown, (2, 2) if len(shown) > 4 else (3, 3))
    image = axes.imshow(copies, cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes.set(title="fixed pattern, repeated", xticks=[], yticks=[])
    axes.figure.colorbar(image, ax=axes, label="grey levels", shrink=0.8)


def to_pixels(figure: Figure) -> np.ndarray:
    """Renders a figure: uint8 (height, width, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
