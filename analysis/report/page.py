"""One self-contained HTML page about a comparison, for people who read no code.

Everything is inside the page, figures too; it asks the network for nothing and runs no
script.
"""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis.checkerboard import usual_meters
from analysis.checkerboard.controls import Control
from analysis.checkerboard.spectrum import mean_level, measure
from analysis.checkerboard.usual_meters import Reading
from analysis.report.comparison import Subject, basis
from analysis.report.comparison_figures import FAMILY_NAMES
from analysis.report.figures import Images
from analysis.report.plates import Plate, number_plates, sample_plates, usual_plates
from analysis.samples import Samples, halves
from analysis.statistics import Interval

ASSETS = Path(__file__).parents[1] / "assets"
PERIODS = {"a_last": "repeats every 2 px", "a_prev": "repeats every 4 px"}
# Differences of these settings need no warning: they are what runs are compared for.
EXPECTED_DIFFERENCES = ("model.upsample", "run.seed")


def make_page(
    subjects: Sequence[Subject], real: Samples, controls: Sequence[Control]
) -> tuple[str, list[Plate]]:
    """Writes the page.

    Args:
        subjects: with their samples.
        real: what they were measured against.
        controls: results of the meter's controls on the real images.

    Returns:
        The page as HTML, and its figures.
    """
    images = {"real": halves(real.images_uint8)[0][: usual_meters.NUM_IMAGES]}
    images |= {
        subject.label: subject.samples.images_uint8[: usual_meters.NUM_IMAGES]
        for subject in subjects
        if subject.samples
    }
    plates = [*sample_plates(subjects, real), *number_plates(subjects)]
    plates += usual_plates(images)
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        subjects=subjects,
        basis=basis(subjects[0].measurement.summary),
        summary=subjects[0].measurement.summary,
        controls=controls,
        failed=[control.name for control in controls if not control.passed],
        families={f: (FAMILY_NAMES[f], PERIODS[f]) for f in PERIODS},
        verdict=verdict,
        facts=facts(subjects),
        cautions=cautions(subjects),
        plates={plate.name: plate for plate in plates},
        spectra=[plate for plate in plates if plate.name.startswith("spectra-")],
        injected=usual_meters.read_injections(real.images_uint8),
        readings=read_all(images),
        others=other_numbers(subjects),
    )
    return page, plates


def verdict(subject: Subject, family: str) -> str:
    """One amplitude in words."""
    found = subject.amplitude(family)
    limit = subject.measurement.summary[family]["detection_limit"]
    if found.low > 0:
        size = "a pattern" if found.value > limit else "a faint pattern"
        return f"{size} of {found.value:.1f} grey levels"
    if found.high < 0:
        return "no pattern: weaker at these frequencies than real images"
    seen = max(found.high, limit)
    return f"no pattern found; one of more than {seen:.1f} grey levels would show"


def facts(subjects: Sequence[Subject]) -> dict[str, list[str]]:
    """What was compared: a row of values, one for each subject."""
    names = {
        "upsample": "Upsampling",
        "step": "Training steps",
        "training_seed": "Training seed",
        "latent_seeds": "Seeds of the latents",
    }
    summaries = [subject.measurement.summary for subject in subjects]
    samples = [summary["samples"] for summary in summaries]
    rows = {"Source": [f"{s['source']} {s['name']}" for s in samples]}
    for key, name in names.items():
        if any(key in s for s in samples):
            rows[name] = [str(s.get(key, "–")) for s in samples]
    for key, name in (("params", "Parameters"), ("macs", "Multiply-adds an image")):
        if any(key in s.cost for s in subjects):
            rows[name] = [f"{s.cost[key]:,}" if s.cost else "–" for s in subjects]
    rows["Images measured"] = [f"{s['num_images']['samples']:,}" for s in summaries]
    rows["Digest of the images"] = [s["digest"][:12] for s in samples]
    for key in differing(subjects):
        rows[key] = [str(subject.settings.get(key, "–")) for subject in subjects]
    return rows


def differing(subjects: Sequence[Subject]) -> list[str]:
    """Settings in which runs differ, besides those of EXPECTED_DIFFERENCES."""
    known = [subject.settings for subject in subjects if subject.settings]
    keys = dict.fromkeys(key for settings in known for key in settings)
    return [
        key
        for key in keys
        if key not in EXPECTED_DIFFERENCES
        and len({str(settings.get(key)) for settings in known}) > 1
    ]


def cautions(subjects: Sequence[Subject]) -> list[str]:
    """What a reader must know before comparing."""
    found = []
    if names := ", ".join(differing(subjects)):
        found.append(f"The runs differ in more than their upsampling: {names}.")
    steps = [s.measurement.summary["samples"].get("step") for s in subjects]
    if len(set(steps)) > 1 and None not in steps:
        counts = " and ".join(f"{step:,}" for step in steps)
        found.append(f"The runs were trained for {counts} steps.")
    for subject in subjects:
        notes = subject.measurement.summary["samples"]["notes"]
        found += [f"{subject.label}: {note}" for note in notes]
    return found


def read_all(images: Images) -> list[Reading]:
    """Reads all meters at (1/2, 1/2): each set against the first, the real one."""
    usual, *sets = images.values()
    level = mean_level(usual)
    spectrum = measure(usual, level=level)
    corner = max(spectrum.layout.lines, key=lambda s: (s.layer == 1, s.row, s.column))
    return [
        usual_meters.read(label, i, usual, corner, (measure(i, level=level), spectrum))
        for label, i in zip(list(images)[1:], sets, strict=True)
    ]


def other_numbers(subjects: Sequence[Subject]) -> dict[str, list[str]]:
    """Rows for those who want more: a value for each subject."""
    rows: dict[str, list[str]] = {}
    summaries = [subject.measurement.summary for subject in subjects]
    layout = subjects[0].measurement.layout
    for line in layout.lines:
        label = layout.label(line)
        rows[f"ΔPNR at ({label}), dB"] = [
            Interval(**s["delta_pnr_db"][line.name]).text(to="to").replace("-", "−")
            for s in summaries
        ]
        rows[f"Coherence at ({label})"] = [
            f"{s['coherence'][line.name]:.3f}" for s in summaries
        ]
    for period in summaries[0]["phase_variance_db"]:
        rows[f"Phase variance, period {period} px, above real, dB"] = [
            f"{s['phase_variance_db'][period]:.2f}" for s in summaries
        ]
    rows["Log-spectral distance (real against real), dB"] = [
        "{value:.2f} ({null:.2f})".format(**s["log_spectral_distance_db"])
        for s in summaries
    ]
    rows["Share of power beyond 1/4 cycles per pixel (real)"] = [
        "{samples:.3f} ({real:.3f})".format(**s["high_band_share"]) for s in summaries
    ]
    return rows
