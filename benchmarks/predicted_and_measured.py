"""What weights and probe predict of trained generators, against what samples show.

    python -m benchmarks.predicted_and_measured RUN [RUN ...] [--n 10000]
        [--out FILE.csv] [--figure FILE.png]

Each run gives one point per grid frequency off the axes, where real images have no
pattern of their own. The printed table has, for each predictor and reading, over all
points whose measured interval lies above 0: the number of points; the median and the
range of predicted over measured; and Spearman's rank correlation, over the runs alone
at (1/2, 1/2), which says whether a prediction puts the runs in the right order.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import scipy.stats
from matplotlib.figure import Figure
from rich.table import Table

from analysis.checkerboard.controls import CORNER
from analysis.commands.tables import table_console
from analysis.figures import new_figure, styles
from analysis.report.comparison import PREDICTORS, ComparedSource, load_sources
from gan.run.environment import prepare_tensorflow

READINGS = {
    "imaging_gain_percent": "imaging gain, %",
    "fixed_pattern_levels": "fixed pattern, grey levels",
}
SMALLEST = {"imaging_gain_percent": 1e-3, "fixed_pattern_levels": 1e-3}  # drawn
FEWEST_RANKS = 3  # runs behind a rank correlation


def rows_of(source: ComparedSource) -> Iterator[dict[str, Any]]:
    """One row for each predictor, grid frequency and reading of a run.

    Attributes of a row: run, method, step; frequency, stage, on_axis; reading; measured
    value with its interval, real images, limit, found; predictor; predicted value with
    its interval.
    """
    for predictor, predictions in source.predicted.items():
        for item, prediction in zip(source.readings, predictions, strict=True):
            for name in READINGS:
                measured, predicted = getattr(item, name), getattr(prediction, name)
                yield {
                    "run": source.label,
                    "method": source.settings["model.upsample"],
                    "step": source.facts["step"],
                    "frequency": item.frequency.name,
                    "stage": item.frequency.stage,
                    "on_axis": item.frequency.on_axis,
                    "reading": name,
                    "measured": measured.samples.value,
                    "low": measured.samples.low,
                    "high": measured.samples.high,
                    "real": measured.real.value,
                    "limit": measured.limit,
                    "found": measured.found,
                    "predictor": predictor,
                    "predicted": predicted.value,
                    "predicted_low": predicted.low,
                    "predicted_high": predicted.high,
                }


def chosen(
    rows: Sequence[dict[str, Any]], predictor: str, reading: str
) -> list[dict[str, Any]]:
    """The rows of one panel: off the axes."""
    return [
        row
        for row in rows
        if (row["predictor"], row["reading"]) == (predictor, reading)
        and not row["on_axis"]
    ]


def agreement(rows: Sequence[dict[str, Any]]) -> tuple[int, list[float], float]:
    """How well one predictor does for one reading.

    Args:
        rows: as `chosen` gives them.

    Returns:
        Number of points that measure more than 0; median, smallest and largest of
        predicted over measured; Spearman's correlation over runs at (1/2, 1/2), NaN
        with fewer than FEWEST_RANKS runs or if all predictions are equal.
    """
    certain = [row for row in rows if row["low"] > 0]
    ratios = np.array([row["predicted"] / row["measured"] for row in certain])
    three = [float(f(ratios)) if len(ratios) else np.nan for f in (np.median, min, max)]
    corner = "({}, {})".format(*CORNER)
    pairs = np.array(
        [(r["predicted"], r["measured"]) for r in rows if r["frequency"] == corner]
    )
    rank = np.nan
    if len(pairs) >= FEWEST_RANKS and np.ptp(pairs[:, 0]) > 0:
        rank = float(scipy.stats.spearmanr(*pairs.T).statistic)
    return len(certain), three, rank


def agreement_table(rows: Sequence[dict[str, Any]]) -> Table:
    """One line per predictor and reading."""
    table = Table("predictor", "reading", "points", "predicted / measured", "rank")
    for predictor in PREDICTORS:
        for name, label in READINGS.items():
            count, ratios, rank = agreement(chosen(rows, predictor, name))
            ratio = "{:.2g} ({:.2g} … {:.2g})".format(*ratios)
            table.add_row(predictor, label, str(count), ratio, f"{rank:.2f}")
    return table


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draws measured against predicted, one column per predictor, one color per run.

    Runs are named by method and step. The last upsampling has large markers. A measured
    interval that reaches 0 has an empty marker at its upper end, and no bar.
    """
    figure = new_figure(6.4, 8.4)
    panels = figure.subplots(len(READINGS), len(PREDICTORS), sharex="row", sharey="row")
    runs = list(dict.fromkeys((r["run"], f"{r['method']}, {r['step']}") for r in rows))
    for line, name in zip(panels, READINGS, strict=True):
        for axes, predictor in zip(line, PREDICTORS, strict=True):
            points = chosen(rows, predictor, name)
            for (run, _), style in styles(runs):
                for row in (row for row in points if row["run"] == run):
                    certain = row["low"] > 0
                    value = row["measured"] if certain else row["high"]
                    x, y = (max(v, SMALLEST[name]) for v in (row["predicted"], value))
                    error = [[y - row["low"]], [row["high"] - y]] if certain else None
                    size = 6 if row["stage"] == 1 else 3
                    full = "full" if certain else "none"
                    axes.errorbar(x, y, error, ms=size, fillstyle=full, **style)
            ends = SMALLEST[name], 300
            axes.plot(ends, ends, color="0.5", linewidth=0.8, zorder=0)
            axes.set(xscale="log", yscale="log", xlabel=f"predicted {READINGS[name]}")
            axes.set_title(predictor, fontsize=9)
        line[0].set_ylabel(f"measured {READINGS[name]}")
    for (_, label), style in styles(runs):
        panels[0, 0].plot([], [], linestyle="none", label=label, **style)
    figure.legend(loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    return figure


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--n", "num_images", default=10_000, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--figure", type=click.Path(dir_okay=False, path_type=Path))
def main(
    runs: tuple[str, ...], num_images: int, out: Path | None, figure: Path | None
) -> None:
    """Compares predictions with measurements of trained runs."""
    prepare_tensorflow()
    sources = load_sources(runs, num_images)
    rows = [row for source in sources for row in rows_of(source)]
    if not rows:
        raise click.ClickException("no source is a run, expected run folders")
    table_console().print(agreement_table(rows))
    if out:
        with out.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    if figure:
        draw(rows).savefig(figure, dpi=120)


if __name__ == "__main__":
    main()
