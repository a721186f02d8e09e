"""Worker processes for `benchmarks.steps`: this project's step, others and the floor.

    python -m benchmarks.candidates NAME NETWORK BATCH_SIZE cpu|gpu

A worker trains the named candidate, or times the parts of its step.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.worker import answer, serve
from config.loader import load_config
from config.schema import Config
from config.sizes import resolve
from gan.data.dataset import BUNDLED_FILE, EMOJI_FILE
from gan.run.environment import prepare_tensorflow, run_operations_side_by_side

Burst = Callable[[int], Any]
NUM_STEPS = 1_000_000  # so many that the learning rates stay constant
# The networks that all candidates train; they do not follow the default settings.
TUTORIAL = {
    "model.generator_widths": [256, 128, 64],
    "model.leaky_slope": 0.3,
    "model.dropout": 0.3,
    "model.minibatch_stddev": 0,
    "model.discriminator_norm": "none",
    "train.r1_gamma": 0.0,
}
# Their presets, settings and files of training images.
NETWORKS: dict[str, tuple[str, dict[str, Any], Path]] = {
    "tutorial": ("", TUTORIAL, BUNDLED_FILE),
    "dcgan64": ("dcgan64", {}, EMOJI_FILE),
}
XLA = {"train.jit": True}
STEPS_PER_CALL = 50
MANY_STEPS = {"train.steps_per_call": STEPS_PER_CALL}
VARIANTS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, 50 steps per call": MANY_STEPS,
    "ours, XLA": XLA,
    "ours, XLA, 50 steps per call": XLA | MANY_STEPS,
    "ours, the same, deterministic": XLA | MANY_STEPS,
    "ours, the same, mixed_float16": XLA
    | MANY_STEPS
    | {"train.precision": "mixed_float16"},
}


def load_images(network: str) -> np.ndarray:
    """Returns bundled images: uint8 (60000, 28, 28, 1), or emoji (3786, 64, 64, 3)."""
    with np.load(NETWORKS[network][2], allow_pickle=False) as arrays:
        if network == "dcgan64":
            return arrays["images"]
        return arrays["train_images"][..., np.newaxis]


def load_settings(network: str, **flags: Any) -> Config:
    """Returns the settings of a network, with other flags."""
    preset, settings, _ = NETWORKS[network]
    size = 64 if network == "dcgan64" else 28
    return resolve(load_config(preset, flags=settings | flags), 1, image_size=size)


def ours(name: str, network: str, batch_size: int) -> Burst:
    """This project's step, with its batch order, its noise and its metrics."""
    import tensorflow as tf

    from gan.state import build_state
    from gan.step import batch_inputs, make_train_steps

    run_operations_side_by_side()
    if "deterministic" in name:
        tf.config.experimental.enable_op_determinism()
    given = {"train.batch_size": batch_size, "train.num_steps": NUM_STEPS}
    config = load_settings(network, **given, **VARIANTS[name])
    images = load_images(network)
    state = build_state(config, *images.shape[2:])
    train_steps = make_train_steps(config, state)
    images_uint8 = tf.constant(images)
    done = 0

    def burst(num_steps: int) -> None:
        nonlocal done
        end = done + num_steps
        while done < end:
            steps = range(done, min(end, done + config.train.steps_per_call))
            inputs = batch_inputs(config, steps, len(images))
            metrics = train_steps(images_uint8, *inputs).numpy()
            done += len(metrics)

    burst(config.train.steps_per_call)  # XLA compiles each number of steps anew
    return burst


def tutorial(name: str, network: str, batch_size: int) -> Burst:
    """The loop of TensorFlow's DCGAN tutorial."""
    from benchmarks.rivals import tutorial_loop

    return tutorial_loop(load_images(network), batch_size)


def keras_example(name: str, network: str, batch_size: int) -> Burst:
    """The model of Keras' guide to customizing `fit`."""
    from benchmarks.rivals import keras_fit

    return keras_fit(load_images(network), batch_size)


def products(name: str, network: str, batch_size: int) -> Burst:
    """Returns the seconds of each product of a step, each form timed separately."""
    from benchmarks.floor import compile_forms, seconds_per_call

    functions = compile_forms(network_products(network), batch_size)
    return lambda num_calls: {
        product: {form: seconds_per_call(f, num_calls) for form, f in ways.items()}
        for product, ways in functions.items()
    }


def whole_layers(name: str, network: str, batch_size: int) -> Burst:
    """Returns the seconds of one pass of each layer, timed separately."""
    from benchmarks.floor import compile_layers, seconds_per_call

    functions = compile_layers(network_products(network), batch_size)
    return lambda num_calls: {
        layer: seconds_per_call(function, num_calls)
        for layer, function in functions.items()
    }


def matrix_product(name: str, network: str, batch_size: int) -> Burst:
    """Multiply-accumulates per second of a large matrix product."""
    from benchmarks.floor import product_rate

    return product_rate(size=1024, num_calls=20)


def network_products(network: str) -> Any:
    """Returns the products of a step of a network."""
    from benchmarks.floor import step_products
    from gan.models import build_discriminator, build_generator

    model = load_settings(network).model
    size, channels = load_images(network).shape[2:]
    return step_products(
        build_generator(model, size, channels, fused=True),
        build_discriminator(model, size, channels, fused=True),
    )


CANDIDATES: dict[str, Callable[[str, str, int], Burst]] = {
    **dict.fromkeys(VARIANTS, ours),
    "tutorial loop": tutorial,
    "Keras train_step": keras_example,
    "products": products,
    "layers": whole_layers,
    "matrix product": matrix_product,
}


def main() -> None:
    """Reads the arguments and answers the parent process."""
    name, network, batch_size, device = sys.argv[1:]
    prepare_tensorflow()
    import tensorflow as tf

    from gan.run.environment import peak_memory_bytes

    if device == "gpu" and not tf.config.list_physical_devices("GPU"):
        answer({"error": "TensorFlow sees no GPU"})
        return
    serve(CANDIDATES[name](name, network, int(batch_size)), peak_memory_bytes)


if __name__ == "__main__":
    main()
