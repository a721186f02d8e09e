"""Figures of a study, drawn from its results; nothing is measured here."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.checkerboard.figures import show_ratio
from analysis.figures import new_figure, show_image, styles
from analysis.study.plan import (
    PRIMARY_ENDPOINTS,
    Plan,
    Result,
    results_by_method,
    values_of,
)
from gan.data.images import tile

COURSES = {
    "eta_last": "imbalance η, last kernel",
    "eta_prev": "imbalance η, kernel before",
    "probe_last": "flat fields, last, grey levels",
    "probe_prev": "flat fields, before, grey levels",
}
SAMPLES_PER_SIDE = 4


def styled_methods(
    plan: Plan, results: Sequence[Result]
) -> Iterator[tuple[str, list[Result], dict[str, Any]]]:
    """Yields the label, the results and the style of each method."""
    for (label, found), style in styles(list(results_by_method(plan, results))):
        yield label, found, style


def draw_headline(plan: Plan, results: Sequence[Result]) -> Figure:
    """Draws a column per method: samples, spectrum ratio, amplitudes and cost."""
    methods = list(styled_methods(plan, results))
    figure = new_figure(6.2, 2.1 * len(methods))
    rows = figure.subplots(3, len(methods), height_ratios=(2, 2, 1.4), squeeze=False)
    limits = [min(values_of(results, key).min() for key in PRIMARY_ENDPOINTS) - 0.3]
    limits += [max(values_of(results, key).max() for key in PRIMARY_ENDPOINTS) + 0.3]
    for axes, (label, found, style) in zip(rows.T, methods, strict=True):
        first = found[0].measurement
        examples = first.arrays["examples"][: SAMPLES_PER_SIDE**2]
        show_image(axes[0], tile(examples, SAMPLES_PER_SIDE))
        name, _, kernel = label.rpartition(" k")
        axes[0].set_title(f"{name}\n{kernel} taps", fontsize=10)
        power = np.mean([r.measurement.arrays["power"] for r in found], axis=0)
        real_power = first.arrays["real_power"]
        image = show_ratio(axes[1], power, real_power, first.layout)
        plot_endpoints(axes[2], found, limits, style["color"])
        macs, fcd = plan.costs[label]["macs"] / 1e6, values_of(found, "fcd").mean()
        axes[2].set_title(f"{macs:.1f} M MAC, FCD {fcd:.1f}", fontsize=9)
    rows[2, 0].set_yticks(range(len(PRIMARY_ENDPOINTS)), PRIMARY_ENDPOINTS.values())
    for axes in rows[1, 1:]:
        axes.set_yticklabels([])
    figure.colorbar(image, ax=list(rows[1]), label="dB against real", shrink=0.8)
    return figure


def plot_endpoints(
    axes: Axes, found: Sequence[Result], limits: Sequence[float], color: str
) -> None:
    """Plots each primary end point: one point per run, and a bar for the mean."""
    for place, key in enumerate(PRIMARY_ENDPOINTS):
        values = values_of(found, key)
        axes.barh(place, values.mean(), 0.5, color=color, alpha=0.4)
        axes.plot(values, [place] * len(values), "o", color=color, markersize=3)
    axes.axvline(0, color="0.5", linewidth=0.8)
    axes.set(xlim=limits, ylim=(1.5, -0.5), yticks=[], xlabel="A, grey levels")


def draw_amplitudes(plan: Plan, results: Sequence[Result]) -> Figure:
    """Draws untrained and trained amplitudes: a row per method, a pair per run."""
    methods = list(styled_methods(plan, results))
    figure = new_figure(0.9 + 0.5 * len(methods), 9.0)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (key, title) in zip(panels, PRIMARY_ENDPOINTS.items(), strict=True):
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
    panels[0].set_yticks(range(len(methods)), [label for label, _, _ in methods])
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    return figure


def draw_course(plan: Plan, results: Sequence[Result]) -> Figure:
    """Draws kernel imbalance and flat fields over training, as means over runs."""
    figure = new_figure(5.6, 9.0)
    panels = figure.subplots(2, 2, sharex=True)
    for axes, (key, title) in zip(panels.ravel(), COURSES.items(), strict=True):
        for label, found, style in styled_methods(plan, results):
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
    """Draws FCD against A_last: a small point per run, a large one per method."""
    figure = new_figure(3.6, 6.0)
    axes = figure.subplots()
    for label, found, style in styled_methods(plan, results):
        amplitude, fcd = values_of(found, "a_last"), values_of(found, "fcd")
        axes.plot(amplitude, fcd, markersize=4, linestyle="", alpha=0.4, **style)
        name = f"{label}, {plan.costs[label]['macs'] / 1e6:.1f} M MAC"
        axes.plot([amplitude.mean()], [fcd.mean()], label=name, **style)
    axes.axvline(0, color="0.5", linewidth=0.8)
    axes.set(xlabel="A_last, grey levels", ylabel="FCD, lower is better")
    axes.legend(frameon=False, fontsize=8)
    return figure
