"""One HTML page about a comparison, for people who read no code.

The page contains everything, asks the network for nothing and runs no script.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis.checkerboard.controls import Control
from analysis.checkerboard.meter import Estimate, GridReading, Reading
from analysis.checkerboard.words import (
    CAUTION,
    NONE_FOUND,
    TOO_WEAK,
    VISIBLE,
    decibels,
    gain_text,
    levels_text,
    verdict,
)
from analysis.report.comparison import PREDICTORS, ComparedSource, conditions
from analysis.report.figures import ReportFigure, comparison_figures, image_figures
from analysis.samples import Samples

ASSETS = Path(__file__).parents[1] / "assets"
# Runs are compared because they differ in these settings, so no warning is needed.
EXPECTED_DIFFERENCES = ("model.upsample", "run.seed")
# Style of what is said of a source.
VERDICT_CLASSES = {VISIBLE: "bad", TOO_WEAK: "weak", NONE_FOUND: "good"}
MAX_OPEN_ROWS = 12  # of a table that is shown without being asked for
MINUS = re.compile(r"(?<![\w-])-(?=\d)")  # the hyphen of a negative number
NARROW = re.compile(r" (?=…)|(?<=…) |(?<=/\d,) |(?<=\(0,) ")  # no line may end here
FACTS = {
    "upsample": "Upsampling",
    "step": "Training steps",
    "training_seed": "Training seed",
    "latent_seeds": "Seeds of the latents",
}


def make_page(
    sources: Sequence[ComparedSource], real: Samples, controls: Sequence[Control]
) -> tuple[str, list[ReportFigure]]:
    """Returns the page as HTML, and its figures; all were measured against `real`."""
    figures = [*image_figures(sources, real), *comparison_figures(sources)]
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["typeset"] = typeset
    page = environment.get_template("report.html.j2").render(
        sources=sources,
        conditions=conditions(sources[0]),
        measured=sources[0].measurement.facts,
        controls=controls,
        failed=[control for control in controls if not control.passed],
        answers=[answer(source) for source in sources],
        facts=fact_rows(sources),
        cautions=cautions(sources),
        figures={figure.name: figure for figure in figures},
        spectra=[figure for figure in figures if figure.name.startswith("spectra-")],
        predictors=PREDICTORS,
        caution=CAUTION,
        predictions=[row for source in sources for row in prediction_rows(source)],
    )
    return page, figures


def typeset(text: str) -> str:
    """Sets real minus signs, and keeps intervals and frequencies on one line."""
    return NARROW.sub("\N{NO-BREAK SPACE}", MINUS.sub("\N{MINUS SIGN}", text))


def answer(source: ComparedSource) -> dict[str, Any]:
    """What the page says of one source: a verdict, sentences and all readings."""
    said = verdict(source.readings)
    readings = sorted(
        source.readings, key=lambda it: (it.frequency.stage, it.frequency.on_axis)
    )
    return {
        "label": source.label,
        "verdict": said,
        "style": VERDICT_CLASSES[said],
        "sentences": source.measurement.sentences,
        "rows": [(it, reading_cells(source, it)) for it in readings],
        "open": len(readings) <= MAX_OPEN_ROWS,
    }


def reading_cells(source: ComparedSource, reading: GridReading) -> dict[str, str]:
    """One row of the table of frequencies: texts by the heading of their column."""
    gain, free = reading.imaging_gain_percent, reading.free_pattern_levels
    stage = ("Period", f"{reading.frequency.period} px")
    if source.strides_are_known:
        stage = ("Upsampling", source.stage_text(reading.frequency))
    cells = {
        stage[0]: stage[1],
        "Pattern": verdict([reading]),
        "Gain, dB": gain_text(gain.samples) + "*" * gain.found,
        "gain of real images": gain_text(gain.real, interval=False),
        "gain limit": f"{decibels(gain.limit):.0f}",
        "Locked share": f"{reading.locked_share.samples.value:.3f}",
    }
    cells |= levels_cells("fixed", reading.fixed_pattern_levels)
    if any(it.free_pattern_levels for it in source.readings):
        cells |= levels_cells("free", free)
    if any(it.free_chroma_levels for it in source.readings):
        cells |= levels_cells("free in colour", reading.free_chroma_levels)
    return cells


def levels_cells(name: str, reading: Reading | None) -> dict[str, str]:
    """Three cells of a reading in grey levels; dashes where it is not taken."""
    names = f"{name.capitalize()}, levels", f"{name} of real images", f"{name} limit"
    if not reading:
        return dict.fromkeys(names, "–")
    value = levels_text(reading.samples) + "*" * reading.found
    texts = value, f"{reading.real.value:.2f}", f"{reading.limit:.2f}"
    return dict(zip(names, texts, strict=True))


def prediction_rows(source: ComparedSource) -> list[dict[str, Any]]:
    """For each upsampling what each predictor said, and what was measured."""
    rows: list[dict[str, Any]] = []
    for index in source.one_per_stage() if source.predicted else []:
        reading = source.readings[index]
        gain, fixed = reading.imaging_gain_percent, reading.fixed_pattern_levels
        frequency = reading.frequency
        row = {
            "label": source.label,
            "place": f"{source.stage_text(frequency)}, {frequency.name}",
            "measured": gain_and_levels(gain.samples, fixed.samples),
        }
        for name, predictions in source.predicted.items():
            it = predictions[index]
            row[name] = gain_and_levels(
                it.imaging_gain_percent, it.fixed_pattern_levels
            )
        rows.append(row)
    return rows


def gain_and_levels(gain: Estimate, fixed: Estimate) -> str:
    """Both readings of a pattern in one cell: "-34 dB; 1.74 levels"."""
    return f"{gain_text(gain, interval=False)} dB; {fixed.value:.2f} levels"


def fact_rows(sources: Sequence[ComparedSource]) -> dict[str, list[str]]:
    """Says what was compared: a row per fact, with a value for each source."""
    facts = [source.facts for source in sources]
    rows = {"Source": [f"{fact['source']} {fact['name']}" for fact in facts]}
    for key, name in FACTS.items():
        if any(key in fact for fact in facts):
            rows[name] = [str(fact.get(key, "–")) for fact in facts]
    for key, name in (("params", "Parameters"), ("macs", "Multiply-adds per image")):
        if any(key in source.cost for source in sources):
            rows[name] = [f"{s.cost[key]:,}" if s.cost else "–" for s in sources]
    counts = [s.measurement.facts["num_images"]["samples"] for s in sources]
    rows["Images measured"] = [f"{count:,}" for count in counts]
    rows["Digest of the images"] = [fact["digest"][:12] for fact in facts]
    for key in differing_settings(sources):
        rows[key] = [str(source.settings.get(key, "–")) for source in sources]
    return rows


def differing_settings(sources: Sequence[ComparedSource]) -> list[str]:
    """Lists settings in which runs differ, except EXPECTED_DIFFERENCES."""
    known = [source.settings for source in sources if source.settings]
    keys = dict.fromkeys(key for settings in known for key in settings)
    return [
        key
        for key in keys
        if key not in EXPECTED_DIFFERENCES
        and len({str(settings.get(key)) for settings in known}) > 1
    ]


def cautions(sources: Sequence[ComparedSource]) -> list[str]:
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
