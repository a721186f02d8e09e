"""Sources that are measured in the same way, and what is predicted of each.

A source is a run, a set of images of any program, or a saved result of `spectra`. Only
a run has a generator, so only a run has predictions and a cost.
"""

import dataclasses
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.checkerboard.frequencies import GridFrequency, strides_to_scan
from analysis.checkerboard.measurement import (
    Measurement,
    RealImages,
    load_measurement,
    measure_against,
    read_real_images,
)
from analysis.checkerboard.meter import GridReading
from analysis.checkerboard.words import stage_name, strongest
from analysis.samples import (
    SampleError,
    Samples,
    load_reference,
    load_samples,
    unique_labels,
)

if TYPE_CHECKING:
    from analysis.checkerboard.predictions import Predicted

# What a pattern is predicted from, from the least to the most knowledge.
PREDICTORS = ("geometry", "weights", "probe")


@dataclass(frozen=True)
class ComparedSource:
    """One source of images, measured; its label is unique in the comparison.

    Attributes:
        samples: the images; None if only their measurement was saved.
        settings: settings of a run by "section.key".
        predicted: by predictor one prediction for each of the measurement's readings;
            a predictor that cannot treat the generator is missing.
        cost: `params`, and `macs` per image, of a run's generator.
    """

    label: str
    measurement: Measurement
    samples: Samples | None = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    predicted: "dict[str, list[Predicted]]" = dataclasses.field(default_factory=dict)
    cost: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of the images: name, digest, step, seeds, notes."""
        return self.measurement.facts["samples"]

    @property
    def strides_are_known(self) -> bool:
        """Whether the strides are those of the model that made the images."""
        return self.measurement.facts["known_strides"]

    @property
    def readings(self) -> tuple[GridReading, ...]:
        """One for each grid frequency."""
        return self.measurement.readings

    def one_per_stage(self) -> list[int]:
        """Index of each stage's strongest pattern, else of its strongest reading.

        Only readings off the axes count where no pattern was found.
        """
        best = {r.frequency.stage: r for r in strongest(self.readings)}
        for reading in sorted(self.readings, key=lambda r: -r.pattern_levels):
            if not reading.frequency.on_axis:
                best.setdefault(reading.frequency.stage, reading)
        return [self.readings.index(best[stage]) for stage in sorted(best)]

    def stage_text(self, frequency: GridFrequency) -> str:
        """The upsampling that can cause a frequency, or its period if not known."""
        if self.strides_are_known:
            return stage_name(frequency.stage)
        return f"period of {frequency.period} px"

    def as_dict(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        return {
            "label": self.label,
            "measured": self.measurement.as_dict(),
            "predicted": {k: [asdict(p) for p in v] for k, v in self.predicted.items()},
            "cost": self.cost,
            "settings": self.settings,
        }


def load_sources(
    paths: Sequence[str | Samples],
    num_images: int = 10_000,
    checkpoint: str = "latest",
    reference: str | Samples | None = None,
    value_range: tuple[float, float] | None = None,
) -> list[ComparedSource]:
    """Measures several sources, or loads what `spectra` measured.

    Images whose strides are not known are measured with the strides of the sources
    beside them, if these agree.

    Args:
        paths: run folders, files of images or of results, folders of pictures, or
            images in memory.
        num_images: number of images per source.
        checkpoint: checkpoint of the runs: "latest", "best" or a step.
        reference: real images for all; None: those of each source, which must be equal.
        value_range: black and white in arrays of floats; None: -1 and 1.

    Raises:
        ValueError: if a source cannot be measured, or two cannot be compared.
    """
    loaded = [
        load_measurement(path)
        if isinstance(path, str) and is_measurement(path)
        else load_samples(path, num_images, checkpoint, value_range)
        for path in paths
    ]
    found = {
        it.strides if isinstance(it, Samples) else it.layout.strides for it in loaded
    }
    known = found - {None}
    shared = known.pop() if len(known) == 1 else None
    references = {  # all of them, so that a mistake is found before the measuring
        place: load_reference(reference, one, value_range)
        for place, one in enumerate(loaded)
        if isinstance(one, Samples)
    }
    real: dict[Any, RealImages] = {}  # each set is read once for all sources
    sources = []
    for place, one in enumerate(loaded):
        if isinstance(one, Measurement):
            sources.append(ComparedSource(one.facts["samples"]["name"], one))
            continue
        real_images = references[place]
        size = one.images_uint8.shape[1:3]
        strides = one.strides or shared or strides_to_scan(*size)
        key = real_images.digest, strides
        if key not in real:
            real[key] = read_real_images(real_images, strides)
        known_strides = one.strides is not None
        measured = measure_against(one, real[key], known_strides=known_strides)
        source = ComparedSource(one.name, measured, one)
        is_run = one.source == "run"
        sources.append(add_generator_facts(source, checkpoint) if is_run else source)
    first = conditions(sources[0])
    for source in sources:
        if conditions(source) != first:
            raise SampleError(
                f"not comparable: {sources[0].label} was measured against {first}, "
                f"{source.label} against {conditions(source)}"
            )
    labels = unique_labels([source.facts for source in sources])
    pairs = zip(sources, labels, strict=True)
    return [dataclasses.replace(source, label=label) for source, label in pairs]


def add_generator_facts(source: ComparedSource, checkpoint: str) -> ComparedSource:
    """Adds what only a run has: predictions, cost and settings."""
    from analysis.checkerboard.predictions import predict
    from analysis.geometry.audit import audit_model, total_cost
    from config.loader import to_dict
    from gan.sampling import open_run

    if checkpoint == "latest" and source.facts["step"] >= 0:
        # A training that goes on may have saved a newer checkpoint since.
        checkpoint = str(source.facts["step"])
    run = open_run(source.facts["path"], checkpoint)
    settings = {
        f"{section}.{key}": value
        for section, values in to_dict(run.config).items()
        for key, value in values.items()
    }
    predicted = predict(run.generator, source.measurement.layout.strides)
    cost = total_cost(audit_model(run.generator))
    return dataclasses.replace(
        source, settings=settings, predicted=predicted, cost=cost
    )


def is_measurement(path: str) -> bool:
    """Tells whether a file holds a result of `spectra` instead of images."""
    if Path(path).suffix != ".npz" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return "summary.npy" in archive.namelist()


def conditions(source: ComparedSource) -> str:
    """Says what two measurements must share to be compared."""
    facts = source.measurement.facts
    real, strides = facts["reference"], ",".join(map(str, facts["strides"]))
    return f"{real['name']} {real['digest'][:12]} with the strides {strides}"
