"""The page of a study: statistics, tables and sentences from its results.

The unit of the statistics is the training run. The end points that were chosen before
any run come first, with p-values that are corrected over all their comparisons (Holm).
All other numbers are exploratory and stand with their intervals. docs/method.md says
why runs of equal seeds are not paired and variances are not pooled.
"""

import csv
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from analysis.checkerboard.meter import VISIBLE_LEVELS
from analysis.checkerboard.words import is_visible, strongest
from analysis.figures import render
from analysis.statistics import (
    POWER,
    Interval,
    detectable_difference,
    holm,
    provable_margin,
    t_interval,
    welch_difference,
)
from analysis.study import figures
from analysis.study.plan import (
    PRIMARY_ENDPOINTS,
    SECONDARY_ENDPOINT,
    Plan,
    RunResult,
    results_by_method,
    values_of,
    write_text,
)
from gan.files import counted, write_atomically

PAGE_FILE = "README.md"
TABLE_FILE = "runs.csv"
GAIN = "floored_gain_db"
SIGNIFICANCE_LEVEL = 0.05  # of the corrected p-values
QUALITY_MARGIN = 0.1  # a difference in FCD that does not matter, of the first method's
FIGURES = {
    "headline": (
        figures.draw_headline,
        "Samples of seed 0, the mean spectrum of all runs divided by that of real "
        "images (red: stronger), imaging gain and fixed pattern at (1/2, 1/2): one "
        "point per run, and a bar for their mean. Dashed: smaller gains count as this "
        "one. Dotted: a pattern of one grey level or less is not seen.",
    ),
    "before-after": (
        figures.draw_before_and_after,
        "Imaging gain and fixed pattern at (1/2, 1/2) before training (hollow) and "
        "after it (filled), one pair per run. Dashed: smaller gains count as this one. "
        "Dotted: a pattern of one grey level or less is not seen.",
    ),
    "course": (
        figures.draw_course,
        "The pattern of the samples during training, and what the weights could cause: "
        "the imbalance of the kernels and the pattern on flat fields. Means over runs.",
    ),
    "price": (
        figures.draw_price,
        "Distance to the test images against the imaging gain at (1/2, 1/2): a small "
        "point per run, a large one for the mean of a method.",
    ),
}


@dataclass(frozen=True)
class MethodDifference:
    """The difference of a method to the first one.

    `difference` has a 95 % interval. `adjusted` is the p-value after Holm's correction
    over all comparisons.
    """

    method: str
    endpoint: str
    difference: Interval
    p_value: float
    adjusted: float
    num_runs: tuple[int, int]  # of the method and of the first one

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value is below SIGNIFICANCE_LEVEL."""
        return self.adjusted < SIGNIFICANCE_LEVEL

    @property
    def outcome(self) -> str:
        """How the method compares with the first one."""
        if not self.significant:
            return "no difference shown"
        return "lower" if self.difference.value < 0 else "higher"


def compare_methods(plan: Plan, results: Sequence[RunResult]) -> list[MethodDifference]:
    """Compares all methods with the first one on the end points chosen beforehand."""
    groups = {
        label: runs for label, runs in results_by_method(plan, results) if len(runs) > 1
    }
    first = groups.pop(plan.methods[0].label, [])
    found = []
    for method, runs in groups.items() if first else ():
        for endpoint in PRIMARY_ENDPOINTS:
            values = values_of(runs, endpoint), values_of(first, endpoint)
            interval, p = welch_difference(*values)
            numbers = len(runs), len(first)
            row = MethodDifference(method, endpoint, interval, p, p, numbers)
            found.append(row)
    adjusted = holm(np.array([row.p_value for row in found])).tolist()
    corrected = zip(found, adjusted, strict=True)
    return [dataclasses.replace(row, adjusted=value) for row, value in corrected]


def describe_power(plan: Plan, results: Sequence[RunResult]) -> str:
    """Says what the planned seeds can show, if runs spread as those in `results` do.

    The spread of an end point is its largest standard deviation within a method. The
    text is empty where no method has two results.
    """
    groups = [runs for _, runs in results_by_method(plan, results) if len(runs) > 1]
    if not groups or plan.num_seeds < 2:
        return ""
    number = len(PRIMARY_ENDPOINTS) * (len(plan.methods) - 1)
    found = detectable_difference(1, plan.num_seeds, max(1, number))
    parts = []
    for endpoint, name in PRIMARY_ENDPOINTS.items():
        spread = max(spread_of(values_of(runs, endpoint)) for runs in groups)
        parts.append(f"{name}: {found * spread:.2g} (spread {spread:.2g})")
    fcds = [values_of(runs, "fcd") for runs in groups]
    spread = max(spread_of(fcd) / fcd.mean() for fcd in fcds)
    margin = provable_margin(spread, plan.num_seeds)
    return (
        f"With {plan.num_seeds} seeds, and the spread of the runs that are there, "
        f"these differences are found with a probability of {POWER:.0%}: "
        f"{'; '.join(parts)}. If two methods have the same FCD, it is shown with this "
        f"probability that they differ by less than {margin:.0%} (spread {spread:.0%})."
    )


def spread_of(values: np.ndarray) -> float:
    """The standard deviation of runs; 0 for equal values, whatever is rounded."""
    return float(values.std(ddof=1)) if np.ptp(values) else 0.0


def make_csv(plan: Plan, results: Sequence[RunResult]) -> str:
    """Returns a table with a row for each run and measured step.

    Quality is measured at the last step alone.
    """
    rows = []
    for result in results:
        facts = {"run": result.run, "method": result.method, "seed": result.seed}
        facts |= plan.costs[result.method]
        facts["seconds_per_step"] = result.seconds_per_step
        *early, last = result.course
        rows += [facts | row for row in (*early, last | result.trained)]
    text = io.StringIO()
    columns = dict.fromkeys(key for row in rows for key in row)
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def write_page(
    folder: Path, plan: Plan, results: Sequence[RunResult], command: str
) -> Path:
    """Writes README.md, its figures and runs.csv into the folder of the study."""
    images = folder / "figures"
    images.mkdir(parents=True, exist_ok=True)
    for name, (draw, _) in FIGURES.items():
        data = render(partial(draw, plan, results), "png")
        write_atomically(images / f"{name}.png", partial(Path.write_bytes, data=data))
    write_text(folder / TABLE_FILE, make_csv(plan, results))
    write_text(folder / PAGE_FILE, make_page(plan, results, command))
    return folder / PAGE_FILE


def make_page(plan: Plan, results: Sequence[RunResult], command: str) -> str:
    """Returns the page as Markdown."""
    parts = [
        "# Which upsampler, at what price?\n",
        answer(plan, results),
        figure("headline"),
        introduction(plan, results, command),
        "## After training\n\n" + trained_table(plan, results),
        "## Against the first method\n\n" + difference_table(plan, results),
        "## Before and after training\n\n" + untrained_table(plan, results),
        figure("before-after") + figure("course"),
        "## Quality (exploratory)\n\n" + quality_table(plan, results) + figure("price"),
        "## What was compared\n\n" + cost_table(plan, results),
    ]
    return "\n".join(parts)


def answer(plan: Plan, results: Sequence[RunResult]) -> str:
    """Says first what follows for the choice of a method: pattern, sight, quality."""
    methods = dict(results_by_method(plan, results))
    first = plan.methods[0].label
    if first not in methods:
        return f"`{first}`, to which the other methods are compared, has no result.\n"
    found = compare_methods(plan, results)
    parts = [say_endpoint(it, first, methods, found) for it in PRIMARY_ENDPOINTS]
    parts.append(say_visible(methods))
    if found:
        parts.append(say_quality(first, methods))
    elif len(plan.methods) > 1:
        parts.append("Two runs of each method are needed to compare methods.")
    return "".join(f"- {part}\n" for part in parts)


def say_endpoint(
    endpoint: str,
    first: str,
    methods: Mapping[str, list[RunResult]],
    found: Sequence[MethodDifference],
) -> str:
    """Says for which methods an end point is lower or higher than for the first one."""
    name, _, unit = PRIMARY_ENDPOINTS[endpoint].partition(", ")
    cell = gain_cell(endpoint) if endpoint == GAIN else mean_cell(endpoint)

    def with_values(labels: Sequence[str]) -> str:
        return "; ".join(f"`{it}` {cell(methods[it])} {unit}" for it in labels)

    text = f"{name.capitalize()} at (1/2, 1/2) after training: {with_values([first])}."
    outcomes = {it.method: it.outcome for it in found if it.endpoint == endpoint}
    for outcome in ("lower", "higher", "no difference shown"):
        labels = [label for label in outcomes if outcomes[label] == outcome]
        if labels:
            text += f" {outcome.capitalize()}: {with_values(labels)}."
    return text


def say_visible(methods: Mapping[str, list[RunResult]]) -> str:
    """Says in how many runs of which methods a pattern of any upsampling is visible."""
    parts = []
    for label, runs in methods.items():
        patterns = [strongest(result.measurement.readings) for result in runs]
        if number := sum(any(map(is_visible, found)) for found in patterns):
            parts.append(f"`{label}` ({number} of {counted(len(runs), 'run')})")
    if not parts:
        return "In no run is a pattern visible."
    return f"A pattern is visible in the samples of {', '.join(parts)}."


def say_quality(first: str, methods: Mapping[str, list[RunResult]]) -> str:
    """Says which methods keep FCD within the margin of the first one."""
    kept: dict[str, list[str]] = {}
    for label, runs in methods.items():
        if label != first and len(runs) > 1:
            fcd = values_of(runs, "fcd"), values_of(methods[first], "fcd")
            kept.setdefault(quality_is_kept(*fcd), []).append(f"`{label}`")
    words = {
        "yes": "shown for",
        "no, lower": "lower (better) for",
        "no, higher": "higher for",
        "not shown": "not decided for",
    }
    said = [f"{words[k]} {', '.join(kept[k])}" for k in words if k in kept]
    return f"FCD within {QUALITY_MARGIN:.0%} of that of `{first}`: {'; '.join(said)}."


def introduction(plan: Plan, results: Sequence[RunResult], command: str) -> str:
    """Says in a paragraph what the study is, and how to make the page again."""
    train, data = plan.base.train, plan.base.data
    num_images = train.num_steps * train.batch_size
    matched = {"macs": "multiply-accumulates", "params": "parameters"}.get(plan.match)
    equal = f"at equal {matched}" if matched else "at the widths of the preset"
    return (
        f"{len(results)} of {len(plan.runs)} runs: {len(plan.methods)} methods, "
        f"{counted(plan.num_seeds, 'seed')}, {train.num_steps:,} steps "
        f"of {train.batch_size} images ({num_images:,} in all) of {data.dataset}, "
        f"{equal}. Runs with the "
        "same seed have the same batch order, the same noise, and the same initial "
        "weights in all layers that they share. The page was written by\n\n"
        f"    {command}\n\n"
        "from `plan.json` and `results/`. The same command writes it again and repeats "
        f"no run that has a result. `{TABLE_FILE}` has the values of all runs at all "
        "measured steps. docs/method.md describes the protocol and what was "
        "expected. Intervals, in brackets, are 95 % t-intervals over runs.\n"
    )


def figure(name: str) -> str:
    """Returns a figure with its caption."""
    caption = FIGURES[name][1]
    return f"![{caption}](figures/{name}.png)\n\n*{caption}*\n\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table whose numbers are aligned to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def method_table(
    plan: Plan, results: Sequence[RunResult], columns: Mapping[str, Callable[..., str]]
) -> str:
    """Returns a table of one row per method; a column is a function of its results."""
    groups, cells = results_by_method(plan, results), columns.values()
    rows = [[label, *(cell(found) for cell in cells)] for label, found in groups]
    return table(["method", *columns], rows)


def mean_cell(key: str, digits: int = 2, factor: float = 1) -> Callable[..., str]:
    """Returns a function from results to the mean of a value, with its t-interval."""
    return lambda found: mean_text(factor * values_of(found, key), digits)


def mean_text(values: np.ndarray, digits: int = 2) -> str:
    """Formats the mean of runs with its t-interval, or the value of a single run."""
    if len(values) < 2:
        return f"{values[0]:z.{digits}f}"
    return interval_text(t_interval(values), digits)


def interval_text(found: Interval, digits: int = 2, sign: str = "") -> str:
    """Formats an estimate and its interval: "2.00 (-0.48 … 4.48)"."""
    numbers = found.value, found.low, found.high
    value, low, high = (format(number, f"{sign}z.{digits}f") for number in numbers)
    return f"{value} ({low} … {high})"


def gain_cell(key: str) -> Callable[..., str]:
    """Returns a function from results to the mean gain in dB, or to their floor."""

    def cell(found: list[RunResult]) -> str:
        if all(r.trained[key] <= r.floors_db[key] for r in found):
            return f"at most {found[0].floors_db[key]:.1f}"
        return mean_text(values_of(found, key), 1)

    return cell


def count_cell(stage: int) -> Callable[..., str]:
    """Returns a function that counts runs with a pattern of a stage (1: the last)."""

    def cell(found: list[RunResult]) -> str:
        runs = [strongest(result.measurement.readings) for result in found]
        patterns = [it for run in runs for it in run if it.frequency.stage == stage]
        visible = sum(map(is_visible, patterns))
        return f"{len(patterns)} of {len(found)} ({visible} visible)"

    return cell


def trained_table(plan: Plan, results: Sequence[RunResult]) -> str:
    """Shows the checkerboard of the trained generators."""
    keys, floors_db = (GAIN, SECONDARY_ENDPOINT), results[0].floors_db
    floor, floor_before = (f"{floors_db[key]:.1f} dB" for key in keys)
    num_images = results[0].measurement.facts["num_images"]["samples"]
    columns = {
        "imaging gain, dB": gain_cell(GAIN),
        "fixed pattern, grey levels": mean_cell("fixed_pattern_levels"),
        "gain of the stage before, dB": gain_cell(SECONDARY_ENDPOINT),
        "pattern found, last": count_cell(1),
        "pattern found, before": count_cell(2),
    }
    return method_table(plan, results, columns) + (
        "Imaging gain and fixed pattern are those at (1/2, 1/2), measured on "
        f"{num_images:,} samples of each run. The imaging gain is what the content of "
        "an image leaves there, as a share of its contrast: 1 % is -40 dB, and a "
        "perfect upsampling leaves nothing. The fixed pattern is the root mean square "
        "of what is the same in every image. The gain of the stage before is the "
        "largest one, off the axes, of the upsampling before the last. Gains at "
        f"(1/2, 1/2) below {floor}, the detection limit for as many real "
        "images, count as this value, and gains of the stage before below "
        f"{floor_before}, which real images may have, as that one. The "
        "last two columns count the runs in which a pattern locked to the last "
        "upsampling, or to the one before, was found at any frequency; it "
        f"is visible above {VISIBLE_LEVELS:g} grey level.\n"
    )


def difference_table(plan: Plan, results: Sequence[RunResult]) -> str:
    """Shows the comparisons with corrected p-values."""
    found = compare_methods(plan, results)
    first = plan.methods[0].label
    if not found:
        return "Two runs of each method are needed.\n"
    header = ["method", "end point", f"difference to {first}", "p", "p (Holm)"]
    header += ["outcome", "runs"]
    rows = []
    for it in found:
        row = [it.method, PRIMARY_ENDPOINTS[it.endpoint]]
        row += [interval_text(it.difference, sign="+"), f"{it.p_value:.4f}"]
        row += [f"{it.adjusted:.4f}", it.outcome]
        rows.append([*row, "{}, {}".format(*it.num_runs)])
    text = (
        "Differences are tested by Welch's t-test. The p-values are corrected over "
        f"these {len(found)} comparisons (Holm); the level is {SIGNIFICANCE_LEVEL}. "
        "*No difference shown* does not mean equal: the interval says which "
        f"differences remain possible. {describe_power(plan, results)}\n"
    )
    return table(header, rows) + text


def untrained_table(plan: Plan, results: Sequence[RunResult]) -> str:
    """Shows samples, flat fields and weights before and after training."""
    columns = {
        "imaging gain, dB": GAIN,
        "fixed pattern": "fixed_pattern_levels",
        "gain before, dB": SECONDARY_ENDPOINT,
        "flat fields, last": "probe_last",
        "flat fields, prev": "probe_prev",
        "η last": "eta_last",
        "η prev": "eta_prev",
    }

    def cell(found: list[RunResult], key: str) -> str:
        before, after = values_of(found, key, "untrained"), values_of(found, key)
        return f"{before.mean():z.2f} → {after.mean():z.2f}"

    cells = {name: partial(cell, key=key) for name, key in columns.items()}
    return method_table(plan, results, cells) + (
        "Means over runs, before → after. The fixed pattern and the pattern on flat "
        "fields are in grey levels. η is the imbalance of the kernels. At 0 no "
        "constant input gives a pattern; independent weights have 0.75 on average. It "
        "is also 0 where no learned kernel enlarges.\n"
    )


def quality_table(plan: Plan, results: Sequence[RunResult]) -> str:
    """Shows distances to the test images, and their differences."""
    first = dict(results_by_method(plan, results)).get(plan.methods[0].label, [])

    def against_first(found: list[RunResult], say: Callable[..., str]) -> str:
        if found[0].method == plan.methods[0].label or min(len(found), len(first)) < 2:
            return "–"
        return say(values_of(found, "fcd"), values_of(first, "fcd"))

    def difference(fcd: np.ndarray, of_first: np.ndarray) -> str:
        return interval_text(welch_difference(fcd, of_first)[0], 1, "+")

    columns: dict[str, Callable[..., str]] = {
        "FCD": mean_cell("fcd", 1),
        "FCD against the first": partial(against_first, say=difference),
        f"kept within {QUALITY_MARGIN:.0%}": partial(
            against_first, say=quality_is_kept
        ),
        "KCD x1000": mean_cell("kcd", 0, 1000),
        "density": mean_cell("density"),
        "coverage": mean_cell("coverage", 3),
    }
    return method_table(plan, results, columns) + (
        f"{plan.num_images:,} samples, or as many as there are test images, are "
        "compared with as many of these. FCD is not FID: it uses another network. "
        "Intervals of differences are not corrected. "
        f"FCD is kept if two one-sided tests at the level {SIGNIFICANCE_LEVEL} show "
        f"that it differs by less than {QUALITY_MARGIN:.0%} of the first method's "
        "mean.\n\n"
    )


def quality_is_kept(fcd: np.ndarray, first: np.ndarray) -> str:
    """Says whether FCD is within a margin of that of the first method.

    "yes", "no, lower" and "no, higher" stand where the interval of the difference,
    whose confidence is that of two one-sided tests, lies whole inside or outside the
    margin.
    """
    difference, _ = welch_difference(fcd, first, 1 - 2 * SIGNIFICANCE_LEVEL)
    margin = QUALITY_MARGIN * first.mean()
    if -margin < difference.low and difference.high < margin:
        return "yes"
    if difference.high < -margin:
        return "no, lower"
    return "no, higher" if difference.low > margin else "not shown"


def cost_table(plan: Plan, results: Sequence[RunResult]) -> str:
    """Shows widths and cost of each generator, also of methods without results."""
    header = ["method", "widths", "M parameters", "M MAC per image", "ms per step"]
    done = dict(results_by_method(plan, results))
    rows = []
    for method in plan.methods:
        cost = plan.costs[method.label]
        times = [1000 * r.seconds_per_step for r in done.get(method.label, [])]
        row = [method.label, ", ".join(map(str, plan.widths[method.label]))]
        row += [f"{cost['params'] / 1e6:.3f}", f"{cost['macs'] / 1e6:.2f}"]
        rows.append([*row, f"{np.median(times):.0f}" if times else "–"])
    return table(header, rows) + (
        "Widths are the channels of the base map, before and after the first doubling. "
        "A step is a whole training step with the discriminator. Its time is the "
        "median over runs. It depends on what else the machine did, so it says less "
        "than the counts.\n"
    )
