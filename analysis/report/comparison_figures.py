"""Figures of a comparison's numbers, drawn from results; they measure nothing.

Each is narrow enough for a phone at full width and can be drawn for a light page or a
dark one. Built on matplotlib's Agg canvas, as `figures`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from analysis.report.comparison import EVIDENCE, Subject, interval
from analysis.statistics import Interval

WIDTH = 4.8  # inches: at 9 points of type still legible on a phone
THEMES = {"light": ("#ffffff", "#1c1f23"), "dark": ("#16191d", "#e6e8ea")}
MARKERS = "osD^vP*X"
FAMILY_NAMES = {"a_last": "last upsampling", "a_prev": "the one before"}
EVIDENCE_MARKERS = dict(zip(EVIDENCE, "^so", strict=True))
AMPLITUDE_TICKS = (-30, -10, -3, -1, 0, 1, 3, 10, 30, 100)


@contextmanager
def theme(name: str) -> Iterator[None]:
    """Colours and type of all figures drawn inside."""
    page, text = THEMES[name]
    on_text = "text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color"
    on_page = "figure.facecolor", "axes.facecolor", "savefig.facecolor"
    settings: Any = dict.fromkeys((*on_text, "ytick.color"), text)
    settings |= dict.fromkeys((*on_page, "legend.facecolor"), page)
    settings |= {
        "font.size": 9,
        "image.interpolation": "none",  # pixels, also where a page enlarges them
        "svg.hashsalt": "analysis",
    }
    with matplotlib.rc_context(settings):
        yield


def render(draw: Callable[[], Figure], form: str, name: str = "light") -> bytes:
    """Draws a figure in a theme: the bytes of an svg or png."""
    stream = BytesIO()
    metadata = {"Date": None} if form == "svg" else None
    with theme(name):
        draw().savefig(stream, format=form, dpi=150, metadata=metadata)
    return stream.getvalue()


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure of this size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def whisker(axes: Axes, x: Interval, y: float, **style: Any) -> None:
    """A point with its interval."""
    axes.errorbar([x.value], [y], xerr=bars(x), capsize=2, linestyle="", **style)


def bars(found: Interval) -> list[list[float]]:
    """What an error bar needs: how far the limits are off, never less than 0."""
    below, above = found.value - found.low, found.high - found.value
    return [[max(0.0, below)], [max(0.0, above)]]


def subject_styles(subjects: Sequence[Subject]) -> Iterator[tuple[Subject, dict]]:
    """Each subject with its colour and marker, the same in all figures."""
    for place, subject in enumerate(subjects):
        marker = MARKERS[place % len(MARKERS)]
        yield subject, {"color": f"C{place % 10}", "marker": marker, "markersize": 5}


def plot_amplitudes(axes: Axes, subjects: Sequence[Subject]) -> None:
    """A_last and A_prev with intervals, detection limits in grey."""
    families = subjects[0].families
    for place, family in enumerate(families):
        for number, (subject, style) in enumerate(subject_styles(subjects)):
            y = place + offset(number, len(subjects))
            limit = subject.measurement.summary[family]["detection_limit"]
            band(axes, limit, y, len(subjects))
            label = subject.label if not place else None
            whisker(axes, subject.amplitude(family), y, label=label, **style)
    axes.axvline(0, color="0.5", linewidth=0.8)
    axes.set_yticks(range(len(families)), [FAMILY_NAMES[name] for name in families])
    axes.set(ylim=(len(families) - 0.5, -0.5), xlabel="amplitude A, grey levels")
    axes.legend(frameon=False, fontsize=8)


def offset(number: int, total: int) -> float:
    """Where one of several subjects stands within a row of height 1."""
    return 0.7 * ((number + 0.5) / total - 0.5)


def band(axes: Axes, limit: float, y: float, total: int) -> None:
    """What cannot be told from nothing."""
    axes.barh(y, 2 * limit, 0.7 / total, -limit, color="0.5", alpha=0.3, zorder=0)


def plot_forest(axes: Axes, subjects: Sequence[Subject]) -> None:
    """Delta PNR of every line with intervals, detection limits in grey."""
    layout = subjects[0].measurement.layout
    lines = sorted(layout.lines, key=lambda line: (line.layer, line.row, line.column))
    for place, line in enumerate(lines):
        for number, (subject, style) in enumerate(subject_styles(subjects)):
            summary = subject.measurement.summary
            y = place + offset(number, len(subjects))
            null = interval(summary["null_delta_pnr_db"][line.name])
            band(axes, (null.high - null.low) / 2, y, len(subjects))
            label = subject.label if not place else None
            found = interval(summary["delta_pnr_db"][line.name])
            whisker(axes, found, y, label=label, **style)
    axes.axvline(0, color="0.5", linewidth=0.8)
    last = sum(line.layer == 1 for line in lines)
    axes.axhline(last - 0.5, color="0.5", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(lines)), [layout.label(line) for line in lines])
    axes.set(ylim=(len(lines) - 0.5, -0.5), xlabel="ΔPNR, dB: notch < 0 < tone")
    axes.set_ylabel("vertical, horizontal frequency")
    axes.legend(frameon=False, fontsize=8)


def plot_predictions(axes: Axes, subjects: Sequence[Subject]) -> None:
    """Measured against predicted amplitudes, identity as a line."""
    largest = 1.0
    for subject, style in subject_styles(subjects):
        for evidence, amplitudes in subject.predicted.items():
            for family, predicted in amplitudes.items():
                found = subject.amplitude(family)
                largest = max(largest, predicted, found.high)
                marker = EVIDENCE_MARKERS[evidence]
                fill = "full" if family == "a_last" else "none"
                drawn = style | {"marker": marker, "fillstyle": fill}
                axes.errorbar([predicted], [found.value], yerr=bars(found), **drawn)
    for scale, axis in ((axes.set_xscale, axes.xaxis), (axes.set_yscale, axes.yaxis)):
        scale("symlog", linthresh=1)
        axis.set_major_locator(FixedLocator(AMPLITUDE_TICKS))
        axis.set_major_formatter("{x:g}")
    axes.plot([0, 2 * largest], [0, 2 * largest], color="0.5", linewidth=0.8)
    axes.set(xlabel="predicted A, grey levels", ylabel="measured A, grey levels")
    axes.set_xlim(-0.3, 2 * largest)
    entries = [(name, marker, "full") for name, marker in EVIDENCE_MARKERS.items()]
    entries += [("last upsampling", "D", "full"), ("the one before", "D", "none")]
    for label, marker, fill in entries:
        axes.plot([], [], marker, color="0.5", fillstyle=fill, label=label)
    for subject, style in subject_styles(subjects):
        axes.plot([], [], color=style["color"], label=subject.label)
    axes.legend(frameon=False, fontsize=8)


def draw_alone(
    plot: Callable[[Axes, Sequence[Subject]], None],
    subjects: Sequence[Subject],
    height: float,
) -> Figure:
    """One of the plots above as a figure."""
    figure = new_figure(height)
    plot(figure.subplots(), subjects)
    return figure


def draw_comparison(subjects: Sequence[Subject]) -> Figure:
    """Amplitudes, ΔPNR of every line and, if anything was predicted, predictions."""
    plots = [plot_amplitudes, plot_forest]
    if any(subject.predicted for subject in subjects):
        plots.append(plot_predictions)
    figure = new_figure(4.2, 4.2 * len(plots))
    for axes, plot in zip(figure.subplots(1, len(plots)), plots, strict=True):
        plot(axes, subjects)
    return figure
