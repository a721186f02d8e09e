"""One set of samples measured against real images, kept in one file.

What `spectra` prints, `compare` and `report` draw. Real images are divided into two
halves: the reference, and a second one that is read as the samples are.
"""

import json
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from analysis.checkerboard.frequencies import (
    GridFrequency,
    Layout,
    make_layout,
    strides_to_scan,
)
from analysis.checkerboard.jpeg import measure_blocks
from analysis.checkerboard.meter import (
    Estimate,
    GridReading,
    Reading,
    Resolution,
    read,
)
from analysis.checkerboard.moments import Moments, measure_moments
from analysis.checkerboard.nuisances import measure_resolution
from analysis.checkerboard.words import decibels, describe
from analysis.samples import MIN_IMAGES, SampleError, Samples, halves
from gan.files import read_arrays

FORMAT = 3
NUM_EXAMPLES = 64
NAMES = (
    "imaging_gain_percent",
    "locked_share",
    "fixed_pattern_levels",
    "free_pattern_levels",
    "free_chroma_levels",
)


@dataclass(frozen=True)
class Measurement:
    """Readings of one set of samples, and what is needed to draw them.

    Attributes:
        readings: one for each grid frequency.
        facts: about samples, reference and protocol, as `--json` prints them.
        arrays: `power` and `real_power` (height, width), squared grey levels;
            `mean_image` and `real_mean_image`, grey levels; `examples`, uint8 images;
            `gram` and `cross` of `Moments`, added over the groups.
    """

    readings: tuple[GridReading, ...]
    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def layout(self) -> Layout:
        """Where the grid frequencies are."""
        strides = tuple(self.facts["strides"])
        height, width = self.arrays["power"].shape
        return make_layout(height, width, strides)

    @property
    def sentences(self) -> list[str]:
        """What was found, in words."""
        found = describe(self.readings, known_strides=self.facts["known_strides"])
        if self.facts["jpeg_blocks"]["found"]:
            found.append(
                "The images have blocks of 8 pixels, as JPEG compression leaves them: "
                f"pixels differ {self.facts['jpeg_blocks']['ratio']:.2f} times as much "
                "across their borders. Measure images that were never saved as JPEG."
            )
        return found

    @property
    def tile(self) -> np.ndarray:
        """The fixed pattern of one period beyond that of real images.

        Returns:
            float64 (period, period, C), grey levels about 0.
        """
        difference = self.arrays["mean_image"] - self.arrays["real_mean_image"]
        return phase_tile(difference, self.layout)

    def as_dict(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        return {
            **self.facts,
            "found": any(reading.found for reading in self.readings),
            "sentences": self.sentences,
            "alphas": [reading_to_dict(reading) for reading in self.readings],
        }

    def save(self, path: str | Path) -> None:
        """Writes an .npz that loads without pickle."""
        summary = np.array(json.dumps(self.as_dict()))
        np.savez_compressed(path, allow_pickle=False, summary=summary, **self.arrays)


def load_measurement(path: str | Path) -> Measurement:
    """Reads what `save` wrote.

    Raises:
        SampleError: if it is something else.
    """
    try:
        arrays = read_arrays(Path(path))
        facts = json.loads(str(arrays.pop("summary")))
        if facts["format"] != FORMAT:
            raise ValueError(f"format {facts['format']}, expected {FORMAT}")
        readings = tuple(map(reading_from_dict, facts.pop("alphas")))
        for derived in ("found", "sentences"):
            del facts[derived]
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise SampleError(f"{path}: not a result of `spectra` ({error})") from None
    return Measurement(readings, facts, arrays)


@dataclass(frozen=True)
class RealImages:
    """Real images, read once for all samples that are measured against them.

    Attributes:
        samples: the real images.
        reference: sums of their first half.
        second_half: uint8, which is read as samples are.
        resolution: what ordinary changes of the second half do to the readings.
        nulls: by number of images, sums of the first images of the second half.
    """

    samples: Samples
    reference: Moments
    second_half: np.ndarray
    resolution: Resolution
    nulls: dict[int, Moments] = field(default_factory=dict)

    def null(self, num_images: int) -> Moments:
        """Sums of at most so many images of the second half."""
        number = min(num_images, len(self.second_half))
        if number not in self.nulls:
            strides = self.reference.layout.strides
            self.nulls[number] = measure_moments(self.second_half[:number], strides)
        return self.nulls[number]

    def read(self, samples: Moments) -> list[GridReading]:
        """All readings of samples, and of as many real images."""
        null = self.null(samples.num_images)
        return read(samples, self.reference, null, self.resolution)


def read_real_images(
    reference: Samples, strides: tuple[int, ...], seed: int = 0
) -> RealImages:
    """Divides real images into two halves and reads the first one.

    Args:
        reference: real images, at least twice MIN_IMAGES.
        strides: of the upsamplings, first to last.
        seed: of the noise that the resolution is tried with.

    Raises:
        ValueError: if there are too few real images, or they are too small.
    """
    first, second = halves(reference.images_uint8)
    if len(second) < MIN_IMAGES:
        raise SampleError(
            f"{reference.name}: received {len(reference.images_uint8)} real images, "
            f"expected at least {2 * MIN_IMAGES}; one half is read as samples are"
        )
    moments = measure_moments(first, strides)
    labels = None if reference.labels is None else halves(reference.labels)[1]
    resolution = measure_resolution(second, moments, labels, seed)
    return RealImages(reference, moments, second, resolution)


def measure_samples(
    samples: Samples,
    reference: Samples,
    strides: tuple[int, ...] | None = None,
    seed: int = 0,
) -> Measurement:
    """Reads samples, and as many real images, against the other real images.

    Args:
        samples: what is measured.
        reference: real images of the same shape, at least twice MIN_IMAGES.
        strides: of the upsamplings, first to last; None: those of the samples' model,
            and where they are not known all of 2, 4, 8 that the size allows.
        seed: of the noise that the resolution is tried with.

    Raises:
        ValueError: if there are too few real images, or they are too small.
    """
    strides = strides or samples.strides
    scanned = strides or strides_to_scan(*samples.images_uint8.shape[1:3])
    real = read_real_images(reference, scanned, seed)
    return measure_against(samples, real, known_strides=strides is not None)


def measure_against(
    samples: Samples, real: RealImages, *, known_strides: bool
) -> Measurement:
    """Reads samples against real images; `known_strides` as in `words.describe`."""
    strides = real.reference.layout.strides
    found = measure_moments(samples.images_uint8, strides)
    blocks = measure_blocks(samples.images_uint8, real.samples.images_uint8)
    # The samples of a run were never saved, and early ones have edges at fixed places.
    is_jpeg = blocks.found and samples.source != "run"
    facts = {
        "format": FORMAT,
        "samples": samples.describe(),
        "reference": real.samples.describe(),
        "num_images": {
            "samples": found.num_images,
            "reference": real.reference.num_images,
            "real": real.null(found.num_images).num_images,
        },
        "strides": list(strides),
        "known_strides": known_strides,
        "jpeg_blocks": {**asdict(blocks), "found": is_jpeg},
    }
    arrays = {
        "power": found.power,
        "real_power": real.reference.power,
        "mean_image": found.mean_image,
        "real_mean_image": real.reference.mean_image,
        "examples": samples.images_uint8[:NUM_EXAMPLES],
        "gram": found.gram.sum(axis=1),
        "cross": found.cross.sum(axis=1),
    }
    return Measurement(tuple(real.read(found)), facts, arrays)


def phase_tile(mean_image: np.ndarray, layout: Layout) -> np.ndarray:
    """What the grid frequencies of a mean image draw: one period of it.

    Args:
        mean_image: (height, width, C), grey levels.
        layout: whose strides give the period.
    """
    period = int(np.prod(layout.strides))
    steps = [side // period for side in layout.shape]
    windowed = np.moveaxis(mean_image, 2, 0) * layout.window
    waves = np.fft.fft2(windowed)[:, :: steps[0], :: steps[1]]
    waves[:, 0, 0] = 0
    return np.moveaxis(np.fft.ifft2(waves, norm="forward").real, 0, 2)


def reading_to_dict(reading: GridReading) -> dict[str, Any]:
    """One grid frequency as plain data; `reading_from_dict` is the inverse."""
    frequency = reading.frequency
    found: dict[str, Any] = {
        "row": float(frequency.row),
        "column": float(frequency.column),
        "stage": frequency.stage,
        "period": frequency.period,
        "imaging_gain_db": decibels(reading.imaging_gain_percent.samples.value),
        "contrast_levels": reading.contrast_levels,
        "pattern_levels": reading.pattern_levels,
        "parts": {name: list(pair) for name, pair in reading.parts.items()},
    }
    for name in NAMES:
        item: Reading | None = getattr(reading, name)
        found[name] = item and {
            **asdict(item.samples),
            "real": asdict(item.real),
            **{key: getattr(item, key) for key in ("excess", "z", "log_p", "limit")},
            "found": item.found,
        }
    return found


def reading_from_dict(data: dict[str, Any]) -> GridReading:
    """The inverse of `reading_to_dict`."""

    def one(item: dict[str, Any] | None) -> Any:
        if item is None:
            return None
        numbers = dict(item)
        samples = Estimate(*(numbers.pop(key) for key in ("value", "low", "high")))
        return Reading(samples, Estimate(**numbers.pop("real")), **numbers)

    row, column = (Fraction(data[k]).limit_denominator(256) for k in ("row", "column"))
    frequency = GridFrequency(row, column, data["stage"], data["period"])
    return GridReading(
        frequency,
        **{name: one(data[name]) for name in NAMES},
        parts={name: (pair[0], pair[1]) for name, pair in data["parts"].items()},
        contrast_levels=data["contrast_levels"],
    )
