"""Writes the averaged generator for other programs, and reads it back to compare."""

import contextlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from gan.data.dataset import latents_from_seeds
from gan.data.images import to_uint8
from gan.files import write_atomically
from gan.models import build_generator
from gan.run.environment import silent_stderr
from gan.run.folder import RunError
from gan.sampling import RENDER_BATCH_SIZE, LoadedRun, load_exported

Infer = Callable[[np.ndarray], Any]


def export_generator(run: LoadedRun, out: Path) -> int:
    """Writes a generator as a .keras or .tflite file, else as a SavedModel folder.

    Returns:
        The largest difference, in grey levels, between the images of 64 latents by the
        run's generator and by the one that is read back.
    """
    latents = latents_from_seeds(range(RENDER_BATCH_SIZE), run.config.model.latent_dim)
    expected = to_uint8(run.generator(latents, training=False).numpy())
    writers = {".keras": to_keras, ".tflite": to_tflite}
    with silent_stderr(), contextlib.redirect_stdout(io.StringIO()):
        infer = writers.get(out.suffix, to_savedmodel)(run, out)
    actual = to_uint8(np.asarray(infer(latents)))
    difference = int(np.abs(actual.astype(int) - expected).max())
    # Other programs add up in another order, which may change a rounding to uint8.
    if difference > 1:
        raise RunError(
            f"{out} gives other pixels than the run (by {difference} grey levels)"
        )
    return difference


def to_keras(run: LoadedRun, out: Path) -> Infer:
    """Writes a `.keras` file; reads its weights into a newly built model."""
    write_atomically(out, run.generator.save)
    model, precision = run.config.model, run.config.train.precision
    generator = build_generator(model, run.image_size, run.channels, 0, precision)
    load_exported(out, generator)
    return lambda latents: generator(latents, training=False)


def to_savedmodel(run: LoadedRun, out: Path) -> Infer:
    """Writes a SavedModel folder with the endpoint `serve`."""
    run.generator.export(out, format="tf_saved_model", verbose=False)
    loaded = tf.saved_model.load(str(out))
    return lambda latents: loaded.serve(latents)


def to_tflite(run: LoadedRun, out: Path) -> Infer:
    """Writes a float32 TFLite file for batches of one image."""
    content = tf.lite.TFLiteConverter.from_keras_model(run.generator).convert()
    write_atomically(out, lambda path: path.write_bytes(content))
    with warnings.catch_warnings():
        # It is deprecated, but its successor would be one more dependency.
        warnings.simplefilter("ignore")
        interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    inputs = interpreter.get_input_details()[0]["index"]
    outputs = interpreter.get_output_details()[0]["index"]

    def infer(latents: np.ndarray) -> np.ndarray:
        images = []
        for latent in latents:
            interpreter.set_tensor(inputs, latent[None])
            interpreter.invoke()
            images.append(interpreter.get_tensor(outputs)[0].copy())
        return np.stack(images)

    return infer
