"""Figures of mean spectra and of the fixed pattern; nothing is measured here.

`spectra`, `report`, `study` and TensorBoard show these figures.
"""

import itertools
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.checkerboard.frequencies import Layout
from analysis.figures import new_figure

RATIO_LIMIT_DB = 20
LOWEST_POWER = 1e-2  # in squared grey levels; less is shown as this
TICKS = (-0.5, 0, 0.5)


def draw_spectra(
    power: np.ndarray,
    real_power: np.ndarray,
    layout: Layout,
    label: str = "generated",
    limits_db: tuple[float, float] | None = None,
) -> Figure:
    """Draws two mean spectra, their ratio, and a cut along the diagonal.

    Args:
        power: (height, width), of the generated images, squared grey levels.
        real_power: the same of the real images.
        layout: size of the images, and frequencies of the upsamplings.
        label: title of the generated spectrum.
        limits_db: limits of the color scale; None: those of the two spectra.
    """
    limits = limits_db or power_limits_db(power, real_power)
    real, generated = to_db(real_power), to_db(power)
    figure = new_figure(5.6)
    panels = figure.subplots(2, 2).ravel()
    show_spectrum(panels[0], real, limits, "viridis", "real")
    image = show_spectrum(panels[1], generated, limits, "viridis", label)
    for axes in panels[:2]:
        mark_frequencies(axes, layout, "white")
    ratio = show_ratio(panels[2], power, real_power, layout)
    panels[2].set_title("ratio")
    below: Any = {"location": "bottom", "aspect": 30}
    figure.colorbar(image, ax=list(panels[:2]), label="dB of a grey level²", **below)
    figure.colorbar(ratio, ax=panels[2], label="dB", extend="both", **below)
    side = min(layout.shape)
    bins = np.arange(side // 2 + 1)
    for values, name, style in ((real, "real", "--"), (generated, "generated", "-")):
        panels[3].plot(bins / side, values[bins, bins], style, label=name)
    for row in {abs(float(frequency.row)) for frequency in layout.frequencies}:
        panels[3].axvline(row, color="0.5", linewidth=0.7, zorder=0)
    panels[3].set(title="along the diagonal", xlim=(0, 0.5), xticks=(0, 0.25, 0.5))
    panels[3].set(ylim=limits, xlabel="cycles per pixel", ylabel="dB")
    panels[3].legend(frameon=False, fontsize=8)
    for axes in panels:
        axes.title.set_fontsize(9)
    return figure


def power_limits_db(*powers: np.ndarray) -> tuple[float, float]:
    """Returns the lowest and the highest power of several spectra, in dB."""
    low, high = min(p.min() for p in powers), max(p.max() for p in powers)
    return 10 * np.log10(max(low, LOWEST_POWER)), 10 * np.log10(high)


def to_db(power: np.ndarray) -> np.ndarray:
    """Powers in dB of a squared grey level."""
    return 10 * np.log10(np.maximum(power, 1e-12))


def show_spectrum(
    axes: Axes,
    spectrum_db: np.ndarray,
    limits: tuple[float, float],
    colors: str,
    title: str = "",
) -> Any:
    """Shows a whole spectrum with DC in the middle; 1/2 appears on both sides."""
    sides = spectrum_db.shape
    pads = [(0, 1 - side % 2) for side in sides]
    shown = np.pad(np.fft.fftshift(spectrum_db), pads, mode="wrap")
    bottom, right = ((side // 2 + 0.5) / side for side in sides)
    axes.set(title=title, xticks=TICKS, yticks=TICKS)
    return axes.imshow(
        shown,
        cmap=colors,
        vmin=limits[0],
        vmax=limits[1],
        extent=(-right, right, bottom, -bottom),
    )


def show_ratio(
    axes: Axes, power: np.ndarray, real_power: np.ndarray, layout: Layout
) -> Any:
    """Shows a spectrum divided by that of real images; red means stronger."""
    ratio_db = to_db(power) - to_db(real_power)
    limits = -RATIO_LIMIT_DB, RATIO_LIMIT_DB
    image = show_spectrum(axes, ratio_db, limits, "RdBu_r")
    mark_frequencies(axes, layout, "black")
    return image


def mark_frequencies(axes: Axes, layout: Layout, color: str) -> None:
    """Marks the frequencies of the last upsampling (squares) and of earlier ones."""
    size = 6 if len(layout.frequencies) < 20 else 3
    for frequency in layout.frequencies:
        marker = "s" if frequency.stage == 1 else "o"
        row, column = float(frequency.row), float(frequency.column)
        for sign, i, j in itertools.product((1, -1), (-1, 0, 1), (-1, 0, 1)):
            y, x = sign * row + i, sign * column + j
            if max(abs(x), abs(y)) <= 0.5:
                axes.plot(x, y, marker, ms=size, mfc="none", mec=color, clip_on=False)


def draw_tile(axes: Axes, tile: np.ndarray, limit: float | None = None) -> None:
    """Shows the fixed pattern beyond that of real images, repeated.

    Args:
        axes: where to draw.
        tile: (period, period, C), grey levels about 0; colour is drawn as its mean.
        limit: grey levels at the ends of the color scale; None: those of the tile.
    """
    shown = tile.mean(axis=2)
    # A pattern of less than one level fills the range as little as it can be seen.
    limit = limit or max(float(np.abs(shown).max()), 1.0)
    copies = max(2, 8 // len(shown))
    image = axes.imshow(
        np.tile(shown, (copies, copies)), cmap="RdBu_r", vmin=-limit, vmax=limit
    )
    axes.set(title="fixed pattern beyond real images", xticks=[], yticks=[])
    axes.title.set_fontsize(9)
    axes.figure.colorbar(image, ax=axes, label="grey levels", aspect=12)
