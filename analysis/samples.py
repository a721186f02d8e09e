"""Loads the images to measure (from a run, an .npz or a folder) and real images.

All commands load images here. Nothing is resized or rescaled, because both would change
a spectrum.
"""

import dataclasses
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from config.schema import DataConfig
from gan.data.dataset import digest, load_dataset
from gan.data.files import open_path
from gan.data.images import to_uint8
from gan.files import read_arrays
from gan.run.environment import prepare_tensorflow

MIN_IMAGES = 500
ADVISED_IMAGES = 2000


class SampleError(ValueError):
    """The images cannot be measured; the message is one line for the user."""


@dataclass(frozen=True)
class Samples:
    """Images of one size, and where they came from.

    Attributes:
        images_uint8: uint8 (N, H, W, C), C 1 or 3.
        name: short name for tables.
        source: "run", "file", "folder" or "data set".
        digest: hexadecimal sha256 of shape and bytes.
        facts: more about the source, as far as it is known: path, split, step,
            upsample, training_seed, latent_seeds.
        data: settings of the data that a run was trained on; None for other sources.
        notes: one sentence for each thing that a reader of the results should know.
        labels: int64 (N,), classes of real images; None where there are none.
        strides: strides of the upsamplings of a run's generator, first to last.
    """

    images_uint8: np.ndarray
    name: str
    source: str
    digest: str
    facts: dict[str, Any] = field(default_factory=dict)
    data: DataConfig | None = None
    notes: tuple[str, ...] = ()
    labels: np.ndarray | None = None
    strides: tuple[int, ...] | None = None

    @property
    def size(self) -> str:
        """Height, width and channels, for example "28x28 px, grey"."""
        height, width, channels = self.images_uint8.shape[1:]
        return f"{height}x{width} px, {'grey' if channels == 1 else 'RGB'}"

    def describe(self) -> dict[str, Any]:
        """Name, source, digest, size, notes and facts, for JSON."""
        names = "name", "source", "digest", "size", "notes"
        return {name: getattr(self, name) for name in names} | self.facts


def load_samples(
    path: str | Path, num_images: int = 10_000, checkpoint: str = "latest"
) -> Samples:
    """Loads images to be measured.

    Args:
        path: a run folder, an .npz with `images`, or a folder of pictures.
        num_images: number of images. A run makes them from the seeds 0, 1, 2, ...; of
            other sources the first ones are taken, all if there are fewer.
        checkpoint: which checkpoint of a run: "latest", "best" or a step.

    Raises:
        SampleError: if the images cannot be measured.
        ValueError: from `gan`, if a run or a folder cannot be read.
    """
    path = Path(path).resolve()
    if (path / "config.json").is_file():
        return sample_run(path, num_images, checkpoint)
    source, name, images = read_path(path, num_images)
    return make_samples(images, name, source, {"path": str(path)})


def sample_run(path: Path, num_images: int, checkpoint: str) -> Samples:
    """Makes images with a run's averaged generator."""
    prepare_tensorflow()
    from gan.sampling import open_run, sample

    run = open_run(path, checkpoint)
    images = sample(run.generator, range(num_images))
    facts = {
        "path": str(path),
        "step": run.step,
        "upsample": run.config.model.upsample,
        "training_seed": run.config.run.seed,
        "latent_seeds": f"0..{num_images - 1}",
    }
    made = make_samples(images, path.name, "run", facts, run.config.data)
    return dataclasses.replace(made, strides=upsampling_strides(run.generator))


def upsampling_strides(model: Any) -> tuple[int, ...]:
    """Factors by which the layers of a model enlarge square maps, first to last."""
    strides = []
    for operation in model.operations:
        before, after = (getattr(operation, side, None) for side in ("input", "output"))
        shapes: list[Any] = [getattr(tensor, "shape", ()) for tensor in (before, after)]
        if all(len(shape) == 4 for shape in shapes) and shapes[1][1] > shapes[0][1]:
            strides.append(shapes[1][1] // shapes[0][1])
    return tuple(strides)


def load_reference(
    reference: str | None = None, samples: Samples | None = None, split: str = "train"
) -> Samples:
    """Loads the real images to compare with.

    Args:
        reference: an .npz, a folder or the name of a data set; None: the data set that
            the samples' run was trained on, or Fashion-MNIST if there is no run.
        samples: the samples to compare with, of the same size and channels.
        split: "train" or "test", if the reference is a data set.

    Raises:
        SampleError: if they do not fit the samples or cannot be measured.
        ValueError: from `gan`, if they cannot be read.
    """
    if reference and Path(reference).exists():
        path = Path(reference).resolve()
        source, name, images = read_path(path, None)
        real = make_samples(images, name, source, {"path": str(path)})
    else:
        data = samples.data if samples else None
        config = DataConfig(dataset=reference) if reference else data or DataConfig()
        dataset = load_dataset(config, split)
        facts = {"split": split}
        real = make_samples(dataset.images_uint8, dataset.name, "data set", facts)
        real = dataclasses.replace(real, labels=dataset.labels)
    if samples and samples.images_uint8.shape[1:] != real.images_uint8.shape[1:]:
        raise SampleError(
            f"{samples.name}: received images of {samples.size}; the reference "
            f"{real.name} has {real.size}; name the real set with --reference"
        )
    return real


def halves(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Splits real images into the even and the odd positions.

    The first half is the reference, the second half says what real images measure.
    Whether a set is sorted by class or by date, both halves get the same mixture.
    """
    return images[0::2], images[1::2]


def make_samples(
    images_uint8: np.ndarray,
    name: str,
    source: str,
    facts: dict[str, Any],
    data: DataConfig | None = None,
) -> Samples:
    """Checks images before they are measured, and notes what makes results doubtful.

    Raises:
        SampleError: if there are fewer than MIN_IMAGES images, or all are constant.
    """
    num_images = len(images_uint8)
    if num_images < MIN_IMAGES:
        raise SampleError(
            f"{name}: received {num_images} images, expected at least {MIN_IMAGES}"
        )
    flat = images_uint8.reshape(num_images, -1)
    num_constant = int((flat.max(axis=1) == flat.min(axis=1)).sum())
    if num_constant == num_images:
        raise SampleError(f"{name}: every image is constant, expected pictures")
    notes = []
    if num_images < ADVISED_IMAGES:
        notes.append(f"{num_images} images; {ADVISED_IMAGES} or more are advised.")
    if num_constant:
        notes.append(f"{num_constant} of {num_images} images are constant.")
    if (flat == flat[0]).all():
        notes.append("All images are the same one.")
    number = digest(images_uint8)
    return Samples(images_uint8, name, source, number, facts, data, tuple(notes))


def read_path(path: Path, num_images: int | None) -> tuple[str, str, np.ndarray]:
    """Reads an .npz or a folder; returns source, name and uint8 (N, H, W, C)."""
    if path.suffix == ".npz" and path.is_file():
        return "file", path.stem, read_npz(path)[:num_images]
    if not path.is_dir():
        raise SampleError(f"{path}: expected a run, an .npz file or a folder of images")
    pictures = open_path(path, "train", background=0)
    if len(pictures.shapes) > 1:
        sizes = ", ".join("x".join(map(str, s)) for s in sorted(pictures.shapes))
        raise SampleError(f"{path}: received images of several sizes ({sizes})")
    images = [image for image, _ in islice(pictures.examples, num_images)]
    if not images:
        raise SampleError(f"{path}: no run and no images found here")
    return "folder", path.name, np.stack(images)


def read_npz(path: Path) -> np.ndarray:
    """Reads the array `images` of an .npz: uint8 or floats in [-1, 1].

    Returns:
        uint8 (N, H, W, C); the array in the file may be without the last axis.
    """
    try:
        images = read_arrays(path, ["images"])["images"]
    except KeyError:
        raise SampleError(f"{path}: expected an array called images") from None
    except (OSError, ValueError) as error:
        reason = "images of several sizes" if "Object arrays" in str(error) else error
        raise SampleError(f"{path}: cannot be read ({reason})") from None
    images = images[..., np.newaxis] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise SampleError(
            f"{path}: received images of shape {images.shape}, expected (N, H, W) or "
            "(N, H, W, C) with 1 or 3 channels"
        )
    if np.issubdtype(images.dtype, np.floating):
        return quantise(images, path.name)
    if images.dtype != np.uint8:
        raise SampleError(f"{path}: received {images.dtype}, expected uint8")
    return images


def quantise(images: np.ndarray, name: str) -> np.ndarray:
    """Maps floats in [-1, 1] to uint8.

    Raises:
        SampleError: if there are NaN, or values show that the range is another one.
    """
    if not np.isfinite(images).all():
        raise SampleError(f"{name}: received NaN or infinite values")
    low, high = (float(f(initial=0)) for f in (images.min, images.max))
    if max(-low, high) > 1.001 or low >= 0:
        raise SampleError(
            f"{name}: received floats in [{low:.3g}, {high:.3g}], expected uint8, or "
            "floats in [-1, 1]"
        )
    return to_uint8(images)
