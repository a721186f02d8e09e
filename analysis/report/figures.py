"""Figures of a comparison with their captions, for a light page or a dark one."""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from analysis.checkerboard.figures import draw_spectra, draw_tile, power_limits_db
from analysis.checkerboard.frequencies import Layout
from analysis.checkerboard.measurement import NUM_EXAMPLES
from analysis.checkerboard.meter import Estimate, Reading
from analysis.checkerboard.words import decibels
from analysis.figures import WIDTH, new_figure, render, show_image, styles
from analysis.report.comparison import PREDICTORS, ComparedSource
from analysis.samples import Samples
from gan.data.images import tile

NUM_MAGNIFIED = 2
MAX_ROWS = 24  # of a figure; with more frequencies it shows the important ones
LOWEST_DB = -100.0  # of a drawn gain; a smaller one stands at the edge
LEVEL_TICKS = (0, 1, 3, 10, 30, 100)
PREDICTOR_MARKERS = dict(zip(PREDICTORS, "^so", strict=True))


@dataclass(frozen=True)
class Scale:
    """One of the readings as an axis; `place` converts from the reading's unit."""

    reading: str
    label: str
    place: Callable[[float], float]


GAIN = Scale(
    "imaging_gain_percent",
    "imaging gain, dB",
    lambda percent: max(decibels(percent), LOWEST_DB),
)
FIXED = Scale("fixed_pattern_levels", "fixed pattern, grey levels", float)


@dataclass(frozen=True)
class ReportFigure:
    """One figure with its texts; `alt` is for a reader who cannot see it."""

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


def comparison_figures(sources: Sequence[ComparedSource]) -> list[ReportFigure]:
    """Lists the figures of numbers: readings, predictions, fixed patterns, spectra."""
    how = (
        "Points are values with their 95 % intervals; full points are patterns. An "
        "arrow means that the value may be 0 and is at most as large as drawn. Grey: "
        "the meter calls nothing a pattern that is not larger. Black strokes: real "
        "images."
    )
    if len(drawn_frequencies(sources)) < len(sources[0].readings):
        how += " Only frequencies with a pattern, and one per upsampling, are drawn."
    found = [
        ReportFigure(
            "gains",
            partial(draw_readings, GAIN, sources),
            "Imaging gain at every frequency with 95 % intervals, limits and real "
            "images; the table has the numbers.",
            "The part of a pattern that follows the content of a picture, in dB: -20 "
            "dB is 10 % of the contrast, -40 dB 1 %, -60 dB 0.1 %. One row per "
            "frequency, in cycles per pixel (vertical, horizontal). " + how,
        ),
        ReportFigure(
            "fixed",
            partial(draw_readings, FIXED, sources),
            "Fixed pattern at every frequency with 95 % intervals, limits and real "
            "images; the table has the numbers.",
            "The part of a pattern that is the same in every picture, in grey levels "
            "(root mean square). It is drawn as the part that follows the content is.",
        ),
        ReportFigure(
            "tiles",
            partial(draw_tiles, sources),
            "The fixed pattern of every source, repeated, on one scale.",
            "What is the same in all pictures of a source at the frequencies of its "
            "upsamplings, less that of real images. One period is repeated. All "
            "sources have the same scale.",
        ),
    ]
    if any(source.predicted for source in sources):
        found.append(
            ReportFigure(
                "predictions",
                partial(draw_predictions, sources),
                "Measured against predicted gains and fixed patterns, with a line "
                "where both are equal.",
                "On the line a prediction was right. Each point is one frequency, with "
                "95 % intervals; a measured value that may be 0 stands at its upper "
                "limit. "
                "Geometry takes all taps of a kernel as equal. Weights takes the real "
                "kernels, and replaces what is not linear by its mean slope. Probe "
                "runs the real layers on constant maps.",
            )
        )
    arrays = [source.measurement.arrays for source in sources]
    powers = [(it["power"], it["real_power"]) for it in arrays]
    limits = power_limits_db(*(power for pair in powers for power in pair))
    for number, (source, pair) in enumerate(zip(sources, powers, strict=True), start=1):
        layout = source.measurement.layout
        found.append(
            ReportFigure(
                f"spectra-{number}",
                partial(draw_spectra, *pair, layout, source.label, limits),
                f"Mean spectra of real images and of {source.label}, their ratio, and "
                "a cut along the diagonal.",
                f"{source.label}. Squares mark the frequencies of the last upsampling, "
                "circles those of earlier ones. In the ratio, red is stronger than "
                "in real images; a single red dot inside a mark is a checkerboard.",
            )
        )
    return found


def image_figures(
    sources: Sequence[ComparedSource], real: Samples
) -> list[ReportFigure]:
    """Lists the figures of images: examples, and the patterns in them."""
    first = sources[0].measurement
    images = {"real": real.images_uint8[:NUM_EXAMPLES]}
    images |= {s.label: s.measurement.arrays["examples"] for s in sources}
    means = {"real": first.arrays["real_mean_image"]}
    means |= {s.label: s.measurement.arrays["mean_image"] for s in sources}
    names = " and ".join(images)
    *shorter, longest = sorted({r.frequency.period for r in first.readings})
    periods = f"{', '.join(map(str, shorter))} or {longest}" if shorter else longest
    return [
        ReportFigure(
            "samples",
            partial(draw_samples, images),
            f"Sixteen images each of: {names}.",
            "The first sixteen images of each set; nobody selected them.",
        ),
        ReportFigure(
            "patterns",
            partial(draw_patterns, images, means, first.layout),
            f"Two magnified images each of {names}, each beside the part of it that "
            f"repeats every {periods} pixels.",
            "Two images of each set, magnified. Beside each is the part of it that "
            f"repeats every {periods} pixels, multiplied as written; grey is zero. "
            "Edges leave something there in real images, too. On the right is the same "
            "part of the mean of all images, which keeps what they have in common.",
        ),
    ]


def draw_comparison(sources: Sequence[ComparedSource]) -> Figure:
    """Draws gains, fixed patterns and predictions in one figure."""
    columns = 4 if any(source.predicted for source in sources) else 2
    figure = new_figure(max(4.2, height_of(sources)), 4.2 * columns)
    panels = figure.subplots(1, columns)
    for place, scale in enumerate((GAIN, FIXED)):
        plot_readings(scale, panels[place], sources)
        if columns > 2:
            plot_predictions(scale, panels[place + 2], sources)
    return figure


def draw_readings(scale: Scale, sources: Sequence[ComparedSource]) -> Figure:
    """Draws one of the readings at every frequency."""
    figure = new_figure(height_of(sources))
    plot_readings(scale, figure.subplots(), sources)
    return figure


def height_of(sources: Sequence[ComparedSource]) -> float:
    """Height of a figure of readings in inches."""
    return 1.9 + 0.17 * len(sources) * len(drawn_frequencies(sources))


def drawn_frequencies(sources: Sequence[ComparedSource]) -> list[int]:
    """Indices of the frequencies of a figure, those of the last upsampling first."""
    readings = sources[0].readings
    kept = set(range(len(readings)))
    if len(kept) > MAX_ROWS:
        kept = {index for source in sources for index in source.one_per_stage()}
    frequencies = [reading.frequency for reading in readings]
    return sorted(kept, key=lambda k: (frequencies[k].stage, frequencies[k].on_axis))


def plot_readings(scale: Scale, axes: Axes, sources: Sequence[ComparedSource]) -> None:
    """Plots one of the readings: a row per frequency, in it a point per source."""
    drawn = drawn_frequencies(sources)
    height = 0.8 / len(sources)
    for number, (source, style) in enumerate(styles(sources)):
        for row, index in enumerate(drawn):
            reading = getattr(source.readings[index], scale.reading)
            y = row + height * (number + 0.5) - 0.4
            plot_reading(scale, axes, reading, (y, height), style)
    if scale is FIXED:
        use_levels(axes, "x")
    frequencies = [sources[0].readings[index].frequency for index in drawn]
    for row in range(1, len(drawn)):
        if frequencies[row].stage != frequencies[row - 1].stage:
            axes.axhline(row - 0.5, color="0.5", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(drawn)), [frequency.name for frequency in frequencies])
    axes.set(ylim=(len(drawn) - 0.5, -0.5), xlabel=scale.label)
    for source, style in styles(sources):
        axes.plot([], [], linestyle="", label=source.label, **style)
    axes.plot([], [], "|", color=real_color(), label="real images")
    axes.plot([], [], linewidth=6, color="0.5", alpha=0.3, label="below the limit")
    where: Any = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 2}
    axes.legend(columnspacing=1, frameon=False, fontsize=8, **where)


def plot_reading(
    scale: Scale, axes: Axes, reading: Reading, row: tuple[float, float], style: Any
) -> None:
    """Plots a reading in a row (middle, height), with its limit and real images."""
    y, height = row
    lowest, limit = scale.place(0), scale.place(reading.limit)
    axes.barh(y, limit - lowest, height, lowest, color="0.5", alpha=0.3, zorder=0)
    real = reading.real.value if reading.real.low > 0 else reading.real.high
    color = real_color()
    axes.plot([scale.place(real)], [y], "|", color=color, markersize=6, zorder=3)
    found = reading.samples
    fill = "full" if reading.found else "none"
    bar: Any = {"linestyle": "", "markersize": 4, "fillstyle": fill, **style}
    if found.low > 0:
        value = scale.place(found.value)
        axes.errorbar([value], [y], xerr=errors(scale, found), capsize=2, **bar)
    else:
        high = scale.place(found.high)
        axes.plot([lowest, high], [y, y], color=style["color"], linewidth=1)
        axes.plot([high], [y], **(bar | {"marker": "<"}))


def real_color() -> str:
    """The color of real images, which is legible on a light and on a dark page."""
    return matplotlib.rcParams["text.color"]


def errors(scale: Scale, found: Estimate) -> list[list[float]]:
    """Returns the distances of both limits for an error bar; none is negative."""
    low, value, high = map(scale.place, (found.low, found.value, found.high))
    return [[max(0.0, value - low)], [max(0.0, high - value)]]


def use_levels(axes: Axes, *names: str) -> None:
    """Makes axes ("x", "y") of grey levels linear up to 1 and logarithmic beyond."""
    for name in names:
        getattr(axes, f"set_{name}scale")("symlog", linthresh=1)
        axis = getattr(axes, f"{name}axis")
        axis.set_major_locator(FixedLocator(LEVEL_TICKS))
        axis.set_major_formatter("{x:g}")


def draw_tiles(sources: Sequence[ComparedSource]) -> Figure:
    """Draws the fixed pattern of each source, all on one scale."""
    tiles = [source.measurement.tile for source in sources]
    limit = max(1.0, *(float(np.abs(it).max()) for it in tiles))
    columns = min(len(sources), 2)
    rows = -(-len(sources) // columns)
    figure = new_figure(2.2 * rows)
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in cells:
        axes.set_axis_off()
    for axes, source, pattern in zip(cells, sources, tiles, strict=False):
        title = source.label
        if pattern.shape[2] == 1:
            draw_tile(axes, pattern, limit)
        else:  # a pattern of chroma has no mean over the channels
            copies = max(2, 8 // len(pattern))
            shown = 0.5 + np.tile(pattern, (copies, copies, 1)) / (2 * limit)
            axes.imshow(np.clip(shown, 0, 1))
            title += f" (black to white: ±{limit:.2g} levels)"
        axes.set_title(title, fontsize=9)
    return figure


def draw_predictions(sources: Sequence[ComparedSource]) -> Figure:
    """Draws measured against predicted gains, and fixed patterns below them."""
    figure = new_figure(7.6)
    for axes, scale in zip(figure.subplots(2, 1), (GAIN, FIXED), strict=True):
        plot_predictions(scale, axes, sources)
    return figure


def plot_predictions(
    scale: Scale, axes: Axes, sources: Sequence[ComparedSource]
) -> None:
    """Plots measured against predicted values, and a line where both are equal."""
    lowest = largest = scale.place(0)
    for source, style in styles(sources):
        for predictor, predictions in source.predicted.items():
            style |= {"marker": PREDICTOR_MARKERS[predictor], "fillstyle": "none"}
            for one, reading in zip(predictions, source.readings, strict=True):
                x = getattr(one, scale.reading)
                y = getattr(reading, scale.reading).samples
                if y.low <= 0:  # it may be 0, so that its upper limit is all we know
                    y = Estimate(y.high, 0.0, y.high)
                point: Any = {"x": scale.place(x.value), "y": scale.place(y.value)}
                point |= {"xerr": errors(scale, x), "yerr": errors(scale, y)}
                axes.errorbar(**point, markersize=4, elinewidth=0.6, **style)
                largest = max(largest, *(scale.place(it.high) for it in (x, y)))
    axes.plot([lowest, largest], [lowest, largest], color="0.5", linewidth=0.8)
    limits = lowest - 5, largest + 5
    if scale is FIXED:
        use_levels(axes, "x", "y")
        limits = -0.2, 1.5 * max(largest, 1.0)
    axes.set(xlabel=f"predicted {scale.label}", xlim=limits, ylim=limits)
    axes.set_ylabel(f"measured {scale.label}")
    for label, marker in PREDICTOR_MARKERS.items():
        axes.plot([], [], marker, color="0.5", fillstyle="none", label=label)
    for source, style in styles(sources):
        if source.predicted:
            axes.plot([], [], color=style["color"], label=source.label)
    axes.legend(frameon=False, fontsize=8)


def draw_samples(images: Mapping[str, np.ndarray]) -> Figure:
    """Draws sixteen images (uint8, NHWC) of each set, one block below the other."""
    figure = new_figure(len(images) * (WIDTH * 2 / 8 + 0.25))
    blocks = figure.subplots(len(images), 1, squeeze=False)[:, 0]
    for axes, (label, pictures) in zip(blocks, images.items(), strict=True):
        show_image(axes, tile(pictures[:16], 8))
        axes.set_title(label, loc="left")
    return figure


def draw_patterns(
    images: Mapping[str, np.ndarray], means: Mapping[str, np.ndarray], layout: Layout
) -> Figure:
    """Draws two images of each set, their patterns, and that of the mean image."""
    num_columns = 2 * NUM_MAGNIFIED + 1
    figure = new_figure(len(images) * (WIDTH / num_columns + 0.2))
    cells = figure.subplots(len(images), num_columns, squeeze=False)
    own = {
        label: isolate_pattern(pictures[:NUM_MAGNIFIED], layout)
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
    """Keeps what images (N, H, W, C) have at the frequencies of the upsamplings."""
    height, width = layout.shape
    kept = np.zeros(layout.shape, bool)
    for row, column in zip(*np.divmod(layout.centers, width), strict=True):
        kept[row, column] = kept[-row, -column] = True
    waves = np.fft.fft2(levels[:, :height, :width], axes=(1, 2))
    return np.fft.ifft2(waves * kept[..., np.newaxis], axes=(1, 2)).real


def display_gain(patterns: Iterable[np.ndarray]) -> int:
    """Returns the power of two at which the strongest pattern fills the range."""
    strongest = max(np.quantile(np.abs(pattern), 0.99) for pattern in patterns)
    return int(2 ** max(0, np.floor(np.log2(127 / max(strongest, 0.5)))))


def show_pattern(axes: Axes, pattern: np.ndarray, gain: int) -> None:
    """Shows a pattern around mid-grey."""
    show_image(axes, np.clip(128 + gain * pattern, 0, 255).astype(np.uint8))
