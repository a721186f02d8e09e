"""Several generators measured alike, and what was predicted of each.

What `compare` prints and `report` draws. Sources are runs, images of any program, or
saved results; only a run has a network, so only a run has predictions and a cost.
"""

import dataclasses
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.checkerboard.layout import Protocol
from analysis.checkerboard.measurement import (
    FAMILIES,
    Measurement,
    load_measurement,
    measure_samples,
)
from analysis.samples import SampleError, Samples, load_reference, load_samples
from analysis.statistics import Interval

EVIDENCE = ("geometry", "weights", "probe")


@dataclass(frozen=True)
class Subject:
    """One side of a comparison.

    Attributes:
        label: short and unique among the subjects.
        measurement: see `analysis.checkerboard.measurement`.
        samples: the images, unless only their measurement is there.
        settings: of a run, "section.key" to value.
        predicted: by evidence and family, "a_last" or "a_prev", in grey levels.
        share_of_mean: what equal taps would give, relative to the mean, by family.
        cost: of a run's generator: `params`, and `macs` for one image.
    """

    label: str
    measurement: Measurement
    samples: Samples | None = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    predicted: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    share_of_mean: dict[str, float] = dataclasses.field(default_factory=dict)
    cost: dict[str, int] = dataclasses.field(default_factory=dict)

    def amplitude(self, family: str) -> Interval:
        """A of "a_last" or "a_prev", in grey levels."""
        return interval(self.measurement.summary[family])

    def delta_pnr_db(self, family: str) -> Interval:
        """Mean delta PNR of a family."""
        found = self.measurement.summary["family_delta_pnr_db"]
        return interval(found[str(FAMILIES[family])])

    @property
    def families(self) -> list[str]:
        """Those that the strides give rise to."""
        return [family for family in FAMILIES if family in self.measurement.summary]

    def as_dict(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        return {
            "label": self.label,
            "measured": self.measurement.summary,
            "predicted": self.predicted,
            "geometry_share_of_mean": self.share_of_mean,
            "cost": self.cost,
            "settings": self.settings,
        }


def interval(numbers: dict[str, float]) -> Interval:
    """An interval that went through JSON."""
    return Interval(numbers["value"], numbers["low"], numbers["high"])


def load_subjects(
    sources: Sequence[str],
    num_images: int = 10_000,
    checkpoint: str = "latest",
    reference: str | None = None,
) -> list[Subject]:
    """Measures sources, or loads what `spectra` measured.

    Args:
        sources: run folders, .npz files of images or of results, folders of pictures.
        num_images: as many of each source.
        checkpoint: of runs.
        reference: of all; None: each one's own, and these must be equal.

    Raises:
        ValueError: if a source cannot be measured, or two of them not compared.
    """
    subjects = [load_subject(s, num_images, checkpoint, reference) for s in sources]
    bases = [basis(subject.measurement.summary) for subject in subjects]
    for subject, other in zip(subjects, bases, strict=True):
        if other != bases[0]:
            raise SampleError(
                f"not comparable: {subjects[0].label} was measured against {bases[0]}, "
                f"{subject.label} against {other}"
            )
    labels = unique_labels([s.measurement.summary["samples"] for s in subjects])
    return [
        dataclasses.replace(subject, label=label)
        for subject, label in zip(subjects, labels, strict=True)
    ]


def load_subject(
    source: str, num_images: int, checkpoint: str, reference: str | None
) -> Subject:
    """One source; its label is its name."""
    if is_measurement(source):
        measurement = load_measurement(source)
        return Subject(measurement.summary["samples"]["name"], measurement)
    samples = load_samples(source, num_images, checkpoint)
    real = load_reference(reference, samples)
    subject = Subject(samples.name, measure_samples(samples, real, Protocol()), samples)
    return with_network(subject, checkpoint) if samples.source == "run" else subject


def with_network(subject: Subject, checkpoint: str) -> Subject:
    """Adds what only a run knows: predictions, cost, settings."""
    from analysis.checkerboard.predictions import predict_lines
    from analysis.geometry.audit import audit_model, upsamplers
    from config.loader import to_dict
    from gan.sampling import open_run

    facts = subject.measurement.summary["samples"]
    if checkpoint == "latest" and facts["step"] >= 0:
        checkpoint = str(facts["step"])  # a running training may have saved a newer one
    run = open_run(facts["path"], checkpoint)
    records = audit_model(run.generator)
    prediction = predict_lines(run.generator, upsamplers(records))

    def by_family(amplitudes: dict[int, float]) -> dict[str, float]:
        return {f: amplitudes[k] for f, k in FAMILIES.items() if k in amplitudes}

    return dataclasses.replace(
        subject,
        settings={
            f"{section}.{key}": value
            for section, values in to_dict(run.config).items()
            for key, value in values.items()
        },
        predicted={name: by_family(a) for name, a in prediction.amplitudes.items()},
        share_of_mean=by_family(prediction.share_of_mean),
        cost={
            "params": sum(record.params for record in records),
            "macs": sum(record.macs for record in records),
        },
    )


def is_measurement(source: str) -> bool:
    """Whether a file holds a result of `spectra` and not images."""
    path = Path(source)
    if path.suffix != ".npz" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return "summary.npy" in archive.namelist()


def basis(summary: dict[str, Any]) -> str:
    """What two measurements must share to be compared."""
    real, protocol = summary["reference"], summary["protocol"]
    strides = ",".join(map(str, protocol["strides"]))
    return (
        f"{real['name']} {real['digest'][:12]} ({protocol['window']} window, strides "
        f"{strides}, crop {protocol['crop_px']})"
    )


def unique_labels(facts: Sequence[dict[str, Any]]) -> list[str]:
    """The shortest kind of name that tells all subjects apart."""
    kinds = [
        [fact.get("upsample", fact["name"]) for fact in facts],
        [
            f"{fact['upsample']} seed {fact['training_seed']}"
            if "upsample" in fact
            else fact["name"]
            for fact in facts
        ],
        [fact["name"] for fact in facts],
    ]
    for labels in kinds:
        if len(set(labels)) == len(facts):
            return labels
    return [
        f"{label} ({place})" if kinds[0].count(label) > 1 else label
        for place, label in enumerate(kinds[0], start=1)
    ]
