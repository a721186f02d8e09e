"""Figures of a study, drawn from its results; they measure nothing."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.checkerboard.figures import (
    RATIO_LIMIT_DB,
    mark_frequencies,
    show_spectrum,
)
from analysis.checkerboard.profiles import full
from analysis.figures import MARKERS, new_figure, show_image
from analysis.study.plan import Plan
from analysis.study.results import Result, by_method, column
from gan.data.images import tile

FAMILIES = {"a_last": "last upsampling", "a_prev": "the one before"}
COURSES = {
    "eta_last": "imbalance η, last kernel",
    "eta_prev": "imbalance η, kernel before",
    "probe_last": "flat fields, last, grey levels",
    "probe_prev": "flat fields, before, grey levels",
}
GRID = 4  # samples along a side of a picture


def styled(
    plan: Plan, results: Sequence[Result]
) -> Iterator[tuple[str, list[Result], dict[str, Any]]]:
    """Methods, their results and their style, the same in all figures."""
    for place, (label, found) in enumerate(by_method(plan, results)):
        marker = MARKERS[place % len(MARKERS)]
        yield label, found, {"color": f"C{place % 10}", "marker": marker}


def draw_headline(plan: Plan, results: Sequence[Result]) -> Figure:
    """A column a method: samples, spectrum against the real one, lines, cost."""
    methods = list(styled(plan, results))
    figure = new_figure(6.2, 2.1 * len(methods))
    rows = figure.subplots(3, len(methods), height_ratios=(2, 2, 1.4), squeeze=False)
    limits = [min(column(results, k).min() for k in FAMILIES) - 0.3]
    limits += [max(column(results, k).max() for k in FAMILIES) + 0.3]
    for axes, (label, found, style) in zip(rows.T, methods, strict=True):
        first = found[0].measurement
        show_image(axes[0], tile(first.arrays["examples"][: GRID**2], GRID))
        name, _, kernel = label.rpartition(" k")
        axes[0].set_title(f"{name}\n{kernel} taps", fontsize=10)
        image = show_ratio(axes[1], found)
        plot_lines(axes[2], found, limits, style["color"])
        macs, quality = plan.costs[label]["macs"] / 1e6, column(found, "fcd").mean()
        axes[2].set_title(f"{macs:.1f} M MAC, FCD {quality:.1f}", fontsize=9)
    rows[2, 0].set_yticks(range(len(FAMILIES)), FAMILIES.values())
    for axes in rows[1, 1:]:
        axes.set_yticklabels([])
    figure.colorbar(image, ax=list(rows[1]), label="dB against real", shrink=0.8)
    return figure


def show_ratio(axes: Axes, found: Sequence[Result]) -> Any:
    """Mean spectrum of all runs of a method against that of real images."""
    layout = found[0].measurement.layout
    power = np.mean([r.measurement.arrays["power"] for r in found], axis=0)
    real = found[0].measurement.arrays["real_power"]
    ratio = 10 * np.log10(full(power, layout.shape) / full(real, layout.shape))
    image = show_spectrum(axes, ratio, (-RATIO_LIMIT_DB, RATIO_LIMIT_DB), "RdBu_r", "")
    mark_frequencies(axes, layout, "black")
    axes.set(xticks=(-0.5, 0, 0.5), yticks=(-0.5, 0, 0.5))
    return image


def plot_lines(
    axes: Axes, found: Sequence[Result], limits: Sequence[float], color: str
) -> None:
    """A_last and A_prev: a point a run, a bar for the mean."""
    for place, key in enumerate(FAMILIES):
        values = column(found, key)
        axes.barh(place, values.mean(), 0.5, color=color, alpha=0.4)
        axes.plot(values, [place] * len(values), "o", color=color, markersize=3)
    axes.axvline(0, color="0.5", linewidth=0.8)
    axes.set(xlim=limits, ylim=(1.5, -0.5), yticks=[], xlabel="A, grey levels")


def draw_amplitudes(plan: Plan, results: Sequence[Result]) -> Figure:
    """Untrained to trained, a row a method, an arrow a run."""
    methods = list(styled(plan, results))
    figure = new_figure(0.9 + 0.5 * len(methods), 9.0)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (key, title) in zip(panels, FAMILIES.items(), strict=True):
        for place, (_, found, style) in enumerate(methods):
            marker = {"markersize": 5, "linestyle": "", **style}
            for number, result in enumerate(found):
                y = place + 0.6 * ((number + 0.5) / len(found) - 0.5)
                before, after = result.untrained[key], result.trained[key]
                axes.plot([before, after], [y, y], color=style["color"], alpha=0.3)
                axes.plot([before], [y], fillstyle="none", **marker)
                axes.plot([after], [y], **marker)
        axes.axvline(0, color="0.5", linewidth=0.8)
        axes.set(title=title, xlabel="amplitude A, grey levels")
    labels = [label for label, _, _ in methods]
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    return figure


def draw_course(plan: Plan, results: Sequence[Result]) -> Figure:
    """Imbalance and probed lines over training, mean over runs."""
    figure = new_figure(5.6, 9.0)
    panels = figure.subplots(2, 2, sharex=True)
    for axes, (key, title) in zip(panels.ravel(), COURSES.items(), strict=True):
        for label, found, style in styled(plan, results):
            steps = [0, *(row["step"] for row in found[0].course)]
            values = [
                [r.untrained[key], *(row[key] for row in r.course)] for r in found
            ]
            mean = np.mean(values, axis=0)
            axes.plot(steps, mean, label=label, markersize=4, **style)
        axes.set_title(title, fontsize=9)
    for axes in panels[1]:
        axes.set(xlabel="step", ylim=(0, None))
    panels[0, 0].legend(frameon=False, fontsize=8)
    return figure


def draw_price(plan: Plan, results: Sequence[Result]) -> Figure:
    """FCD against A_last: a small point a run, a large one a method."""
    figure = new_figure(3.6, 6.0)
    axes = figure.subplots()
    for label, found, style in styled(plan, results):
        amplitude, quality = column(found, "a_last"), column(found, "fcd")
        axes.plot(amplitude, quality, markersize=4, linestyle="", alpha=0.4, **style)
        name = f"{label}, {plan.costs[label]['macs'] / 1e6:.1f} M MAC"
        axes.plot([amplitude.mean()], [quality.mean()], label=name, **style)
    axes.axvline(0, color="0.5", linewidth=0.8)
    axes.set(xlabel="A_last, grey levels", ylabel="FCD, lower is better")
    axes.legend(frameon=False, fontsize=8)
    return figure
