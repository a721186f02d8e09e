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
from gan.files import without_onnx, write_atomically
from gan.models import build_generator
from gan.run.environment import silent_stderr
from gan.run.folder import RunError
from gan.sampling import RENDER_BATCH_SIZE, LoadedRun, load_exported
from gan.upsampling import PACKAGE

Infer = Callable[[np.ndarray], Any]


def export_generator(run: LoadedRun, out: Path) -> int:
    """Writes a generator as a .keras, .onnx or .tflite file, else as a SavedModel.

    Returns:
        The largest difference, in grey levels, between the images of 64 latents by the
        run's generator and by the one that is read back.

    Raises:
        RunError: if the two differ by more than one level, or the run or this
            installation does not suit the format.
    """
    latents = latents_from_seeds(range(RENDER_BATCH_SIZE), run.config.model.latent_dim)
    expected = to_uint8(run.generator(latents, training=False).numpy())
    writers = {".keras": to_keras, ".onnx": to_onnx, ".tflite": to_tflite}
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


def to_onnx(run: LoadedRun, out: Path) -> Infer:
    """Writes an ONNX file for batches of any size; reads it back with ONNX Runtime.

    Keras converts it with tf2onnx. The pads of transposed convolutions are numbers, not
    "SAME_UPPER", which versions of ONNX Runtime before 1.13 took for another.
    """
    if (precision := run.config.train.precision) != "float32":
        raise RunError(
            f"{out}: received a run of precision {precision}, expected float32; "
            ".keras takes every precision"
        )
    try:
        import onnxruntime
        import tf2onnx  # noqa: F401  Keras needs it
    except ImportError as error:
        raise RunError(without_onnx(out, error)) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf2onnx asks for a name that NumPy 1 had

        def write(path: Path) -> None:
            run.generator.export(path, format="onnx", verbose=False)

        write_atomically(out, write)
    session = onnxruntime.InferenceSession(out)
    return lambda latents: session.run(None, {"latents": latents})[0]


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


def usage(run: LoadedRun, out: Path) -> str:
    """Three lines of Python that make images with an exported file.

    The images are float32 in [-1, 1], which the third line says.
    """
    num_images = 1 if out.suffix == ".tflite" else 16
    latents = (
        f"numpy.random.standard_normal(({num_images}, {run.config.model.latent_dim}))"
        '.astype("float32")'
    )
    has_own_classes = f"{PACKAGE}>" in run.generator.to_json()
    own_classes = "gan.upsampling, " if has_own_classes else ""
    path = repr(str(out))
    first, second, third = {
        ".keras": (
            f"import {own_classes}keras, numpy",
            f"generator = keras.saving.load_model({path})",
            f"images = generator({latents}).numpy()",
        ),
        ".onnx": (
            "import numpy, onnxruntime",
            f"session = onnxruntime.InferenceSession({path})",
            f'(images,) = session.run(None, {{"latents": {latents}}})',
        ),
        ".tflite": (
            "import numpy, tensorflow",
            f"signature = tensorflow.lite.Interpreter({path}).get_signature_runner()",
            f"(images,) = signature(latents={latents}).values()",
        ),
    }.get(
        out.suffix,
        (
            "import numpy, tensorflow",
            f"generator = tensorflow.saved_model.load({path})",
            f"images = generator.serve({latents}).numpy()",
        ),
    )
    shape = num_images, run.image_size, run.image_size, run.channels
    return f"{first}\n{second}\n{third}  # float32 {shape} in [-1, 1]"
