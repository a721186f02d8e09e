"""Loads the images to measure (from a run, a file or a folder) and real images.

Nothing is resized or rescaled, because both would change a spectrum.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from config.schema import Config, DataConfig, UserError
from gan.data.dataset import Dataset, digest, load_dataset
from gan.data.files import array_to_uint8, open_path
from gan.files import counted
from gan.run.environment import prepare_tensorflow

MIN_IMAGES = 500
ADVISED_IMAGES = 2000


class SampleError(UserError):
    """The images cannot be measured; the message is one line for the user."""


@dataclass(frozen=True)
class Samples:
    """Images of one size, and where they came from.

    Attributes:
        images_uint8: uint8 (N, H, W, C), C 1 or 3.
        source: "run", "file", "folder", "array" or "data set".
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
        return size_text(self.images_uint8)

    def describe(self) -> dict[str, Any]:
        """Name, source, digest, size, notes and facts, for JSON."""
        names = "name", "source", "digest", "size", "notes"
        return {name: getattr(self, name) for name in names} | self.facts


def size_text(images: np.ndarray) -> str:
    """Height, width and channels of images (N, H, W, C), as in `Samples.size`."""
    height, width, channels = images.shape[1:]
    return f"{height}x{width} px, {'grey' if channels == 1 else 'RGB'}"


def load_samples(
    path: str | Path | Samples,
    num_images: int = 10_000,
    checkpoint: str = "latest",
    value_range: tuple[float, float] | None = None,
) -> Samples:
    """Loads images to be measured.

    Args:
        path: a run folder, an .npz or .npy of images, or a folder of pictures. Images
            in memory are returned as they are.
        num_images: number of images. A run makes them from the seeds 0, 1, 2, ...; of
            other sources the first ones are taken, all if there are fewer.
        checkpoint: which checkpoint of a run: "latest", "best" or a step.
        value_range: black and white in arrays of floats; None: -1 and 1.

    Raises:
        ValueError: if the images cannot be read or measured.
    """
    if isinstance(path, Samples):
        return path
    path = Path(path).resolve()
    if not (path / "config.json").is_file():
        return read_path(path, num_images, value_range)
    prepare_tensorflow()
    from gan.sampling import open_run

    run = open_run(path, checkpoint)
    made = sample_generator(run.generator, run.config, run.step, num_images, path.name)
    return dataclasses.replace(made, facts={"path": str(path)} | made.facts)


def sample_generator(
    generator: Any, config: Config, step: int, num_images: int, name: str
) -> Samples:
    """Makes images with a generator of the run `name`."""
    from gan.sampling import sample

    images = sample(generator, range(num_images))
    facts = {
        "step": step,
        "upsample": config.model.upsample,
        "training_seed": config.run.seed,
        "latent_seeds": f"0..{num_images - 1}",
    }
    made = make_samples(images, name, "run", facts)
    strides = upsampling_strides(generator)
    return dataclasses.replace(made, data=config.data, strides=strides)


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
    reference: str | Samples | None = None,
    samples: Samples | None = None,
    value_range: tuple[float, float] | None = None,
) -> Samples:
    """Loads real images that fit the samples.

    `reference` is a file or a folder, as in `load_samples`, the name of a data set, or
    images in memory; None means the data set that the samples' run was trained on, or
    Fashion-MNIST if there is no run.

    Raises:
        ValueError: if they cannot be read or measured, or do not fit.
    """
    if isinstance(reference, Samples):
        real = reference
    elif reference and Path(reference).exists():
        real = read_path(Path(reference).resolve(), None, value_range)
    else:
        data = samples.data if samples else None
        config = DataConfig(dataset=reference) if reference else data or DataConfig()
        real = from_dataset(load_dataset(config, "train"))
    if samples and samples.images_uint8.shape[1:] != real.images_uint8.shape[1:]:
        raise SampleError(
            f"{samples.name}: received images of {samples.size}; the reference "
            f"{real.name} has {real.size}; name the real set with --reference"
        )
    return real


def from_dataset(train: Dataset) -> Samples:
    """Returns the training images of a data set, with their classes."""
    facts = {"split": "train"}
    real = make_samples(train.images_uint8, train.name, "data set", facts)
    return dataclasses.replace(real, labels=train.labels)


def unique_labels(facts: Sequence[dict[str, Any]]) -> list[str]:
    """Names sources by their folder or file, with as many parents as tell them apart.

    Args:
        facts: of each source its `name`, and its `path` if it has one. Equal sources
            are numbered.
    """
    paths = [Path(it.get("path", it["name"])).parts for it in facts]
    labels, depth = [it["name"] for it in facts], 1
    while len(set(labels)) < len(set(paths)):
        depth += 1
        labels = [str(Path(*parts[-depth:])) for parts in paths]
    return [
        f"{label} ({place})" if labels.count(label) > 1 else label
        for place, label in enumerate(labels, start=1)
    ]


def halves(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Splits real images into even and odd positions, which have equal mixtures.

    The first half is the reference, the second half says what real images measure.
    """
    return images[0::2], images[1::2]


def make_samples(
    images_uint8: np.ndarray, name: str, source: str, facts: dict[str, Any]
) -> Samples:
    """Checks images (SampleError), and notes what makes results doubtful."""
    num_images = len(images_uint8)
    if num_images < MIN_IMAGES:
        raise SampleError(
            f"{name}: received {counted(num_images, 'image')}, expected at least "
            f"{MIN_IMAGES}; --reference names other real images, and `python -m "
            "analysis quality` takes fewer of them"
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
    return Samples(
        images_uint8, name, source, digest(images_uint8), facts, notes=tuple(notes)
    )


def read_path(
    path: Path,
    num_images: int | None,
    value_range: tuple[float, float] | None = None,
) -> Samples:
    """Reads the first images of a file or a folder; None: all images.

    Grey pictures among colour ones become colour, as in training. `value_range`: see
    `gan.data.files.open_path`.
    """
    source = open_path(path, "train", value_range=value_range)
    images = [image for image, _ in islice(source.examples, num_images)]
    if not images:
        raise SampleError(" ".join([f"{path}: no image found.", *source.all_notes()]))
    if len(sizes := {image.shape[:2] for image in images}) > 1:
        some = ", ".join(f"{height}x{width}" for height, width in sorted(sizes)[:3])
        some += ", ..." * (len(sizes) > 3)
        raise SampleError(
            f"{path}: received images of {len(sizes)} sizes ({some}), expected one "
            "size, because resizing changes the spectrum"
        )
    channels = {image.shape[2] for image in images}
    notes = source.all_notes()
    if len(channels) > 1:
        images = [np.broadcast_to(image, (*image.shape[:2], 3)) for image in images]
        notes.append("Grey pictures among colour ones are taken as colour.")
    kind = "folder" if path.is_dir() else "file"
    name = path.name if path.is_dir() else path.stem
    found = make_samples(np.stack(images), name, kind, {"path": str(path)})
    return dataclasses.replace(found, notes=(*notes, *found.notes))


def from_array(
    images: Any,
    name: str = "images",
    value_range: tuple[float, float] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Samples:
    """Returns images in memory as samples.

    Args:
        images: uint8 or floats (N, H, W), (N, H, W, C) or (N, C, H, W), C 1 or 3, such
            as a NumPy array or a tensor.
        name: how results call them.
        value_range: black and white in floats; None: -1 and 1.
        strides: of the upsamplings of the model that made them, first to last.

    Raises:
        ValueError: if type, shape or range are others, or the images are too few.
    """
    array, notes = array_to_uint8(np.asarray(images), value_range, name)
    found = make_samples(array, name, "array", {})
    return dataclasses.replace(found, notes=(*notes, *found.notes), strides=strides)
