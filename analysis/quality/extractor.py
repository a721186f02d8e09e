"""The fixed feature net: the ruler behind every distance in `quality`.

It builds the net, loads weights and turns uint8 images into features; it computes no
distance. `tools/train_extractor.py` trains the weights. A retrained net is
another ruler, so a hash of the weights is part of the id, and the id part of the name
of every number; numbers under different ids are never compared.

Images that no weights were trained for get fixed random ones, which still see shapes
and textures (Naeem et al. 2020, arXiv:2002.09797).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from analysis.quality.metrics import Features
from gan.data.dataset import Dataset
from gan.data.images import to_float

WIDTHS = (32, 64, 128)
NUM_FEATURES = 64
SMALLEST_SIZE_PX = 8
BATCH_SIZE = 500
ASSETS = Path(__file__).parents[1] / "assets"
# Digest of a test split -> the net that ships for it and the sha256 of its file.
SHIPPED = {
    "b169c59a0b5afd34130075c88fbbac32bef96359b2c8dfbb6aa4b4fb858a43c0": (
        "fmnist-v1",
        "0260e8a0d8a4a7b88874d811748d7ee9cda9ec9c423822681b3a03fca7cac7c5",
    )
}


class ExtractorError(ValueError):
    """The weights cannot be used for these images."""


@dataclass(frozen=True)
class Extractor:
    """A feature net with the scale of its features.

    Attributes:
        id: name and the start of a hash; part of the name of every metric.
        net: see `build_net`.
        mean: float64 (64,), of the features of the real training images.
        std: float64 (64,), likewise, floored (see `feature_scale`).
    """

    id: str
    net: keras.Model
    mean: np.ndarray
    std: np.ndarray

    def features(self, images_uint8: np.ndarray) -> Features:
        """Returns what the net says of uint8 images (N, H, W, C) of its own size.

        Raises:
            ExtractorError: for images of another size or number of channels.
        """
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
    """Builds the net: three times (3x3 convolution, halving), 64 features, logits.

    Features are taken before their activation, so that no unit is ever dead. Pooling
    comes before batch norm, which then costs a quarter.

    Args:
        image_shape: (H, W, C) of the float32 images in [-1, 1] that go in.
        num_classes: length of "logits"; 0: no such output.

    Returns:
        A model from (N, H, W, C) to {"features": (N, 64), "logits": (N, classes)}.
    """
    inputs = x = keras.Input(image_shape)
    for stage, width in enumerate(WIDTHS, start=1):
        x = keras.layers.Conv2D(
            width, 3, padding="same", use_bias=False, name=f"conv{stage}"
        )(x)
        x = keras.layers.MaxPooling2D()(x)
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"norm{stage}")(x)
        x = keras.layers.LeakyReLU(0.1)(x)
    x = keras.layers.Dense(NUM_FEATURES, name="features")(keras.layers.Flatten()(x))
    outputs = {"features": x}
    if num_classes:
        x = keras.layers.LeakyReLU(0.1)(x)
        outputs["logits"] = keras.layers.Dense(num_classes, name="logits")(x)
    return keras.Model(inputs, outputs)


def run_net(net: keras.Model, images_uint8: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the raw outputs of `build_net`'s model, as float64."""
    if not len(images_uint8):
        raise ExtractorError("received no images to measure by, expected more")
    batches = [
        net.predict_on_batch(to_float(images_uint8[start : start + BATCH_SIZE]))
        for start in range(0, len(images_uint8), BATCH_SIZE)
    ]
    return {
        name: np.concatenate([batch[name] for batch in batches]).astype(np.float64)
        for name in batches[0]
    }


def feature_scale(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and std of raw features (N, 64), the std floored.

    A unit that is constant on real images stays in, because a fake may wake it; the
    floor of a thousandth of the median std keeps its scale finite.
    """
    std = values.std(axis=0)
    return values.mean(axis=0), np.maximum(std, 1e-3 * np.median(std))


def save(path: Path, net: keras.Model, images_uint8: np.ndarray) -> None:
    """Rounds the kernels of `net` to float16 and writes them with the features' scale.

    Args:
        path: an .npz file; its stem becomes the name of the extractor.
        net: a trained classifier; its kernels are changed.
        images_uint8: the real training images, which set the scale.
    """
    arrays: dict[str, Any] = {"image_shape": np.array(net.input_shape[1:])}
    for weight in net.weights:
        value = keras.ops.convert_to_numpy(weight)
        # Biases and batch norm are few, and a variance may not fit float16.
        arrays[weight.path] = value.astype(np.float16) if value.ndim > 1 else value
        weight.assign(arrays[weight.path].astype(np.float32))
    arrays["mean"], arrays["std"] = feature_scale(
        run_net(net, images_uint8)["features"]
    )
    np.savez_compressed(path, **arrays)


def load(path: Path, sha256: str | None = None) -> Extractor:
    """Loads what `save` wrote; the file's name and hash become the id.

    Raises:
        ExtractorError: if the file is not such a file, or its hash is not `sha256`.
    """
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
    """Returns a net of fixed random weights (He normal), scaled by `train`.

    Its id covers the weights and the data that set the scale.
    """
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


def choose(train: Dataset, test: Dataset, weights: Path | None = None) -> Extractor:
    """Chooses the ruler: the given file, else what ships for `test`, else random.

    Raises:
        ExtractorError: if weights are damaged, or the images have the wrong size.
    """
    shape = test.images_uint8.shape[1:]
    if min(shape[:2]) < SMALLEST_SIZE_PX:
        raise ExtractorError(f"images of {shape}: the net needs {SMALLEST_SIZE_PX} px")
    if weights is not None:
        return load(weights)
    if test.digest in SHIPPED:
        name, sha256 = SHIPPED[test.digest]
        return load(ASSETS / f"{name}.npz", sha256)
    return random_extractor(train)
