"""Figures of a comparison, each with its caption; nothing is measured here.

Each figure is narrow enough for a phone, and can be drawn for a light page or a dark
one. `comparison_figures` and `image_figures` list them all.
"""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from analysis.checkerboard.figures import draw_spectra, power_limits_db
from analysis.checkerboard.layout import Layout
from analysis.checkerboard.measurement import NUM_EXAMPLES
from analysis.figures import WIDTH, new_figure, render, show_image, styles
from analysis.report.comparison import PREDICTORS, Source
from analysis.samples import Samples, halves
from analysis.statistics import Interval
from gan.data.images import tile

NUM_MAGNIFIED = 2
AMPLITUDE_TICKS = (-30, -10, -3, -1, 0, 1, 3, 10, 30, 100)
PREDICTOR_MARKERS = dict(zip(PREDICTORS, "^so", strict=True))


@dataclass(frozen=True)
class ReportFigure:
    """One figure with its texts.

    Attributes:
        name: name of its files.
        draw: draws it in the colors of the current theme.
        alt: what it shows, for a reader who cannot see it.
        caption: what to look for.
    """

    name: str
    draw: Callable[[], Figure]
    alt: str
    caption: str

    def url(self, theme: str) -> str:
        """Returns a URL that contains the figure itself."""
        data = base64.b64encode(render(self.draw, "svg", theme)).decode()
        return f"data:image/svg+xml;base64,{data}"

    def save(self, folder: Path) -> None:
        """Writes NAME.png and NAME.svg for a light page."""
        for form in ("png", "svg"):
            path = folder / f"{self.name}.{form}"
            path.write_bytes(render(self.draw, form))


def comparison_figures(sources: Sequence[Source]) -> list[ReportFigure]:
    """Lists the figures of numbers: amplitudes, frequencies, predictions, spectra."""
    num_rows = len(sources) * len(sources[0].frequencies)
    found = [
        ReportFigure(
            "amplitudes",
            partial(draw_alone, plot_amplitudes, sources, 2.4),
            "Amplitudes with 95 % intervals; the table above has the numbers.",
            "Points are the amplitudes of the pattern, and lines their 95 % intervals. "
            "Grey: this number of images cannot show a pattern that is weaker.",
        ),
        ReportFigure(
            "frequencies",
            partial(draw_alone, plot_frequencies, sources, 1.6 + 0.16 * num_rows),
            "Delta PNR of every frequency with 95 % intervals; the table below has the "
            "numbers.",
            "One row per frequency, in cycles per pixel. Those above the dotted line "
            "belong to the last upsampling. Right of zero the frequency is stronger "
            "than in real images, left of zero weaker. Grey: two sets of real images "
            "differ by as much.",
        ),
    ]
    if any(source.predicted for source in sources):
        found.append(
            ReportFigure(
                "predictions",
                partial(draw_alone, plot_predictions, sources, 4.4),
                "Measured against predicted amplitudes, with a line where both are "
                "equal.",
                "On the line a prediction was right. Geometry takes all taps of a "
                "kernel as equal. Weights takes the real kernels, and replaces what is "
                "not linear by its mean slope. Probe runs the real layers on flat "
                "fields. Below zero, real images are stronger at these frequencies.",
            )
        )
    arrays = [source.measurement.arrays for source in sources]
    limits = power_limits_db(*(a[k] for a in arrays for k in ("power", "real_power")))
    for number, source in enumerate(sources, start=1):
        power, real_power = (
            source.measurement.arrays[key] for key in ("power", "real_power")
        )
        layout = source.measurement.layout
        found.append(
            ReportFigure(
                f"spectra-{number}",
                partial(draw_spectra, power, real_power, layout, source.label, limits),
                f"Mean spectra of real images and of {source.label}, their ratio, and "
                "a cut along the diagonal.",
                f"{source.label}. Squares mark the frequencies of the last upsampling, "
                "circles those of the one before. In the ratio, red is stronger than "
                "in real images; a single red dot inside a mark is a checkerboard.",
            )
        )
    return found


def image_figures(sources: Sequence[Source], real: Samples) -> list[ReportFigure]:
    """Lists the figures of images: examples, and the patterns in them."""
    images = {"real": real.images_uint8[:NUM_EXAMPLES]}
    images |= {s.label: s.measurement.arrays["examples"] for s in sources}
    means = {"real": halves(real.images_uint8)[0].mean(axis=(0, 3))}
    means |= {s.label: s.measurement.arrays["pixel_mean"] for s in sources}
    layout = sources[0].measurement.layout
    names = " and ".join(images)
    return [
        ReportFigure(
            "samples",
            partial(draw_samples, images),
            f"Sixteen images each of: {names}.",
            "The first sixteen images of each set; nobody selected them.",
        ),
        ReportFigure(
            "patterns",
            partial(draw_patterns, images, means, layout),
            f"Two magnified images each of {names}, each beside the part of it that "
            "repeats every 2 or 4 pixels.",
            "Two images of each set, magnified. Beside each is the part of it that "
            "repeats every 2 or 4 pixels, multiplied as written; grey is zero. Edges "
            "leave something there in real images, too. On the right is the same part "
            "of the mean of all images, which keeps what they have in common.",
        ),
    ]


def draw_comparison(sources: Sequence[Source]) -> Figure:
    """Draws amplitudes, frequencies and predictions in one figure."""
    plots = [plot_amplitudes, plot_frequencies]
    if any(source.predicted for source in sources):
        plots.append(plot_predictions)
    figure = new_figure(4.2, 4.2 * len(plots))
    for axes, plot in zip(figure.subplots(1, len(plots)), plots, strict=True):
        plot(axes, sources)
    return figure


def draw_alone(
    plot: Callable[[Axes, Sequence[Source]], None],
    sources: Sequence[Source],
    height: float,
) -> Figure:
    """Draws one of the plots as a figure of its own."""
    figure = new_figure(height)
    plot(figure.subplots(), sources)
    return figure


def plot_amplitudes(axes: Axes, sources: Sequence[Source]) -> None:
    """Plots the amplitude of each upsampling, with what cannot be detected in grey."""
    names = [reading.upsampling for reading in sources[0].readings]
    points = [
        [(reading.amplitude, reading.detection_limit) for reading in source.readings]
        for source in sources
    ]
    plot_rows(axes, names, sources, points)
    axes.set_xlabel("amplitude A, grey levels")


def plot_frequencies(axes: Axes, sources: Sequence[Source]) -> None:
    """Plots delta PNR of each frequency, with what real images differ by in grey."""
    names = [frequency.label for frequency in sources[0].frequencies]
    points = [
        [(it.delta_pnr_db, it.real_half_width_db) for it in source.frequencies]
        for source in sources
    ]
    plot_rows(axes, names, sources, points)
    num_last = sum(frequency.layer == 1 for frequency in sources[0].frequencies)
    axes.axhline(num_last - 0.5, color="0.5", linewidth=0.8, linestyle=":")
    axes.set_xlabel("ΔPNR, dB: below 0 weaker, above 0 stronger than real")
    axes.set_ylabel("vertical, horizontal frequency")


def plot_rows(
    axes: Axes,
    names: Sequence[str],
    sources: Sequence[Source],
    points: Sequence[Sequence[tuple[Interval, float]]],
) -> None:
    """Plots a named row per quantity, and in it a point per source.

    Args:
        axes: where to draw.
        names: names of the rows, from top to bottom.
        sources: their labels go into the legend.
        points: for each source and row an interval, and half the width of a grey band
            around 0.
    """
    height = 0.7 / len(sources)
    for number, (source, style) in enumerate(styles(sources)):
        for row, (found, half_width) in enumerate(points[number]):
            y = row + height * (number + 0.5) - 0.35
            axes.barh(
                y, 2 * half_width, height, -half_width, color="0.5", alpha=0.3, zorder=0
            )
            label = None if row else source.label
            bar: Any = {"capsize": 2, "linestyle": "", "markersize": 5, **style}
            axes.errorbar([found.value], [y], xerr=errors(found), label=label, **bar)
    axes.axvline(0, color="0.5", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.legend(frameon=False, fontsize=8)


def errors(found: Interval) -> list[list[float]]:
    """Returns the distances of both limits for an error bar; none is negative."""
    below, above = found.value - found.low, found.high - found.value
    return [[max(0.0, below)], [max(0.0, above)]]


def plot_predictions(axes: Axes, sources: Sequence[Source]) -> None:
    """Plots measured against predicted amplitudes, and a line where both are equal."""
    largest = 1.0
    for source, style in styles(sources):
        for number, reading in enumerate(source.readings):
            found = reading.amplitude
            style |= {"fillstyle": "none" if number else "full", "markersize": 5}
            for predictor, predicted in reading.predicted.items():
                largest = max(largest, predicted, found.high)
                style["marker"] = PREDICTOR_MARKERS[predictor]
                axes.errorbar([predicted], [found.value], yerr=errors(found), **style)
    for scale, axis in ((axes.set_xscale, axes.xaxis), (axes.set_yscale, axes.yaxis)):
        scale("symlog", linthresh=1)
        axis.set_major_locator(FixedLocator(AMPLITUDE_TICKS))
        axis.set_major_formatter("{x:g}")
    axes.plot([0, 2 * largest], [0, 2 * largest], color="0.5", linewidth=0.8)
    axes.set(xlabel="predicted A, grey levels", ylabel="measured A, grey levels")
    axes.set_xlim(-0.3, 2 * largest)
    entries = [(name, marker, "full") for name, marker in PREDICTOR_MARKERS.items()]
    for number, reading in enumerate(sources[0].readings):
        entries.append((reading.upsampling, "D", "none" if number else "full"))
    for label, marker, fill in entries:
        axes.plot([], [], marker, color="0.5", fillstyle=fill, label=label)
    for source, style in styles(sources):
        axes.plot([], [], color=style["color"], label=source.label)
    axes.legend(frameon=False, fontsize=8)


def draw_samples(
    images: Mapping[str, np.ndarray], columns: int = 8, rows: int = 2
) -> Figure:
    """Draws the first images of each set, one block below the other.

    Args:
        images: uint8 (N, H, W, C) by label.
        columns: number of images in a row of a block.
        rows: number of rows of a block.
    """
    figure = new_figure(len(images) * (WIDTH * rows / columns + 0.25))
    blocks = figure.subplots(len(images), 1, squeeze=False)[:, 0]
    for axes, (label, pictures) in zip(blocks, images.items(), strict=True):
        show_image(axes, tile(pictures[: rows * columns], columns))
        axes.set_title(label, loc="left")
    return figure


def draw_patterns(
    images: Mapping[str, np.ndarray], means: Mapping[str, np.ndarray], layout: Layout
) -> Figure:
    """Draws two images of each set beside their patterns, and that of the mean image.

    Args:
        images: uint8 (N, H, W, C) by label; the first NUM_MAGNIFIED are shown.
        means: mean over all images of a set (H, W), by label.
        layout: frequencies of the upsamplings.
    """
    num_columns = 2 * NUM_MAGNIFIED + 1
    figure = new_figure(len(images) * (WIDTH / num_columns + 0.2))
    cells = figure.subplots(len(images), num_columns, squeeze=False)
    own = {
        label: isolate_pattern(pictures[:NUM_MAGNIFIED].mean(axis=3), layout)
        for label, pictures in images.items()
    }
    common = {k: isolate_pattern(mean[None], layout) for k, mean in means.items()}
    gains = display_gain(own.values()), display_gain(common.values())
    for row, (label, pictures) in zip(cells, images.items(), strict=True):
        for place, pattern in enumerate(own[label]):
            show_image(row[2 * place], pictures[place])
            show_pattern(row[2 * place + 1], pattern, gains[0])
        show_pattern(row[-1], common[label][0], gains[1])
        row[0].set_title(label, loc="left")
    for axes in cells[0, 1:-1:2]:
        axes.set_title(f"pattern ×{gains[0]}", loc="right", fontsize=7)
    cells[0, -1].set_title(f"in all ×{gains[1]}", loc="right", fontsize=7)
    return figure


def isolate_pattern(levels: np.ndarray, layout: Layout) -> np.ndarray:
    """Keeps what images (N, H, W) have at the frequencies of the upsamplings.

    Returns:
        float64 (N, height, width), in the units of `levels`.
    """
    height, width = layout.shape
    kept = np.zeros(layout.shape, bool)
    for line in layout.lines:
        kept[line.row, line.column] = kept[-line.row, -line.column] = True
    return np.fft.ifft2(np.fft.fft2(levels[:, :height, :width]) * kept).real


def display_gain(patterns: Iterable[np.ndarray]) -> int:
    """Returns the power of two at which the strongest pattern fills the range."""
    strongest = max(np.quantile(np.abs(pattern), 0.99) for pattern in patterns)
    return int(2 ** max(0, np.floor(np.log2(127 / max(strongest, 0.5)))))


def show_pattern(axes: Axes, pattern: np.ndarray, gain: int) -> None:
    """Shows a pattern around mid-grey."""
    show_image(axes, np.clip(128 + gain * pattern, 0, 255))
