"""The page of a study: tables and sentences from its results, nothing measured.

What was named beforehand comes first, with corrected p-values; everything else is told
with its interval and called exploratory.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from analysis.figures import render
from analysis.statistics import Interval, t_interval
from analysis.study import figures
from analysis.study.plan import Plan
from analysis.study.results import Result, by_method, column
from analysis.study.statistics import LEVEL, PRIMARY, compare_methods, difference
from gan.files import write_atomically

PAGE = "README.md"
FIGURES = {
    "headline": (
        figures.draw_headline,
        "Samples of seed 0, the mean spectrum of all runs against real images (red: "
        "stronger), and how far the lines stand out: a point a run, a bar their mean.",
    ),
    "amplitudes": (
        figures.draw_amplitudes,
        "Amplitudes before training (hollow) and after (filled), a pair a run; right "
        "of zero: a pattern that real images lack.",
    ),
    "course": (
        figures.draw_course,
        "What the weights could do, over training: imbalance of the kernels and lines "
        "on flat fields, mean over runs.",
    ),
    "price": (
        figures.draw_price,
        "Distance to the test images against the amplitude of the last upsampling.",
    ),
}


def write_page(
    folder: Path, plan: Plan, results: Sequence[Result], command: str
) -> Path:
    """Writes README.md and its figures into the folder of the study.

    Args:
        folder: of the study.
        plan: what was to be run.
        results: those that are there, at least one.
        command: that made them.

    Returns:
        The page.
    """
    images = folder / "figures"
    images.mkdir(parents=True, exist_ok=True)
    for name, (draw, _) in FIGURES.items():
        data = render(partial(draw, plan, results), "png")
        write_atomically(images / f"{name}.png", partial(Path.write_bytes, data=data))
    page, text = folder / PAGE, make_page(plan, results, command)
    write_atomically(page, lambda p: p.write_text(text, encoding="utf-8"))
    return page


def make_page(plan: Plan, results: Sequence[Result], command: str) -> str:
    """The page as Markdown."""
    sections = [
        ("", introduction(plan, results, command)),
        ("", picture("headline")),
        ("After training", trained_table(plan, results)),
        ("Against the first method", comparison_table(plan, results)),
        ("Before and after training", untrained_table(plan, results)),
        ("", picture("amplitudes") + picture("course")),
        ("Quality (exploratory)", quality_table(plan, results) + picture("price")),
        ("What was compared", cost_table(plan, results)),
    ]
    parts = ["# Which upsampler, at what price?\n"]
    parts += [f"## {title}\n\n{body}" if title else body for title, body in sections]
    return "\n".join(parts)


def introduction(plan: Plan, results: Sequence[Result], command: str) -> str:
    """What this is, in a paragraph, and how to make it again."""
    train, data = plan.base.train, plan.base.data
    passes = train.num_steps * train.batch_size
    matched = {"macs": "multiply-accumulates", "params": "parameters"}.get(plan.match)
    equal = f"at equal {matched}" if matched else "at the widths of the preset"
    return (
        f"{len(results)} of {len(plan.runs)} runs: {len(plan.methods)} methods, "
        f"{plan.num_seeds} seeds, {train.num_steps:,} steps of {train.batch_size} "
        f"images ({passes:,} in all) of {data.dataset}, {equal}. Same seed: same "
        "order, same noise, same weights wherever layers are shared. Written by\n\n"
        f"    {command}\n\n"
        "from `plan.json` and `results/`; the same command makes the page again, and "
        "trains nothing that is there. The protocol, with what was expected, is "
        "docs/method.md. Intervals, in brackets, are 95 % t-intervals over runs.\n"
    )


def picture(name: str) -> str:
    """A figure with its caption."""
    caption = FIGURES[name][1]
    return f"![{caption}](figures/{name}.png)\n\n*{caption}*\n\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def spread(values: np.ndarray, digits: int = 2) -> str:
    """Mean and t-interval of runs, or a single run's value."""
    if len(values) < 2:
        return f"{values[0]:z.{digits}f}"
    return told(t_interval(values), digits)


def told(found: Interval, digits: int = 2, sign: str = "") -> str:
    """An estimate and its interval."""
    numbers = (f"{x:{sign}z.{digits}f}" for x in (found.value, found.low, found.high))
    return "{} ({} … {})".format(*numbers)


def rows_of(
    plan: Plan,
    results: Sequence[Result],
    cells: Sequence[Callable[[list[Result]], str]],
) -> list[list[str]]:
    """A row a method, its label first."""
    return [
        [label, *(cell(found) for cell in cells)]
        for label, found in by_method(plan, results)
    ]


def trained_table(plan: Plan, results: Sequence[Result]) -> str:
    """The lines of trained generators."""
    header = ["method", "A_last, grey levels", "A_prev, grey levels"]
    header += ["ΔPNR last, dB", "ΔPNR prev, dB", "phase variance, dB"]
    keys = ["a_last", "a_prev", "delta_pnr_last_db", "delta_pnr_prev_db"]
    cells = [
        lambda found, key=key: spread(column(found, key))
        for key in (*keys, "phase_variance_db")
    ]
    real = results[0].measurement.summary
    limits = " and ".join(f"{real[k]['detection_limit']:.2f}" for k in PRIMARY)
    return table(header, rows_of(plan, results, cells)) + (
        "A is the root mean square of the pattern, below 0 a lack of power against "
        "real images (a notch). ΔPNR is the peak-to-neighbourhood ratio minus that of "
        f"real images. One run's {real['num_images']['samples']:,} samples tell A_last "
        f"and A_prev from none beyond {limits} grey levels.\n"
    )


def comparison_table(plan: Plan, results: Sequence[Result]) -> str:
    """The confirmatory comparisons, then in words."""
    found = compare_methods(plan, results)
    first = plan.methods[0].label
    if not found:
        return "Two runs of each method are needed.\n"
    header = ["method", "end point", f"difference to {first}, grey levels"]
    rows = [
        [
            row.method,
            PRIMARY[row.endpoint],
            told(row.difference, sign="+"),
            f"{row.p_value:.4f}",
            f"{row.adjusted:.4f}",
            str(row.num_pairs),
        ]
        for row in found
    ]
    said = []
    for endpoint, name in PRIMARY.items():
        words: dict[str, list[str]] = {"lower": [], "higher": [], "not told apart": []}
        for row in found:
            if row.endpoint == endpoint:
                side = "lower" if row.difference.value < 0 else "higher"
                words[side if row.significant else "not told apart"].append(row.method)
        listed = "; ".join(f"{k}: {', '.join(v)}" for k, v in words.items() if v)
        said.append(f"- {name} against {first}: {listed}.\n")
    text = (
        f"Holm's correction over these {len(found)} comparisons, level {LEVEL}. "
        "*Not told apart* is no proof of equality: the interval says what is left.\n\n"
    )
    header += ["p", "p (Holm)", "pairs"]
    return table(header, rows) + text + "".join(said)


def untrained_table(plan: Plan, results: Sequence[Result]) -> str:
    """Every line before and after, in samples, on flat fields and in weights."""
    header = ["method", "A_last", "A_prev", "flat fields, last", "flat fields, prev"]
    header += ["η last", "η prev"]

    def cell(key: str) -> Callable[[list[Result]], str]:
        return lambda found: " → ".join(
            f"{column(found, key, when).mean():z.2f}"
            for when in ("untrained", "trained")
        )

    keys = ["a_last", "a_prev", "probe_last", "probe_prev", "eta_last", "eta_prev"]
    return table(header, rows_of(plan, results, [cell(key) for key in keys])) + (
        "Means over runs, before → after. A and lines on flat fields in grey levels; η "
        "is the imbalance of the kernels, 0: no line from any constant, 0.75 on "
        "average for independent weights (0 also where no learned kernel enlarges).\n"
    )


def quality_table(plan: Plan, results: Sequence[Result]) -> str:
    """Distances to the test images, and their differences (exploratory)."""
    header = ["method", "FCD", "FCD against the first", "KCD x1000"]
    header += ["density", "coverage"]

    def against(found: list[Result]) -> str:
        if found[0].method == plan.methods[0].label:
            return "–"
        interval, _, pairs = difference(plan, results, found[0].method, "fcd")
        return told(interval, 1, "+") if pairs > 1 else "–"

    cells = [
        lambda found: spread(column(found, "fcd"), 1),
        against,
        lambda found: spread(1000 * column(found, "kcd"), 0),
        lambda found: spread(column(found, "density")),
        lambda found: spread(column(found, "coverage"), 3),
    ]
    return table(header, rows_of(plan, results, cells)) + (
        f"{plan.num_images:,} samples against as many test images; FCD is no FID. "
        "Differences are taken in pairs, their intervals not corrected.\n\n"
    )


def cost_table(plan: Plan, results: Sequence[Result]) -> str:
    """Widths and cost of each generator."""
    header = ["method", "widths", "M parameters", "M MAC an image", "ms a step"]
    done = dict(by_method(plan, results))
    rows = []
    for method in plan.methods:
        cost = plan.costs[method.label]
        times = [1000 * r.seconds_per_step for r in done.get(method.label, [])]
        row = [method.label, ", ".join(map(str, plan.widths[method.label]))]
        row += [f"{cost['params'] / 1e6:.3f}", f"{cost['macs'] / 1e6:.2f}"]
        rows.append([*row, f"{np.median(times):.0f}" if times else "–"])
    return table(header, rows) + (
        "Widths: channels of the base map, before and after the first doubling. The "
        "step is the whole one, discriminator too; its time is the median of runs side "
        "by side and says less than the counts.\n"
    )
