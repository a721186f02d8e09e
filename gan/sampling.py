"""From a finished or running run to a generator, and from seeds to images.

The commands and the analysis read a run only with `open_run`. It builds the model from
config.json and loads nothing but weights, so that no file of a run is ever executed.
"""

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf

from config.loader import from_dict
from config.schema import Config
from gan.data.dataset import latents_from_seeds
from gan.data.images import to_uint8
from gan.files import first_line
from gan.models import build_generator
from gan.run.folder import RunError, read_run
from gan.run.manifest import available, verify

Renderer = Callable[[np.ndarray], np.ndarray]
RENDER_BATCH_SIZE = 64


@dataclass(frozen=True)
class LoadedRun:
    """A run and its averaged generator, loaded for reading."""

    config: Config
    step: int  # training steps behind the weights; -1: not recorded
    image_size: int  # height and width in pixels
    channels: int
    generator: keras.Model


def open_run(directory: str | Path, checkpoint: str = "latest") -> LoadedRun:
    """Loads a run, also while it is training; changes nothing in its folder.

    Args:
        directory: the run folder.
        checkpoint: "latest", "best" (if the run kept one), or a step number.

    Raises:
        RunError: when the folder is no run or has no usable checkpoint.
    """
    record = read_run(Path(directory))
    size, channels = record.dataset["image_size"], record.dataset["channels"]
    config = record.config
    precision = config.train.precision
    generator = build_generator(config.model, size, channels, 0, precision)
    step = load_generator(Path(directory), generator, config, checkpoint)
    return LoadedRun(config, step, size, channels, generator)


def load_generator(
    directory: Path, generator: keras.Model, config: Config, checkpoint: str
) -> int:
    """Loads the weights of a checkpoint into `generator`; returns their step."""
    folder = directory / ("best" if checkpoint == "best" else "state")
    found = available(folder)
    if checkpoint not in ("latest", "best"):
        found = [(step, path) for step, path in found if str(step) == checkpoint]
    problems = []
    for step, path in found:
        try:
            check_model(verify(path)["facts"], config)
            reader = tf.train.Checkpoint(ema_generator=generator)
            status = reader.read(str(path / "ckpt"))
            status.expect_partial().assert_existing_objects_matched()
            return step
        except RunError:
            raise
        except (ValueError, AssertionError, OSError, tf.errors.OpError) as error:
            problems.append(f"{path.name}: {first_line(error)}")
    if checkpoint == "latest" and (directory / "generator.keras").exists():
        return load_exported(directory / "generator.keras", generator)
    steps = ", ".join(str(step) for step, _ in available(folder)) or "none"
    detail = "; ".join(problems) or f"kept: {steps}"
    raise RunError(f"{directory} has no usable checkpoint {checkpoint!r} ({detail})")


def check_model(facts: dict[str, Any], config: Config) -> None:
    """Refuses weights of a model that config.json does not describe any more.

    Their shapes do not suffice: the slope of a ReLU changes the images and no shape.
    """
    if "config" not in facts:  # checkpoints of the first versions have none
        return
    saved, precision = from_dict(facts["config"]), config.train.precision
    if (saved.model, saved.train.precision) != (config.model, precision):
        raise RunError(
            "config.json describes another model than the checkpoint; repair it with "
            "python -m gan check RUN"
        )


def load_exported(path: Path, generator: keras.Model) -> int:
    """Loads the weights of an exported `.keras` file; returns step -1 (not recorded).

    Keras reads weights from such a file without looking at the architecture in it.
    """
    # HDF5 adds some hundred bytes per layer to the 4 bytes per weight.
    max_bytes = 2 * 4 * generator.count_params() + (1 << 20)
    items: list[Any] = []
    try:
        with zipfile.ZipFile(path) as archive:
            size = archive.getinfo("model.weights.h5").file_size
            if size > max_bytes:
                raise ValueError(f"{size} bytes of weights, at most {max_bytes} fit")
            weights = archive.read("model.weights.h5")  # checks its CRC
        with h5py.File(io.BytesIO(weights), "r") as file:
            # This follows no link to another file.
            file.visititems(lambda _, item: items.append(item))
            stored = [item.shape for item in items if isinstance(item, h5py.Dataset)]
        # Keras alone would accept a file with additional layers.
        if sorted(stored) != sorted(
            tuple(weight.shape) for weight in generator.weights
        ):
            raise ValueError("it has other layers")
        generator.load_weights(path)
    except Exception as error:  # a damaged archive may raise any type
        reason = f"does not hold this generator: {first_line(error)}"
        raise RunError(f"{path} {reason}") from None
    return -1


def renderer(generator: keras.Model, batch_size: int = RENDER_BATCH_SIZE) -> Renderer:
    """Makes the function from latents to images, compiled once.

    All batches have one fixed size; the last one is filled up with repeated latents.
    The image of a latent is therefore the same to the bit, however many others are
    made with it.

    Returns:
        A function from latents float32 (N, latent_dim) to uint8 images (N, height,
        width, channels).
    """
    shape = (batch_size, int(generator.input_shape[1]))

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32)], autograph=False)
    def infer(latents: tf.Tensor) -> tf.Tensor:
        return generator(latents, training=False)

    def render(latents: np.ndarray) -> np.ndarray:
        if not len(latents):
            raise ValueError("received no latents, expected at least one")
        num_batches = -(-len(latents) // batch_size)
        padded = np.resize(latents, (num_batches * batch_size, shape[1]))
        batches = padded.reshape(num_batches, *shape)
        images_uint8 = [to_uint8(infer(batch).numpy()) for batch in batches]
        return np.concatenate(images_uint8)[: len(latents)]

    return render


def sample(generator: keras.Model, seeds: Sequence[int]) -> np.ndarray:
    """Returns the images of `seeds`, uint8 (len(seeds), height, width, channels)."""
    latent_dim = int(generator.input_shape[1])
    return renderer(generator)(latents_from_seeds(seeds, latent_dim))
