"""Figures of a report that show images and spectra; they measure nothing."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.checkerboard.figures import RATIO_LIMIT_DB, mark_lines, show_spectrum
from analysis.checkerboard.layout import Layout
from analysis.checkerboard.profiles import full
from analysis.report.comparison import Subject
from analysis.report.comparison_figures import WIDTH, new_figure
from gan.data.images import tile

NUM_MAGNIFIED = 2
Images = Mapping[str, np.ndarray]  # uint8 (N, H, W, C) by label, the real ones first


def draw_samples(images: Images, columns: int = 8, rows: int = 2) -> Figure:
    """The first images of each set, one block below the other."""
    figure = new_figure(len(images) * (WIDTH * rows / columns + 0.25))
    blocks = figure.subplots(len(images), 1, squeeze=False)[:, 0]
    for axes, (label, pictures) in zip(blocks, images.items(), strict=True):
        show_picture(axes, tile(pictures[: rows * columns], columns))
        axes.set_title(label, loc="left")
    return figure


def show_picture(axes: Axes, image_uint8: np.ndarray) -> None:
    """One image without axes."""
    axes.imshow(image_uint8.squeeze(), cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()


def isolate(levels: np.ndarray, layout: Layout) -> np.ndarray:
    """What pictures (N, H, W) have at the lines alone: (N, height, width)."""
    height, width = layout.shape
    kept = np.zeros(layout.shape, bool)
    for line in layout.lines:
        kept[line.row, line.column] = kept[-line.row, -line.column] = True
    return np.fft.ifft2(np.fft.fft2(levels[:, :height, :width]) * kept).real


def gain_for(patterns: Iterable[np.ndarray]) -> int:
    """The power of two that makes the strongest pattern fill the range."""
    strongest = max(np.quantile(np.abs(pattern), 0.99) for pattern in patterns)
    return int(2 ** max(0, np.floor(np.log2(127 / max(strongest, 0.5)))))


def draw_patterns(images: Images, means: Images, layout: Layout) -> Figure:
    """Images of each set, each beside its pattern; last that of a set's mean.

    Args:
        images: the first NUM_MAGNIFIED of each set are shown.
        means: (H, W), of all images of a set.
        layout: where the lines are.
    """
    across = 2 * NUM_MAGNIFIED + 1
    figure = new_figure(len(images) * (WIDTH / across + 0.2))
    cells = figure.subplots(len(images), across, squeeze=False)
    each = {
        k: isolate(i[:NUM_MAGNIFIED].mean(axis=3), layout) for k, i in images.items()
    }
    common = {k: isolate(mean[None], layout) for k, mean in means.items()}
    gains = gain_for(each.values()), gain_for(common.values())
    for row, (label, pictures) in zip(cells, images.items(), strict=True):
        for place, pattern in enumerate(each[label]):
            show_picture(row[2 * place], pictures[place])
            show_pattern(row[2 * place + 1], pattern, gains[0])
        show_pattern(row[-1], common[label][0], gains[1])
        row[0].set_title(label, loc="left")
    for axes in cells[0, 1:-1:2]:
        axes.set_title(f"pattern ×{gains[0]}", loc="right", fontsize=7)
    cells[0, -1].set_title(f"in all ×{gains[1]}", loc="right", fontsize=7)
    return figure


def show_pattern(axes: Axes, pattern: np.ndarray, gain: int) -> None:
    """A pattern around mid-grey."""
    show_picture(axes, np.clip(128 + gain * pattern, 0, 255))


def spectrum_limits(subjects: Sequence[Subject]) -> tuple[float, float]:
    """Lowest and highest power of all spectra, in dB."""
    arrays = [subject.measurement.arrays for subject in subjects]
    powers = [a[name] for a in arrays for name in ("power", "real_power")]
    return (
        10 * np.log10(max(min(p.min() for p in powers), 1e-2)),
        10 * np.log10(max(p.max() for p in powers)),
    )


def draw_spectrum(subject: Subject, limits: tuple[float, float]) -> Figure:
    """Mean spectra, real and generated, their ratio, and a cut along the diagonal."""
    layout, arrays = subject.measurement.layout, subject.measurement.arrays
    real, generated = (
        10 * np.log10(full(arrays[name], layout.shape))
        for name in ("real_power", "power")
    )
    figure = new_figure(5.6)
    panels = figure.subplots(2, 2).ravel()
    ratio_limits = -RATIO_LIMIT_DB, RATIO_LIMIT_DB
    show_spectrum(panels[0], real, limits, "viridis", "real")
    image = show_spectrum(panels[1], generated, limits, "viridis", subject.label)
    ratio = show_spectrum(panels[2], generated - real, ratio_limits, "RdBu_r", "ratio")
    under: Any = {"location": "bottom", "aspect": 30}
    figure.colorbar(image, ax=list(panels[:2]), label="dB of a grey level²", **under)
    figure.colorbar(ratio, ax=panels[2], label="dB", extend="both", **under)
    for axes, color in zip(panels, ("white", "white", "black"), strict=False):
        mark_lines(axes, layout, color, size=6)
        axes.set(xticks=(-0.5, 0, 0.5), yticks=(-0.5, 0, 0.5))
    side = min(layout.shape)
    steps = np.arange(side // 2 + 1)
    for values, label, style in ((real, "real", "--"), (generated, "generated", "-")):
        panels[3].plot(steps / side, values[steps, steps], style, label=label)
    for row in {line.row for line in layout.lines}:
        panels[3].axvline(row / layout.shape[0], color="0.5", linewidth=0.7, zorder=0)
    panels[3].set(title="along the diagonal", xlim=(0, 0.5), xticks=(0, 0.25, 0.5))
    panels[3].set(ylim=limits, xlabel="cycles per pixel", ylabel="dB")
    panels[3].legend(frameon=False, fontsize=8)
    return figure


def draw_profiles(profiles: Mapping[str, np.ndarray]) -> Figure:
    """Azimuthal profiles as papers plot them: mean and standard deviation of images."""
    figure = new_figure(2.8)
    axes = figure.subplots()
    for place, (label, values) in enumerate(profiles.items()):
        # Real images take no colour from a subject.
        color = matplotlib.rcParams["text.color"] if not place else f"C{place - 1}"
        rings, mean = np.arange(1, values.shape[1] + 1), values.mean(axis=0)
        axes.plot(rings, mean, label=label, color=color)
        spread = values.std(axis=0)
        axes.fill_between(rings, mean - spread, mean + spread, color=color, alpha=0.15)
    axes.set(xlabel="ring", ylabel="log magnitude, scaled to 0..1")
    axes.legend(frameon=False)
    return figure


def draw_maps(maps: Mapping[str, np.ndarray]) -> Figure:
    """Smoothed maps in dB, DC in the middle, on the published scale."""
    columns = min(3, len(maps))
    rows = -(-len(maps) // columns)
    figure = new_figure(rows * (WIDTH / columns + 0.3))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(maps) :]:
        axes.set_axis_off()
    extent = (-0.5, 0.5, 0.5, -0.5)
    for axes, (label, values) in zip(panels, maps.items(), strict=False):
        image = axes.imshow(values, cmap="Blues", vmin=-40, vmax=20, extent=extent)
        axes.set(xticks=(-0.5, 0, 0.5), yticks=(-0.5, 0, 0.5))
        axes.set_title(label, fontsize=9)
    figure.colorbar(image, ax=list(panels), label="dB", location="bottom", shrink=0.6)
    return figure
