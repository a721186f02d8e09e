"""The training step: forward, losses, gradients, update.

Where several devices train together, each is a replica that computes its part of the
batch; the sums of all parts update every copy of the state, as one device would.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from config.schema import Config, TrainConfig
from gan.augment import GENERATED, REAL, augment, flip
from gan.data.dataset import batch_indices, latents
from gan.devices import one_copy, part_of_replica, sum_of_replicas
from gan.losses import LOSSES
from gan.state import TrainState

METRICS = tuple(
    "loss/g loss/d loss/d_real loss/d_fake d/prob_real d/prob_fake grad_norm/g "
    "grad_norm/d lr/g lr/d".split()
)
R1_EVERY_STEPS = 8
SMALLEST_GRADIENT = 1e-25  # negligible next to any gradient; float32 ends at 1e-38


def batch_inputs(
    config: Config, steps: Sequence[int], num_images: int
) -> tuple[np.ndarray, np.ndarray]:
    """Image indices int64 (K, B) and latents float32 (K, B, latent_dim) of K steps."""
    seed, size = config.run.seed, config.train.batch_size
    indices = [batch_indices(seed, step, size, num_images) for step in steps]
    noise = [latents(seed, step, size, config.model.latent_dim) for step in steps]
    return np.stack(indices), np.stack(noise)


def make_train_steps(config: Config, state: TrainState) -> Callable[..., tf.Tensor]:
    """Compiles a call of several training steps, which change `state`.

    Returns:
        A function (images_uint8 (N, height, width, channels), indices int64 (K, B),
        latents float32 (K, B, latent_dim)) -> metrics float32 (K, len(METRICS)), which
        does K steps. It is traced once, for every K.
    """
    step = make_step(config, state)
    size, latent_dim = config.train.batch_size, config.model.latent_dim
    signature = [
        tf.TensorSpec((None, *state.discriminator.input_shape[1:]), tf.uint8),
        tf.TensorSpec((None, size), tf.int64),
        tf.TensorSpec((None, size, latent_dim), tf.float32),
    ]

    # Without autograph, which would take half of the time of tracing.
    @tf.function(
        input_signature=signature, autograph=False, jit_compile=config.train.jit
    )
    def train_steps(
        images_uint8: tf.Tensor, indices: tf.Tensor, latents: tf.Tensor
    ) -> tf.Tensor:
        def one_step(inputs: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            batch = tf.gather(images_uint8, inputs[0])
            batch = flip(batch, config, state.step)
            return step(tf.cast(batch, tf.float32) / 127.5 - 1.0, inputs[1])

        output = tf.TensorSpec((len(METRICS),), tf.float32)
        return tf.map_fn(
            one_step,
            (indices, latents),
            parallel_iterations=1,
            fn_output_signature=output,
        )

    return train_steps


def make_step(config: Config, state: TrainState) -> Callable[..., tf.Tensor]:
    """Makes the function of one step, from images and latents to METRICS.

    The real images are float32 (B, height, width, channels) in [-1, 1].
    """
    strategy = state.strategy
    g_variables = state.generator.trainable_variables
    d_variables = state.discriminator.trainable_variables

    def gradients(*inputs: tf.Tensor) -> Any:
        return replica_gradients(config, state, *inputs)

    @tf.function(autograph=False)
    def step(real_images: tf.Tensor, latents: tf.Tensor) -> tf.Tensor:
        g_scale, d_scale = loss_scale(state.g_optimizer), loss_scale(state.d_optimizer)
        inputs = (real_images, latents, g_scale, d_scale)
        metrics, g_gradients, d_gradients = strategy.run(gradients, args=inputs)
        metrics = strategy.reduce("SUM", metrics, axis=None)
        g_gradients = sum_of_replicas(strategy, g_gradients, g_variables)
        d_gradients = sum_of_replicas(strategy, d_gradients, d_variables)
        g_norm = tf.linalg.global_norm(one_copy(strategy, g_gradients)) / g_scale
        d_norm = tf.linalg.global_norm(one_copy(strategy, d_gradients)) / d_scale
        rates = update(config.train, state, g_gradients, d_gradients)
        return tf.concat([metrics, tf.stack([g_norm, d_norm, *rates])], 0)

    return step


def replica_gradients(
    config: Config,
    state: TrainState,
    real_images: tf.Tensor,
    latents: tf.Tensor,
    g_scale: tf.Tensor,
    d_scale: tf.Tensor,
) -> tuple[tf.Tensor, list[tf.Tensor], list[tf.Tensor]]:
    """Losses and gradients of the calling replica's part of a batch.

    `real_images` and `latents` are the whole batch; the scales are those of
    `loss_scale`.

    Returns:
        The first six of METRICS (6,), the gradients of the generator and those of the
        discriminator. Their sums over all replicas are means over the whole batch.
    """
    generator, discriminator = state.generator, state.discriminator
    num_replicas = state.strategy.num_replicas_in_sync
    real_images, latents = part_of_replica(real_images), part_of_replica(latents)
    real_images = augment(real_images, config, state.step, REAL)

    # Forward and losses.
    with tf.GradientTape(persistent=True) as tape:
        fake_images = generator(latents, training=True)
        real_logits = discriminator(real_images, training=True)
        seen = augment(fake_images, config, state.step, GENERATED)
        fake_logits = discriminator(seen, training=True)
        losses = LOSSES[config.train.loss](real_logits, fake_logits)
        d_loss_real, d_loss_fake, g_loss = losses
        d_loss = d_loss_real + d_loss_fake
        # Keras computes the penalties when they are read, hence inside the tape.
        penalties = generator.losses
        g_scaled = g_loss * g_scale / num_replicas
        d_scaled = d_loss * d_scale / num_replicas
    probabilities = [tf.reduce_mean(tf.sigmoid(x)) for x in (real_logits, fake_logits)]
    metrics = tf.stack([g_loss, d_loss, d_loss_real, d_loss_fake, *probabilities])

    # Gradients of both networks, from this one forward pass and before either update.
    logits = [real_logits, fake_logits]
    variables = [v.value for v in discriminator.trainable_variables]
    one_pass = one_pass_is_enough(config)
    d_gradients, image_gradients = back_through_discriminator(
        tape, d_scaled, g_scaled, logits, variables, fake_images, one_pass
    )
    g_gradients = tape.gradient(
        [fake_images, *penalties],
        generator.trainable_variables,
        [image_gradients, *[g_scale / num_replicas for _ in penalties]],
    )
    if gamma := config.train.r1_gamma:
        without_penalty = d_gradients

        def with_penalty() -> list[tf.Tensor]:
            r1 = r1_gradients(discriminator, real_images, gamma, d_scale / num_replicas)
            return [a + b for a, b in zip(without_penalty, r1, strict=True)]

        is_due = tf.equal(state.step % R1_EVERY_STEPS, 0)
        d_gradients = tf.cond(is_due, with_penalty, lambda: without_penalty)
    return metrics / num_replicas, g_gradients, d_gradients


def one_pass_is_enough(config: Config) -> bool:
    """Whether `back_through_discriminator` can serve both losses with one pass.

    It cannot where a layer mixes the images of a batch, nor in half precision, where
    `SMALLEST_GRADIENT` is 0.
    """
    model = config.model
    mixes_images = model.minibatch_stddev or model.discriminator_norm == "batch"
    return not mixes_images and config.train.precision != "mixed_float16"


def back_through_discriminator(
    tape: tf.GradientTape,
    d_loss: tf.Tensor,
    g_loss: tf.Tensor,
    logits: list[tf.Tensor],
    d_variables: list[tf.Tensor],
    fake_images: tf.Tensor,
    one_pass: bool,
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Gradients of d_loss by the variables and of g_loss by the generated images.

    One pass is enough where an image x reaches a loss through its own logit l alone: by
    the chain rule dg/dx = dd/dx * (dg/dl) / (dd/dl), with one factor for each image.
    `augment` changes each image by itself and keeps to this.
    """
    if not one_pass:
        return tape.gradient(d_loss, d_variables), tape.gradient(g_loss, fake_images)
    real_gradient, fake_gradient = tape.gradient(d_loss, logits)
    # It is 0 where a hinge loss is satisfied, and the factor divides by it.
    is_small = tf.abs(fake_gradient) < SMALLEST_GRADIENT
    fake_gradient = tf.where(is_small, SMALLEST_GRADIENT, fake_gradient)
    *d_gradients, image_gradients = tape.gradient(
        logits, [*d_variables, fake_images], [real_gradient, fake_gradient]
    )
    factor = tape.gradient(g_loss, logits[1]) / fake_gradient
    return d_gradients, image_gradients * tf.reshape(factor, (-1, 1, 1, 1))


def r1_gradients(
    discriminator: keras.Model, real_images: tf.Tensor, gamma: float, scale: tf.Tensor
) -> list[tf.Tensor]:
    """Gradients of the R1 penalty by the discriminator's trainable variables.

    The penalty is gamma / 2 times the mean over images of |d logit / d image|^2
    (Mescheder et al. 2018, arXiv:1801.04406, section 4.1). It is taken at one of
    `R1_EVERY_STEPS` steps and weighs as many times as much (Karras et al. 2020,
    arXiv:1912.04958, section 3.1). `scale` is a factor on the loss.
    """
    variables = [v.value for v in discriminator.trainable_variables]
    with tf.GradientTape() as tape:
        with tf.GradientTape() as image_tape:
            image_tape.watch(real_images)
            # training=False: no dropout, and no statistics of the other images.
            logits = tf.reduce_sum(discriminator(real_images, training=False))
        squares = tf.square(image_tape.gradient(logits, real_images))
        mean = tf.reduce_mean(tf.reduce_sum(squares, axis=(1, 2, 3)))
        penalty = gamma / 2 * R1_EVERY_STEPS * mean * scale
    # The penalty does not depend on the bias of the logits.
    zero = tf.UnconnectedGradients.ZERO
    return tape.gradient(penalty, variables, unconnected_gradients=zero)


def update(
    settings: TrainConfig,
    state: TrainState,
    g_gradients: list[tf.Tensor],
    d_gradients: list[tf.Tensor],
) -> tuple[tf.Tensor, tf.Tensor]:
    """Changes the state by the gradients of one step; returns both learning rates."""
    factor = rate_factor(state.step, settings.num_steps, settings.decay_start)
    g_rate = settings.g_learning_rate * factor
    d_rate = settings.d_learning_rate * factor
    for optimizer, rate in ((state.g_optimizer, g_rate), (state.d_optimizer, d_rate)):
        # A loss-scaling optimizer holds the one that has a learning rate.
        getattr(optimizer, "inner_optimizer", optimizer).learning_rate.assign(rate)
    state.g_optimizer.apply(g_gradients, state.generator.trainable_variables)
    state.d_optimizer.apply(d_gradients, state.discriminator.trainable_variables)
    update_average(state, ema_decay(state.step, settings.ema_decay))
    state.step.assign_add(1)
    return g_rate, d_rate


def update_average(state: TrainState, decay: tf.Tensor) -> None:
    """Moves the averaged generator: average += (1 - decay) (current - average).

    Unlike an optimizer's own average it covers the batch-norm statistics too.
    """

    def move(average: tf.Variable, variable: tf.Tensor) -> None:
        average.assign(average + (1.0 - decay) * (variable - average))

    averages, variables = state.ema_generator.variables, state.generator.variables
    for average, variable in zip(averages, variables, strict=True):
        state.strategy.extended.update(average.value, move, args=(variable.value,))


def rate_factor(step: Any, num_steps: int, decay_start: float) -> tf.Tensor:
    """Factor on the learning rates at `step`: 1, then linear to 0 at `num_steps`."""
    if decay_start >= 1:
        return tf.constant(1.0)
    left = num_steps - tf.cast(step, tf.float32)
    return tf.clip_by_value(left / (num_steps * (1 - decay_start)), 0.0, 1.0)


def ema_decay(step: Any, decay: float) -> tf.Tensor:
    """Decay of the average after `step` steps: min(decay, (1 + step) / (10 + step))."""
    step = tf.cast(step, tf.float32)
    return tf.minimum(decay, (1.0 + step) / (10.0 + step))


def loss_scale(optimizer: Any) -> tf.Tensor:
    """Factor on the loss that keeps float16 gradients above underflow, else 1."""
    scale = getattr(optimizer, "dynamic_scale", None)
    return tf.constant(1.0) if scale is None else tf.convert_to_tensor(scale)
