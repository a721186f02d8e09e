"""Sources that are measured in the same way, and what is predicted of each.

A source is a run, a set of images of any program, or a saved result of `spectra`. Only
a run has a generator, so only a run has predictions and a cost.
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

# How an amplitude is predicted, from the least to the most knowledge of the generator.
PREDICTORS = ("geometry", "weights", "probe")
# Name and period in pixels of the upsampling that causes a pattern.
UPSAMPLINGS = {"a_last": ("last upsampling", 2), "a_prev": ("the one before", 4)}


@dataclass(frozen=True)
class Reading:
    """The pattern that one upsampling leaves in the images of a source.

    Attributes:
        key: its name in JSON.
        upsampling: which upsampling, in words.
        period_px: after how many pixels the pattern repeats.
        amplitude: root mean square in grey levels, below 0 for a lack of power.
        delta_pnr_db: mean peak-to-neighbourhood ratio minus that of real images.
        detection_limit: smallest amplitude that this number of images shows.
        predicted: amplitude in grey levels by predictor; not all may be there.
    """

    key: str
    upsampling: str
    period_px: int
    amplitude: Interval
    delta_pnr_db: Interval
    detection_limit: float
    predicted: dict[str, float]

    @property
    def sentence(self) -> str:
        """The amplitude in words."""
        found = self.amplitude
        if found.low > 0:
            faint = "" if found.value > self.detection_limit else "faint "
            return f"a {faint}pattern of {found.value:.1f} grey levels"
        if found.high < 0:
            return "no pattern: weaker at these frequencies than real images"
        limit = max(found.high, self.detection_limit)
        return f"no pattern found; one of more than {limit:.1f} grey levels would show"


@dataclass(frozen=True)
class FrequencyReading:
    """What stands at one frequency of the upsamplings.

    Attributes:
        label: vertical and horizontal frequency in cycles per pixel.
        layer: 1 if the last upsampling causes it, 2 if the one before does.
        delta_pnr_db: peak-to-neighbourhood ratio minus that of real images.
        real_half_width_db: half width of the interval of real against real images.
        coherence: 1 if the pattern has the same sign in every image.
    """

    label: str
    layer: int
    delta_pnr_db: Interval
    real_half_width_db: float
    coherence: float


@dataclass(frozen=True)
class Source:
    """One source of images, measured.

    Attributes:
        label: short name that no other source of the comparison has.
        measurement: what was measured of the images.
        samples: the images; None if only their measurement was saved.
        settings: settings of a run by "section.key".
        predicted: amplitudes in grey levels by predictor and key of the reading.
        share_of_mean: geometry's prediction relative to the mean, by key.
        cost: `params`, and `macs` per image, of a run's generator.
    """

    label: str
    measurement: Measurement
    samples: Samples | None = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    predicted: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    share_of_mean: dict[str, float] = dataclasses.field(default_factory=dict)
    cost: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of the images: name, digest, step, seeds, notes."""
        return self.measurement.summary["samples"]

    @property
    def readings(self) -> list[Reading]:
        """The patterns of all upsamplings, the last upsampling first."""
        summary = self.measurement.summary
        return [
            Reading(
                key=key,
                upsampling=UPSAMPLINGS[key][0],
                period_px=UPSAMPLINGS[key][1],
                amplitude=interval(summary[key]),
                delta_pnr_db=interval(summary["family_delta_pnr_db"][str(layer)]),
                detection_limit=summary[key]["detection_limit"],
                predicted={k: p[key] for k, p in self.predicted.items() if key in p},
            )
            for key, layer in FAMILIES.items()
            if key in summary
        ]

    @property
    def frequencies(self) -> list[FrequencyReading]:
        """All frequencies, those of the last upsampling first."""
        summary, layout = self.measurement.summary, self.measurement.layout
        found = []
        for line in sorted(layout.lines, key=lambda it: (it.layer, it.row, it.column)):
            real = interval(summary["null_delta_pnr_db"][line.name])
            found.append(
                FrequencyReading(
                    label=layout.label(line),
                    layer=line.layer,
                    delta_pnr_db=interval(summary["delta_pnr_db"][line.name]),
                    real_half_width_db=(real.high - real.low) / 2,
                    coherence=summary["coherence"][line.name],
                )
            )
        return found

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
    """Reads an interval from a measurement's summary."""
    return Interval(numbers["value"], numbers["low"], numbers["high"])


def load_sources(
    paths: Sequence[str],
    num_images: int = 10_000,
    checkpoint: str = "latest",
    reference: str | None = None,
) -> list[Source]:
    """Measures several sources, or loads what `spectra` measured.

    Args:
        paths: run folders, .npz files of images or of results, folders of pictures.
        num_images: number of images per source.
        checkpoint: checkpoint of the runs: "latest", "best" or a step.
        reference: real images for all; None: those of each source, which must be equal.

    Raises:
        ValueError: if a source cannot be measured, or two cannot be compared.
    """
    sources = [load_source(p, num_images, checkpoint, reference) for p in paths]
    first = conditions(sources[0])
    for source in sources:
        if conditions(source) != first:
            raise SampleError(
                f"not comparable: {sources[0].label} was measured against {first}, "
                f"{source.label} against {conditions(source)}"
            )
    labels = unique_labels([source.facts for source in sources])
    return [
        dataclasses.replace(source, label=label)
        for source, label in zip(sources, labels, strict=True)
    ]


def load_source(
    path: str, num_images: int, checkpoint: str, reference: str | None
) -> Source:
    """Measures or loads one source; its label is its name."""
    if is_measurement(path):
        measurement = load_measurement(path)
        return Source(measurement.summary["samples"]["name"], measurement)
    samples = load_samples(path, num_images, checkpoint)
    real = load_reference(reference, samples)
    source = Source(samples.name, measure_samples(samples, real, Protocol()), samples)
    if samples.source != "run":
        return source
    return add_generator_facts(source, checkpoint)


def add_generator_facts(source: Source, checkpoint: str) -> Source:
    """Adds what only a run has: predictions, cost and settings."""
    from analysis.checkerboard.predictions import predict_lines
    from analysis.geometry.audit import audit_model, upsamplers
    from config.loader import to_dict
    from gan.sampling import open_run

    if checkpoint == "latest" and source.facts["step"] >= 0:
        # A training that goes on may have saved a newer checkpoint since.
        checkpoint = str(source.facts["step"])
    run = open_run(source.facts["path"], checkpoint)
    records = audit_model(run.generator)
    prediction = predict_lines(run.generator, upsamplers(records))

    def by_key(amplitudes: dict[int, float]) -> dict[str, float]:
        return {k: amplitudes[n] for k, n in FAMILIES.items() if n in amplitudes}

    return dataclasses.replace(
        source,
        settings={
            f"{section}.{key}": value
            for section, values in to_dict(run.config).items()
            for key, value in values.items()
        },
        predicted={name: by_key(a) for name, a in prediction.amplitudes.items()},
        share_of_mean=by_key(prediction.share_of_mean),
        cost={
            "params": sum(record.params for record in records),
            "macs": sum(record.macs for record in records),
        },
    )


def is_measurement(path: str) -> bool:
    """Tells whether a file holds a result of `spectra` instead of images."""
    if Path(path).suffix != ".npz" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return "summary.npy" in archive.namelist()


def conditions(source: Source) -> str:
    """Says what two measurements must share to be compared."""
    summary = source.measurement.summary
    real, protocol = summary["reference"], summary["protocol"]
    strides = ",".join(map(str, protocol["strides"]))
    return (
        f"{real['name']} {real['digest'][:12]} ({protocol['window']} window, strides "
        f"{strides}, crop {protocol['crop_px']})"
    )


def unique_labels(facts: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the shortest kind of name that differs between all sources."""
    methods = [fact.get("upsample", fact["name"]) for fact in facts]
    with_seeds = [
        f"{fact['upsample']} seed {fact['training_seed']}"
        if "upsample" in fact
        else fact["name"]
        for fact in facts
    ]
    for labels in (methods, with_seeds, [fact["name"] for fact in facts]):
        if len(set(labels)) == len(facts):
            return labels
    return [
        f"{label} ({place})" if methods.count(label) > 1 else label
        for place, label in enumerate(methods, start=1)
    ]
