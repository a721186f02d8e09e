"""From a data set's name or a path to uint8 images in memory; batch order and noise."""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from config.schema import DataConfig
from gan.data.files import open_path
from gan.data.images import fit_image, parse_colour
from gan.data.source import DataError, Source, array_source
from gan.files import MAX_BYTES

ASSETS = Path(__file__).parents[1] / "assets"
BUNDLED_FILE = ASSETS / "fashion_mnist.npz"
BUNDLED_TRAIN_IMAGES = 60_000  # in that file
EMOJI_FILE = ASSETS / "emoji.npz"
BUNDLED = ("fashion_mnist", "emoji")
DARK_LEVEL = 64  # images without a brighter pixel get a note
LARGEST_OWN_SIZE = 128  # px; larger images are shrunk unless a size is asked for


@dataclass(frozen=True)
class Dataset:
    """Images of one size in memory."""

    name: str  # of the data set, or of the folder or file
    split: str  # "train" or "test"
    images_uint8: np.ndarray  # (N, H, W, C), contiguous, H = W, C 1 or 3
    labels: np.ndarray | None  # int64 (N,)
    digest: str  # hexadecimal sha256 of shape and bytes of the images
    notes: tuple[str, ...]  # a sentence for each thing that was skipped or changed


def load_dataset(config: DataConfig, split: str = "train") -> Dataset:
    """Loads all images of a split, brought to one shape, or raises DataError."""
    source = open_source(config, split)
    size, channels = target_shape(source, config)
    images: list[np.ndarray] = []
    labels: list[int] = []
    max_images = MAX_BYTES // (size * size * channels)
    for image, label in islice(source.examples, config.limit or None):
        if len(images) == max_images:
            raise DataError(
                f"{config.dataset}: received more than {max_images} images of {size} "
                "px, the most that are held in memory; give a number with --set "
                "data.limit"
            )
        image = 255 - image if config.invert else image
        images.append(fit_image(image, size, channels, config.fit, config.background))
        labels.append(label)
    notes = source.all_notes()
    if not images:
        raise DataError(" ".join([f"{config.dataset}: no image found.", *notes]))
    stacked = np.stack(images)
    if (brightest := int(stacked.max())) < DARK_LEVEL:
        notes = [
            *notes,
            f"The brightest pixel has level {brightest} of 255: are the images on "
            "another scale, such as 0 to 1 or 12 bits?",
        ]
    numbers = np.array(labels, np.int64) if source.has_labels else None
    return Dataset(source.name, split, stacked, numbers, digest(stacked), tuple(notes))


def open_source(config: DataConfig, split: str) -> Source:
    """Opens a bundled set, a path, or a data set of tensorflow-datasets."""
    name = config.dataset
    colour = parse_colour(config.background)
    if name == "emoji":
        return open_emoji(split, config.skin_tones)
    if name == "fashion_mnist":
        with np.load(BUNDLED_FILE, allow_pickle=False) as arrays:
            images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        return array_source(name, images[..., np.newaxis], labels)
    path = Path(name).expanduser()
    if name and path.exists():
        # Transparent pixels must have this colour after the inversion.
        red, green, blue = (255 - c if config.invert else c for c in colour)
        return open_path(path, split, (red, green, blue))
    if name.startswith((".", "~", "/")) or path.suffix in (".npz", ".npy"):
        raise DataError(
            f"{name}: no such folder or file; give the images' path with --dataset"
        )
    from gan.data.tfds import open_tfds  # imports TensorFlow

    return open_tfds(name, split)


def open_emoji(split: str, skin_tones: bool) -> Source:
    """Opens the bundled emoji, with or without their skin-tone variants.

    The labels are indices of the array `categories` in the file.
    """
    if split != "train":
        raise DataError(f"emoji: no {split} split")
    with np.load(EMOJI_FILE, allow_pickle=False) as arrays:
        chosen = ~arrays["skin_tones"] | skin_tones
        images, labels = arrays["images"][chosen], arrays["labels"][chosen]
    source = array_source("emoji", images, labels)
    if left_out := len(chosen) - len(images):
        source.notes.append(
            f"{left_out} skin-tone variants of emoji are left out, because they are "
            "nearly the same; add them with --set data.skin_tones=true."
        )
    return source


def target_shape(source: Source, config: DataConfig) -> tuple[int, int]:
    """Chooses size in pixels and channels, and notes it if images must change."""
    channels = config.channels or max((shape[2] for shape in source.shapes), default=1)
    sides = {shape[:2] for shape in source.shapes}
    lengths = {length for pair in sides for length in pair}
    shortest = min(lengths, default=28)
    if config.image_size:
        size = config.image_size
    elif len(lengths) == 1 and shortest % 4 == 0 and shortest <= LARGEST_OWN_SIZE:
        size = shortest
    else:
        size = next((size for size in (64, 32) if shortest >= size), 28)
    if sides - {(size, size)}:
        source.notes.append(
            f"Images with sides of {shortest} to {max(lengths)} px become "
            f"{size}x{size} px (fit: {config.fit}); to change this, give --set "
            "data.image_size=PX or --set data.fit=crop, pad or stretch."
        )
    return size, channels


def digest(images_uint8: np.ndarray) -> str:
    """Returns the hexadecimal sha256 of the shape and the bytes."""
    result = hashlib.sha256(repr(images_uint8.shape).encode())
    result.update(np.ascontiguousarray(images_uint8).data)
    return result.hexdigest()


def batch_indices(seed: int, step: int, batch_size: int, num_images: int) -> np.ndarray:
    """Returns which images form the batch of a step, as int64 (batch_size,).

    With B = batch_size, batch `step` covers positions step*B to step*B + B-1 of an
    endless list of epochs, each a permutation of all images.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, offsets = np.divmod(positions, num_images)
    indices = np.empty(batch_size, np.int64)
    for epoch in range(epochs[0], epochs[-1] + 1):
        chosen = epochs == epoch
        indices[chosen] = permutation(seed, epoch, num_images)[offsets[chosen]]
    return indices


@functools.lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, num_images: int) -> np.ndarray:
    """Returns the order of an epoch, int64 (num_images,), read-only.

    Sorts raw Philox numbers: NumPy promises that their stream stays the same between
    versions, and does not promise it for `Generator.permutation`.
    """
    raw = _philox(seed, epoch).random_raw(num_images)
    order = np.argsort(raw, kind="stable")
    order.flags.writeable = False
    return order


def latents(seed: int, step: int, batch_size: int, latent_dim: int) -> np.ndarray:
    """Returns the standard normal noise of a step, float32 (batch_size, latent_dim)."""
    random = np.random.Generator(_philox(seed, 2**63 + step))
    return random.standard_normal((batch_size, latent_dim), dtype=np.float32)


def latents_from_seeds(seeds: Sequence[int], latent_dim: int) -> np.ndarray:
    """Returns one latent vector per seed alone, float32 (len(seeds), latent_dim)."""
    randoms = [np.random.Generator(_philox(seed, 2**64 - 1)) for seed in seeds]
    return np.stack([r.standard_normal(latent_dim, dtype=np.float32) for r in randoms])


def _philox(seed: int, stream: int) -> np.random.Philox:
    """Random numbers: epochs use streams from 0, steps from 2**63, samples the last."""
    return np.random.Philox(key=np.array([seed, stream], np.uint64))
