"""Loads the images to measure (from a run, an .npz or a folder) and real images.

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
from gan.data.files import open_path
from gan.data.images import round_to_uint8
from gan.files import read_arrays
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
        ValueError: if the images cannot be read or measured.
    """
    path = Path(path).resolve()
    if not (path / "config.json").is_file():
        return read_path(path, num_images)
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


def total_cost(layers: Sequence[Any]) -> dict[str, int]:
    """Sums parameters, and multiply-accumulates per image, over audited layers."""
    return {key: sum(getattr(it, key) for it in layers) for key in ("params", "macs")}


def load_reference(
    reference: str | Samples | None = None, samples: Samples | None = None
) -> Samples:
    """Loads real images that fit the samples.

    `reference` is an .npz, a folder or the name of a data set, or images in memory;
    None means the data set that the samples' run was trained on, or Fashion-MNIST if
    there is no run.

    Raises:
        ValueError: if they cannot be read or measured, or do not fit.
    """
    if isinstance(reference, Samples):
        real = reference
    elif reference and Path(reference).exists():
        real = read_path(Path(reference).resolve(), None)
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
    return Samples(
        images_uint8, name, source, digest(images_uint8), facts, notes=tuple(notes)
    )


def read_path(path: Path, num_images: int | None) -> Samples:
    """Reads the first images of an .npz or a folder; None: all images."""
    facts = {"path": str(path)}
    if path.suffix == ".npz" and path.is_file():
        return make_samples(read_npz(path)[:num_images], path.stem, "file", facts)
    if not path.is_dir():
        raise SampleError(f"{path}: expected a run, an .npz file or a folder of images")
    pictures = open_path(path, "train")
    if len(pictures.shapes) > 1:
        sizes = ", ".join("x".join(map(str, s)) for s in sorted(pictures.shapes))
        raise SampleError(f"{path}: received images of several sizes ({sizes})")
    images = [image for image, _ in islice(pictures.examples, num_images)]
    if not images:
        raise SampleError(f"{path}: no run and no images found here")
    return make_samples(np.stack(images), path.name, "folder", facts)


def read_npz(path: Path) -> np.ndarray:
    """Reads `images` of an .npz, uint8 or floats in [-1, 1], as uint8 (N, H, W, C)."""
    try:
        images = read_arrays(path, ["images"])["images"]
    except KeyError:
        raise SampleError(f"{path}: expected an array called images") from None
    except (OSError, ValueError) as error:
        reason = "images of several sizes" if "Object arrays" in str(error) else error
        raise SampleError(f"{path}: cannot be read ({reason})") from None
    images = with_channels(images, str(path))
    if np.issubdtype(images.dtype, np.floating):
        return quantise(images, path.name)
    if images.dtype != np.uint8:
        raise SampleError(f"{path}: received {images.dtype}, expected uint8")
    return images


def from_array(
    images: Any,
    name: str = "images",
    value_range: tuple[float, float] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Samples:
    """Returns images in memory as samples.

    Args:
        images: (N, H, W) or (N, H, W, C) with 1 or 3 channels, such as a NumPy array or
            a tensor.
        name: how results call them.
        value_range: the values of black and white, such as (-1, 1) or (0, 1); None: the
            images are uint8.
        strides: of the upsamplings of the model that made them, first to last.

    Raises:
        SampleError: if type, shape or range are others, or the images are too few.
    """
    array = with_channels(np.asarray(images), name)
    if value_range is not None:
        array = quantise(array, name, value_range)
    elif array.dtype != np.uint8:
        raise SampleError(
            f"{name}: received {array.dtype}, expected uint8, or the values of black "
            "and white, such as value_range=(-1, 1)"
        )
    return dataclasses.replace(make_samples(array, name, "array", {}), strides=strides)


def with_channels(images: np.ndarray, name: str) -> np.ndarray:
    """Returns (N, H, W) or (N, H, W, C) as (N, H, W, C), C 1 or 3."""
    images = images[..., np.newaxis] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise SampleError(
            f"{name}: received images of shape {images.shape}, expected (N, H, W) or "
            "(N, H, W, C) with 1 or 3 channels"
        )
    return images


def quantise(
    images: np.ndarray, name: str, value_range: tuple[float, float] | None = None
) -> np.ndarray:
    """Maps numbers to uint8; SampleError if their range is another one.

    `value_range` holds the values of black and white. None stands for (-1, 1), where
    images without a negative value are refused: they are probably in [0, 1].
    """
    black, white = map(float, value_range or (-1, 1))
    images = images.astype(np.float32)
    if not black < white:
        raise SampleError(
            f"{name}: received value_range=({black:g}, {white:g}), expected the value "
            "of black and a larger one of white"
        )
    if not np.isfinite(images).all():
        raise SampleError(f"{name}: received NaN or infinite values")
    low, high = float(images.min(initial=white)), float(images.max(initial=black))
    slack = (white - black) / 2000  # rounding
    outside = low < black - slack or high > white + slack
    if outside or (value_range is None and low >= 0):
        expected = f"[{black:g}, {white:g}]"
        if value_range is None:
            expected = f"uint8, or floats in {expected}"
        raise SampleError(
            f"{name}: received values in [{low:.3g}, {high:.3g}], expected {expected}"
        )
    levels = (images - black) * (255 / (white - black))
    return round_to_uint8(levels)
