"""The averaged generator as a file for other programs, compared after a reload."""

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
from gan.sampling import BATCH_SIZE, Run, load_exported

Infer = Callable[[np.ndarray], Any]


def export_generator(run: Run, kind: str, out: Path) -> int:
    """Writes the generator and reads it back.

    Args:
        run: an opened run.
        kind: "keras", "savedmodel" (a folder) or "tflite".
        out: file or folder to write.

    Returns:
        The largest difference of a pixel between before and after, in grey levels.

    Raises:
        RunError: when `out` does not fit, or what was read back is another generator.
    """
    if kind == "keras" and out.suffix != ".keras":
        raise RunError(f"--out: received {out}, expected a name ending in .keras")
    latents = latents_from_seeds(range(BATCH_SIZE), run.config.model.latent_dim)
    expected = to_uint8(run.generator(latents, training=False).numpy())
    reload = {"keras": to_keras, "savedmodel": to_savedmodel, "tflite": to_tflite}
    with silent_stderr(), contextlib.redirect_stdout(io.StringIO()):
        infer = reload[kind](run, out)
    actual = to_uint8(np.asarray(infer(latents)))
    difference = int(np.abs(actual.astype(int) - expected).max())
    # Other kernels sum in another order, which can tip a rounding to uint8.
    if difference > 1:
        raise RunError(
            f"{out} gives other pixels than the run (by {difference} grey levels)"
        )
    return difference


def to_keras(run: Run, out: Path) -> Infer:
    """Writes a `.keras` file; reads its weights into a model that we built."""
    write_atomically(out, run.generator.save)
    config = run.config
    again = build_generator(
        config.model, run.image_size, run.channels, precision=config.train.precision
    )
    load_exported(out, again)
    return lambda latents: again(latents, training=False)


def to_savedmodel(run: Run, out: Path) -> Infer:
    """Writes a SavedModel folder with the endpoint `serve`."""
    run.generator.export(out, format="tf_saved_model", verbose=False)
    loaded = tf.saved_model.load(str(out))
    return lambda latents: loaded.serve(latents)


def to_tflite(run: Run, out: Path) -> Infer:
    """Writes a float32 TFLite file for batches of one."""
    content = tf.lite.TFLiteConverter.from_keras_model(run.generator).convert()
    write_atomically(out, lambda path: path.write_bytes(content))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its successor would be one more dependency
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
