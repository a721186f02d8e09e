"""The fixed feature network that all quality metrics are computed from.

The module builds the network, loads its weights and turns uint8 images into features.
`tools/train_extractor.py` trains the weights. Metrics of two networks cannot be
compared, not even of the same network trained twice. Therefore a hash of the weights is
part of the network's id, and the id is part of every metric's name.

For images without trained weights the network has fixed random weights, whose features
still respond to shapes and textures (Naeem et al. 2020, arXiv:2002.09797).
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from analysis.quality.metrics import Features
from gan.data.dataset import Dataset
from gan.data.images import to_float

WIDTHS = (32, 64, 128)  # of the stages, which halve the map; the last one is repeated
LARGEST_MAP_PX = 4  # until the map is at most so large
NUM_FEATURES = 64
SMALLEST_SIZE_PX = 8
BATCH_SIZE = 500
ASSETS = Path(__file__).parents[1] / "assets"
# Digest of a test split -> name and sha256 of the weights that ship for it.
SHIPPED = {
    "b169c59a0b5afd34130075c88fbbac32bef96359b2c8dfbb6aa4b4fb858a43c0": (
        "fmnist-v1",
        "0260e8a0d8a4a7b88874d811748d7ee9cda9ec9c423822681b3a03fca7cac7c5",
    ),
    # The 319 emoji of 64 px that are held out, see `reference.load_splits`.
    "7c5c574afbee744573e256e5a3fb7324ea1d9dd3ef5f65df34ad3886da94e546": (
        "emoji-v1",
        "7ff4f3b65cc9e283034335ee1c63fc247f6d725b6846fd340ad48aa9671d3091",
    ),
}


class ExtractorError(ValueError):
    """The weights cannot be used for these images."""


@dataclass(frozen=True)
class Extractor:
    """A feature network, with mean and scale of its 64 features on real images."""

    id: str
    net: keras.Model
    mean: np.ndarray
    std: np.ndarray

    def features(self, images_uint8: np.ndarray) -> Features:
        """Returns the features of uint8 images of the size that the network takes."""
        expected = self.net.input_shape[1:]
        if images_uint8.shape[1:] != expected or images_uint8.dtype != np.uint8:
            raise ExtractorError(
                f"{self.id}: received {images_uint8.dtype} images of "
                f"{images_uint8.shape[1:]}, expected uint8 of {expected}"
            )
        outputs = run_net(self.net, images_uint8)
        values = (outputs["features"] - self.mean) / self.std
        if "logits" not in outputs:
            return Features(values, None)
        weights = np.exp(outputs["logits"] - outputs["logits"].max(axis=1)[:, None])
        return Features(values, weights / weights.sum(axis=1)[:, None])


def build_net(image_shape: tuple[int, int, int], num_classes: int) -> keras.Model:
    """Builds a network from (N, H, W, C) in [-1, 1] to 64 features and class logits.

    The features are taken before their activation, so that none is constantly 0. The
    pooling comes before the batch normalisation, which then costs a quarter.
    """
    inputs = x = keras.Input(image_shape)
    halvings = math.ceil(math.log2(max(image_shape[:2]) / LARGEST_MAP_PX))
    widths = WIDTHS + WIDTHS[-1:] * (halvings - len(WIDTHS))
    for stage, width in enumerate(widths, start=1):
        conv = {"padding": "same", "use_bias": False, "name": f"conv{stage}"}
        x = layers.Conv2D(width, 3, **conv)(x)
        x = layers.MaxPooling2D()(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"norm{stage}")(x)
        x = layers.LeakyReLU(0.1)(x)
    x = layers.Dense(NUM_FEATURES, name="features")(layers.Flatten()(x))
    outputs = {"features": x}
    if num_classes:
        x = layers.LeakyReLU(0.1)(x)
        outputs["logits"] = layers.Dense(num_classes, name="logits")(x)
    return keras.Model(inputs, outputs)


def run_net(net: keras.Model, images_uint8: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the outputs of a `build_net` model as float64, not standardised."""
    if not len(images_uint8):
        raise ExtractorError("received no images, expected at least one")
    starts = range(0, len(images_uint8), BATCH_SIZE)
    parts = [images_uint8[start : start + BATCH_SIZE] for start in starts]
    batches = [net.predict_on_batch(to_float(part)) for part in parts]
    return {
        name: np.concatenate([batch[name] for batch in batches]).astype(np.float64)
        for name in batches[0]
    }


def feature_scale(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the standard deviation of features (N, 64).

    A feature that is constant on real images may vary on fakes, so that a deviation is
    at least a thousandth of the median one.
    """
    std = values.std(axis=0)
    return values.mean(axis=0), np.maximum(std, 1e-3 * np.median(std))


def save_extractor(path: Path, net: keras.Model, images_uint8: np.ndarray) -> None:
    """Rounds the kernels to float16; writes the weights and the scale of features."""
    arrays: dict[str, Any] = {"image_shape": np.array(net.input_shape[1:])}
    for weight in net.weights:
        value = keras.ops.convert_to_numpy(weight)
        # Vectors stay float32: they are small, and a variance may overflow float16.
        arrays[weight.path] = value.astype(np.float16) if value.ndim > 1 else value
        weight.assign(arrays[weight.path].astype(np.float32))
    features = run_net(net, images_uint8)["features"]
    arrays["mean"], arrays["std"] = feature_scale(features)
    np.savez_compressed(path, **arrays)


def load_extractor(path: Path, sha256: str | None = None) -> Extractor:
    """Loads what `save_extractor` wrote; ExtractorError if its hash is not `sha256`."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 not in (None, found):
        raise ExtractorError(f"{path}: sha256 is {found}, expected {sha256}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            num_classes = len(arrays["logits/bias"])
            net = build_net(tuple(arrays["image_shape"].tolist()), num_classes)
            net.set_weights([arrays[weight.path] for weight in net.weights])
            mean, std = arrays["mean"], arrays["std"]
    except (KeyError, ValueError, OSError) as error:
        raise ExtractorError(
            f"{path}: not weights written by tools/train_extractor.py ({error})"
        ) from error
    return Extractor(f"{path.stem}-{found[:8]}", net, mean, std)


def random_extractor(train: Dataset) -> Extractor:
    """Returns a network of fixed random weights (He normal), scaled by `train`."""
    net = build_net(train.images_uint8.shape[1:], 0)
    rng, covered = np.random.default_rng(0), hashlib.sha256(train.digest.encode())
    for layer in net.layers:
        if hasattr(layer, "kernel"):
            shape = layer.kernel.shape
            kernel = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))
            layer.kernel.assign(kernel.astype(np.float32))
            covered.update(kernel.astype(np.float32).tobytes())
    mean, std = feature_scale(run_net(net, train.images_uint8)["features"])
    return Extractor(f"random-v1-{covered.hexdigest()[:8]}", net, mean, std)


def choose_extractor(
    train: Dataset, test: Dataset, weights: Path | None = None
) -> Extractor:
    """Returns the given network, or the one that ships for `test`, or a random one."""
    shape = test.images_uint8.shape[1:]
    if min(shape[:2]) < SMALLEST_SIZE_PX:
        raise ExtractorError(
            f"received images of {shape}, expected at least {SMALLEST_SIZE_PX} px"
        )
    if weights is not None:
        return load_extractor(weights)
    if test.digest in SHIPPED:
        name, sha256 = SHIPPED[test.digest]
        return load_extractor(ASSETS / f"{name}.npz", sha256)
    return random_extractor(train)
