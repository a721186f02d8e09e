"""Figures of a study, drawn from its results; nothing is measured here."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.checkerboard.figures import show_ratio
from analysis.checkerboard.meter import VISIBLE_LEVELS
from analysis.figures import new_figure, show_image, styles
from analysis.study.plan import (
    PRIMARY_ENDPOINTS,
    Plan,
    RunResult,
    results_by_method,
    values_of,
)
from gan.data.images import tile

COURSES = {
    "floored_gain_db": "imaging gain, last, dB",
    "floored_gain_before_db": "imaging gain, before, dB",
    "eta_last": "imbalance η, last kernel",
    "eta_prev": "imbalance η, kernel before",
    "probe_last": "flat fields, last, grey levels",
    "probe_prev": "flat fields, before, grey levels",
}
SAMPLES_PER_SIDE = 4


def styled_methods(
    plan: Plan, results: Sequence[RunResult]
) -> Iterator[tuple[str, list[RunResult], dict[str, Any]]]:
    """Yields the label, the results and the style of each method."""
    for method, style in styles(list(results_by_method(plan, results))):
        yield *method, style


def draw_headline(plan: Plan, results: Sequence[RunResult]) -> Figure:
    """Draws a column per method: samples, spectrum ratio, end points and cost."""
    methods = list(styled_methods(plan, results))
    figure = new_figure(6.8, 2.1 * len(methods))
    rows = figure.subplots(4, len(methods), height_ratios=(2, 2, 1, 1), squeeze=False)
    for axes, (label, found, style) in zip(rows.T, methods, strict=True):
        first = found[0].measurement
        examples = first.arrays["examples"][: SAMPLES_PER_SIDE**2]
        show_image(axes[0], tile(examples, SAMPLES_PER_SIDE))
        name, _, kernel = label.rpartition(" k")
        axes[0].set_title(f"{name}\n{kernel} taps", fontsize=10)
        power = np.mean([r.measurement.arrays["power"] for r in found], axis=0)
        real_power = first.arrays["real_power"]
        image = show_ratio(axes[1], power, real_power, first.layout)
        for panel, key in zip(axes[2:], PRIMARY_ENDPOINTS, strict=True):
            plot_endpoint(panel, found, key, results, style["color"])
        macs, fcd = plan.costs[label]["macs"] / 1e6, values_of(found, "fcd").mean()
        axes[2].set_title(f"{macs:.1f} M MAC, FCD {fcd:.1f}", fontsize=9)
    for axes in rows[1, 1:]:
        axes.set_yticklabels([])
    figure.colorbar(image, ax=list(rows[1]), label="dB against real", shrink=0.8)
    return figure


def plot_endpoint(
    axes: Axes,
    found: Sequence[RunResult],
    key: str,
    results: Sequence[RunResult],
    color: str,
) -> None:
    """Plots a point per run, and a bar for the mean that starts where no pattern is.

    That is the floor of a gain, or 0 grey levels. All methods have the same limits.
    """
    values, everywhere = values_of(found, key), values_of(results, key)
    margin = 0.05 * np.ptp(everywhere) + 0.1
    start = results[0].floors_db.get(key, 0.0)
    highest = max(limit_of(results, key), everywhere.max()) + margin
    axes.barh(0, values.mean() - start, 0.5, start, color=color, alpha=0.4)
    axes.plot(values, [0] * len(values), "o", color=color, markersize=3)
    mark_limit(axes, results, key)
    axes.set(xlim=(start - margin, highest), ylim=(-0.5, 0.5), yticks=[])
    axes.set_xlabel(PRIMARY_ENDPOINTS[key], fontsize=8)


def limit_of(results: Sequence[RunResult], key: str) -> float:
    """The floor of a gain in dB, or the size from which on a pattern is seen."""
    return results[0].floors_db.get(key, VISIBLE_LEVELS)


def mark_limit(axes: Axes, results: Sequence[RunResult], key: str) -> None:
    """Marks the floor of a gain (dashed), or what can be seen (dotted)."""
    style = "--" if key in results[0].floors_db else ":"
    axes.axvline(limit_of(results, key), color="0.5", linewidth=0.8, linestyle=style)


def draw_before_and_after(plan: Plan, results: Sequence[RunResult]) -> Figure:
    """Draws untrained and trained end points: a row per method, a pair per run."""
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
        mark_limit(axes, results, key)
        axes.set_xlabel(title)
    # Untrained patterns are ten times stronger; below 0.1 level the axis is linear.
    panels[1].set_xscale("symlog", linthresh=0.1)
    panels[0].set_yticks(range(len(methods)), [label for label, _, _ in methods])
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    return figure


def draw_course(plan: Plan, results: Sequence[RunResult]) -> Figure:
    """Draws gains, kernel imbalance and flat fields over training: means over runs.

    Its steps are those at which all runs were measured.
    """
    figure = new_figure(7.6, 9.0)
    panels = figure.subplots(3, 2, sharex=True)
    courses = {r.run: {int(row["step"]): row for row in r.course} for r in results}
    steps = sorted(set.intersection(*map(set, courses.values())))
    for axes, (key, title) in zip(panels.ravel(), COURSES.items(), strict=True):
        for label, found, style in styled_methods(plan, results):
            rows = [courses[result.run] for result in found]
            mean = np.mean([[row[step][key] for step in steps] for row in rows], axis=0)
            axes.plot(steps, mean, label=label, markersize=4, **style)
        axes.set_title(title, fontsize=9)
        axes.set_xscale("symlog", linthresh=max(1, *steps[:2]), linscale=0.4)
        if key not in results[0].floors_db:
            axes.set_ylim(0, None)
    for axes in panels[-1]:
        axes.set_xlabel("step")
    lines, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def draw_price(plan: Plan, results: Sequence[RunResult]) -> Figure:
    """Draws FCD against imaging gain: a small point per run, a large one per method."""
    key = "floored_gain_db"
    figure = new_figure(3.6, 6.0)
    axes = figure.subplots()
    for label, found, style in styled_methods(plan, results):
        gain, fcd = values_of(found, key), values_of(found, "fcd")
        axes.plot(gain, fcd, markersize=4, linestyle="", alpha=0.4, **style)
        name = f"{label}, {plan.costs[label]['macs'] / 1e6:.1f} M MAC"
        axes.plot([gain.mean()], [fcd.mean()], label=name, **style)
    mark_limit(axes, results, key)
    axes.set(xlabel=PRIMARY_ENDPOINTS[key], ylabel="FCD, lower is better")
    axes.legend(frameon=False, fontsize=8)
    return figure
