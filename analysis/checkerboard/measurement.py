"""One set of samples measured against real images, kept in one file.

What `spectra` prints, `compare` and `report` draw. Real images are split into R1, the
reference, and R2, the null: R2 against R1 says how much two sets without any artifact
differ, and from which amplitude on a line is told from none.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.checkerboard import meter, profiles
from analysis.checkerboard.layout import Layout, Protocol, make_layout
from analysis.checkerboard.meter import Contrast, contrast, detection_limit
from analysis.checkerboard.spectrum import mean_level, measure
from analysis.samples import MIN_IMAGES, SampleError, Samples, halves
from gan.files import read_arrays

FORMAT = 2
NUM_EXAMPLES = 64
FAMILIES = {"a_last": 1, "a_prev": 2}


@dataclass(frozen=True)
class Measurement:
    """Numbers and arrays of one measurement.

    Attributes:
        summary: what `--json` prints.
        arrays: half spectra in squared grey levels (`power`, `real_power`,
            `null_power`, and `_error` of the first two), `border_difference` (see
            `profiles.border_profile`), `pixel_mean`, and `examples` as uint8 images.
    """

    summary: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def layout(self) -> Layout:
        """Where the lines are."""
        protocol = Protocol(**self.summary["protocol"])
        height, width = self.arrays["pixel_mean"].shape
        return make_layout(height, width, protocol)

    def save(self, path: str | Path) -> None:
        """Writes an .npz that loads without pickle."""
        summary = np.array(json.dumps(self.summary))
        np.savez_compressed(path, allow_pickle=False, summary=summary, **self.arrays)


def load_measurement(path: str | Path) -> Measurement:
    """Reads what `save` wrote.

    Raises:
        SampleError: if it is something else.
    """
    try:
        arrays = read_arrays(Path(path))
        summary = json.loads(str(arrays.pop("summary")))
        if summary["format"] != FORMAT:
            raise ValueError(f"format {summary['format']}, expected {FORMAT}")
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise SampleError(f"{path}: not a result of `spectra` ({error})") from None
    return Measurement(summary, arrays)


def measure_samples(
    samples: Samples, reference: Samples, protocol: Protocol, seed: int = 0
) -> Measurement:
    """Measures samples against R1, and as many images of R2 against R1.

    Args:
        samples: what is judged.
        reference: real images of the same shape, at least twice MIN_IMAGES.
        protocol: window, strides, crop.
        seed: of the resampling.

    Raises:
        ValueError: if there are too few real images, or they are too small.
    """
    r1, r2 = halves(reference.images_uint8)
    if len(r2) < MIN_IMAGES:
        raise SampleError(
            f"{reference.name}: received {len(reference.images_uint8)} real images, "
            f"expected at least {2 * MIN_IMAGES}: half of them is the null"
        )
    level = mean_level(r1)
    real, null, spectrum = (
        measure(images, level=level, protocol=protocol)
        for images in (r1, r2[: len(samples.images_uint8)], samples.images_uint8)
    )
    null_contrast = contrast(null, real, seed)
    sizes = {"samples": spectrum, "real": real, "null": null}
    summary = {
        "format": FORMAT,
        "samples": describe(samples),
        "reference": describe(reference),
        "num_images": {name: s.num_images for name, s in sizes.items()},
        "protocol": dataclasses.asdict(protocol),
        "level": level,
        "resampling": {"num": meter.NUM_RESAMPLES, "seed": seed},
        "code": code_digest(),
        **summarise(contrast(spectrum, real, seed), null_contrast, real.layout),
        "coherence_floor": 1 / spectrum.num_images,
        "trimmed_delta_pnr_db": by_line(
            meter.trimmed_pnr_db(spectrum) - meter.trimmed_pnr_db(real),
            real.layout,
        ),
        "high_band_share": {
            name: profiles.high_band_share(s.power, real.layout.shape)
            for name, s in sizes.items()
        },
    }
    borders = [profiles.border_profile(s) for s in (spectrum, real)]
    arrays = {
        "power": spectrum.power,
        "power_error": spectrum.power_error,
        "real_power": real.power,
        "real_power_error": real.power_error,
        "null_power": null.power,
        "border_difference": borders[0] - borders[1],
        "pixel_mean": spectrum.pixels[0],
        "examples": samples.images_uint8[:NUM_EXAMPLES],
    }
    return Measurement(summary, arrays)


def by_line(values: np.ndarray, layout: Layout) -> dict[str, float]:
    """Puts the lines' names to values."""
    return {line.name: float(values[i]) for i, line in enumerate(layout.lines)}


def summarise(result: Contrast, null: Contrast, layout: Layout) -> dict[str, Any]:
    """Names the numbers of a contrast, for JSON."""
    limits = {
        layer: detection_limit(interval)
        for layer, interval in null.family_amplitude.items()
    }
    return {
        **{
            name: result.family_amplitude[layer].as_dict()
            | {"detection_limit": float(limits[layer])}
            for name, layer in FAMILIES.items()
            if layer in limits
        },
        "delta_pnr_db": {
            line.name: result.delta_pnr_db[i].as_dict()
            for i, line in enumerate(layout.lines)
        },
        "family_delta_pnr_db": {
            str(layer): interval.as_dict()
            for layer, interval in result.family_delta_pnr_db.items()
        },
        "amplitude": {
            line.name: result.amplitude[i].as_dict()
            for i, line in enumerate(layout.lines)
        },
        "detection_limit": by_line(detection_limit(null.amplitude), layout),
        "null_delta_pnr_db": {
            line.name: null.delta_pnr_db[i].as_dict()
            for i, line in enumerate(layout.lines)
        },
        "coherence": by_line(result.coherence, layout),
        "phase_variance_db": {str(k): v for k, v in result.phase_variance_db.items()},
        "log_spectral_distance_db": {
            "value": result.log_spectral_distance_db,
            "null": null.log_spectral_distance_db,
        },
    }


def describe(samples: Samples) -> dict[str, Any]:
    """Name, source, digest and facts, for JSON."""
    names = "name", "source", "digest", "size", "notes"
    return {name: getattr(samples, name) for name in names} | samples.facts


def code_digest() -> str:
    """Identifies the code that measures: sha256 of this chapter, 12 digits."""
    result = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        result.update(path.read_bytes())
    return result.hexdigest()[:12]
