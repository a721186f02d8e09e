"""One HTML page about a comparison, for people who read no code.

The page contains everything, figures too. It asks the network for nothing and runs no
script.
"""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis.checkerboard.controls import Control
from analysis.report.comparison import PREDICTORS, Source, conditions
from analysis.report.figures import ReportFigure, comparison_figures, image_figures
from analysis.samples import Samples
from analysis.statistics import Interval

ASSETS = Path(__file__).parents[1] / "assets"
# Runs are compared because they differ in these settings, so no warning is needed.
EXPECTED_DIFFERENCES = ("model.upsample", "run.seed")
FACTS = {
    "upsample": "Upsampling",
    "step": "Training steps",
    "training_seed": "Training seed",
    "latent_seeds": "Seeds of the latents",
}


def make_page(
    sources: Sequence[Source], real: Samples, controls: Sequence[Control]
) -> tuple[str, list[ReportFigure]]:
    """Writes the page.

    Args:
        sources: sources with their samples.
        real: the images that they were measured against.
        controls: results of the meter's controls on the real images.

    Returns:
        The page as HTML, and its figures.
    """
    figures = [*image_figures(sources, real), *comparison_figures(sources)]
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        sources=sources,
        conditions=conditions(sources[0]),
        summary=sources[0].measurement.summary,
        controls=controls,
        failed=[control.name for control in controls if not control.passed],
        facts=fact_rows(sources),
        cautions=cautions(sources),
        figures={figure.name: figure for figure in figures},
        spectra=[figure for figure in figures if figure.name.startswith("spectra-")],
        predictors=PREDICTORS,
        numbers=number_rows(sources),
        text=interval_text,
    )
    return page, figures


def interval_text(found: Interval) -> str:
    """Formats an interval with real minus signs: "−1.00 (−2.00 to +0.50)"."""
    return found.text(to="to").replace("-", "−")


def fact_rows(sources: Sequence[Source]) -> dict[str, list[str]]:
    """Says what was compared: a row per fact, with a value for each source."""
    facts = [source.facts for source in sources]
    rows = {"Source": [f"{fact['source']} {fact['name']}" for fact in facts]}
    for key, name in FACTS.items():
        if any(key in fact for fact in facts):
            rows[name] = [str(fact.get(key, "–")) for fact in facts]
    for key, name in (("params", "Parameters"), ("macs", "Multiply-adds per image")):
        if any(key in source.cost for source in sources):
            rows[name] = [f"{s.cost[key]:,}" if s.cost else "–" for s in sources]
    counts = [s.measurement.summary["num_images"]["samples"] for s in sources]
    rows["Images measured"] = [f"{count:,}" for count in counts]
    rows["Digest of the images"] = [fact["digest"][:12] for fact in facts]
    for key in differing_settings(sources):
        rows[key] = [str(source.settings.get(key, "–")) for source in sources]
    return rows


def differing_settings(sources: Sequence[Source]) -> list[str]:
    """Lists settings in which runs differ, except EXPECTED_DIFFERENCES."""
    known = [source.settings for source in sources if source.settings]
    keys = dict.fromkeys(key for settings in known for key in settings)
    return [
        key
        for key in keys
        if key not in EXPECTED_DIFFERENCES
        and len({str(settings.get(key)) for settings in known}) > 1
    ]


def cautions(sources: Sequence[Source]) -> list[str]:
    """Says what a reader must know before comparing."""
    found = []
    if names := ", ".join(differing_settings(sources)):
        found.append(f"The runs differ in more than their upsampling: {names}.")
    steps = [source.facts.get("step") for source in sources]
    if len(set(steps)) > 1 and None not in steps:
        counts = " and ".join(f"{step:,}" for step in steps)
        found.append(f"The runs were trained for {counts} steps.")
    for source in sources:
        found += [f"{source.label}: {note}" for note in source.facts["notes"]]
    return found


def number_rows(sources: Sequence[Source]) -> dict[str, list[str]]:
    """Lists all numbers that are not in the first table: a value for each source."""
    rows: dict[str, list[str]] = {}
    for found in zip(*(source.frequencies for source in sources), strict=True):
        label = found[0].label
        rows[f"ΔPNR at ({label}), dB"] = [interval_text(f.delta_pnr_db) for f in found]
        rows[f"Coherence at ({label})"] = [f"{f.coherence:.3f}" for f in found]
    summaries = [source.measurement.summary for source in sources]
    for period in summaries[0]["phase_variance_db"]:
        rows[f"Phase variance, period {period} px, above real, dB"] = [
            f"{s['phase_variance_db'][period]:.2f}" for s in summaries
        ]
    rows["Log-spectral distance (real against real), dB"] = [
        "{value:.2f} ({null:.2f})".format(**s["log_spectral_distance_db"])
        for s in summaries
    ]
    rows["Part of the power beyond 1/4 cycles per pixel (real)"] = [
        "{samples:.3f} ({real:.3f})".format(**s["high_band_share"]) for s in summaries
    ]
    return rows
