"""The training step: one compiled function over the state of a run."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from config.schema import Config, TrainConfig
from gan.data.dataset import batch_indices, latents
from gan.devices import one_copy, sum_of_replicas
from gan.gradients import make_gradients
from gan.state import TrainState

METRICS = (
    "loss/g",
    "loss/d",
    "loss/d_real",
    "loss/d_fake",
    "d/prob_real",
    "d/prob_fake",
    "grad_norm/g",
    "grad_norm/d",
    "lr/g",
    "lr/d",
)


def draw(
    config: Config, steps: Sequence[int], num_images: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices int64 (K, B) and noise float32 (K, B, latent_dim) of `steps`."""
    seed, size = config.run.seed, config.train.batch_size
    indices = [batch_indices(seed, step, size, num_images) for step in steps]
    noise = [latents(seed, step, size, config.model.latent_dim) for step in steps]
    return np.stack(indices), np.stack(noise)


def make_train_steps(config: Config, state: TrainState) -> Callable[..., tf.Tensor]:
    """Compiles the training step.

    Args:
        config: of the run, its `num_steps` resolved.
        state: what the step changes.

    Returns:
        A function (images_uint8 (N, h, w, c), indices int64 (K, B), latents float32
        (K, B, latent_dim)) -> metrics float32 (K, len(METRICS)), which does K steps in
        one call. It is traced once, whatever K.
    """
    step = make_step(config, state)
    size, latent_dim = config.train.batch_size, config.model.latent_dim
    signature = [
        tf.TensorSpec((None, *state.discriminator.input_shape[1:]), tf.uint8),
        tf.TensorSpec((None, size), tf.int64),
        tf.TensorSpec((None, size, latent_dim), tf.float32),
    ]

    # Autograph would rewrite every function on the way: half of the tracing's time.
    @tf.function(input_signature=signature, autograph=False)
    def train_steps(
        images_uint8: tf.Tensor, indices: tf.Tensor, latents: tf.Tensor
    ) -> tf.Tensor:
        def one_of_them(inputs: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            batch = tf.gather(images_uint8, inputs[0])
            return step(tf.cast(batch, tf.float32) / 127.5 - 1.0, inputs[1])

        row = tf.TensorSpec((len(METRICS),), tf.float32)
        return tf.map_fn(
            one_of_them,
            (indices, latents),
            parallel_iterations=1,
            fn_output_signature=row,
        )

    return train_steps


def make_step(config: Config, state: TrainState) -> Callable[..., tf.Tensor]:
    """Makes one step: (real images, latents) -> metrics float32 (len(METRICS),).

    Each replica computes losses and gradients of its part of the batch as shares of the
    whole; all copies of the state are changed by the sums.
    """
    settings = config.train
    compute, strategy = make_gradients(config, state), state.strategy
    g_variables = state.generator.trainable_variables
    d_variables = state.discriminator.trainable_variables

    @tf.function(jit_compile=settings.jit, autograph=False)
    def step(real_images: tf.Tensor, latents: tf.Tensor) -> tf.Tensor:
        g_scale, d_scale = loss_scale(state.g_optimizer), loss_scale(state.d_optimizer)
        args = (real_images, latents, g_scale, d_scale)
        metrics, g_gradients, d_gradients = strategy.run(compute, args=args)
        metrics = strategy.reduce("SUM", metrics, axis=None)
        g_gradients = sum_of_replicas(strategy, g_gradients, g_variables)
        d_gradients = sum_of_replicas(strategy, d_gradients, d_variables)
        norms = [
            tf.linalg.global_norm(one_copy(strategy, g_gradients)) / g_scale,
            tf.linalg.global_norm(one_copy(strategy, d_gradients)) / d_scale,
        ]
        rates = update(settings, state, g_gradients, d_gradients)
        return tf.concat([metrics, tf.stack([*norms, *rates])], 0)

    return step


def update(
    settings: TrainConfig,
    state: TrainState,
    g_gradients: list[tf.Tensor],
    d_gradients: list[tf.Tensor],
) -> tuple[tf.Tensor, tf.Tensor]:
    """Changes the state by one step's gradients; returns both learning rates."""
    factor = rate_factor(state.step, settings.num_steps, settings.decay_start)
    factor *= state.rate_scale
    g_rate = settings.g_learning_rate * factor
    d_rate = settings.d_learning_rate * factor
    set_rate(state.g_optimizer, g_rate)
    set_rate(state.d_optimizer, d_rate)
    state.g_optimizer.apply(g_gradients, state.generator.trainable_variables)
    state.d_optimizer.apply(d_gradients, state.discriminator.trainable_variables)
    update_average(state, ema_decay(state.step, settings.ema_decay))
    state.step.assign_add(1)
    return g_rate, d_rate


def rate_factor(step: Any, num_steps: int, decay_start: float) -> tf.Tensor:
    """Share of the learning rate at `step`: 1, then linear to 0 at `num_steps`.

    At decay_start 0.5 and 100 steps: 1 up to step 50, 0.5 at step 75.
    """
    if decay_start >= 1:
        return tf.constant(1.0)
    left = num_steps - tf.cast(step, tf.float32)
    return tf.clip_by_value(left / (num_steps * (1 - decay_start)), 0.0, 1.0)


def ema_decay(step: Any, decay: float) -> tf.Tensor:
    """Decay of the average after `step` steps: min(decay, (1 + step) / (10 + step))."""
    step = tf.cast(step, tf.float32)
    return tf.minimum(decay, (1.0 + step) / (10.0 + step))


def update_average(state: TrainState, decay: tf.Tensor) -> None:
    """Moves all of the averaged generator, batch-norm statistics too, to the current.

    An optimizer's own average covers trainable variables only, and weights averaged
    without their statistics give another network.
    """

    def move(average: tf.Variable, variable: tf.Tensor) -> None:
        average.assign(average + (1.0 - decay) * (variable - average))

    for average, variable in zip(
        state.ema_generator.variables, state.generator.variables, strict=True
    ):
        state.strategy.extended.update(average.value, move, args=(variable.value,))


def loss_scale(optimizer: Any) -> tf.Tensor:
    """Factor on the loss that keeps float16 gradients above underflow; else 1."""
    scale = getattr(optimizer, "dynamic_scale", None)
    return tf.constant(1.0) if scale is None else tf.convert_to_tensor(scale)


def set_rate(optimizer: Any, rate: tf.Tensor) -> None:
    """Sets the learning rate, also inside a loss-scaling optimizer."""
    getattr(optimizer, "inner_optimizer", optimizer).learning_rate.assign(rate)
