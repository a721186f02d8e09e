"""The training step: one compiled function over the state of a run."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from config.schema import Config, TrainConfig
from gan.data import batch_indices, latents
from gan.devices import one_copy, part_of_replica, sum_of_replicas
from gan.losses import LOSSES
from gan.state import TrainState

R1_EVERY = 8  # steps between penalties, each as many times as strong
SMALLEST_SEED = 1e-25  # beside gradients no more than nothing; float32 ends at 1e-38
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


def make_gradients(config: Config, state: TrainState) -> Callable[..., Any]:
    """Makes what one replica does with its part of the batch.

    Returns:
        A function (real images, latents, both loss scales) -> (the first six of METRICS
        (6,), gradients of the generator, of the discriminator), all as shares of the
        global batch: their sums over the replicas are its means.
    """
    losses, r1_gradients = LOSSES[config.train.loss], make_r1(config, state)
    generator, discriminator = state.generator, state.discriminator
    replicas, backward = state.strategy.num_replicas_in_sync, choose_backward(config)

    def gradients(
        real_images: tf.Tensor,
        latents: tf.Tensor,
        g_scale: tf.Tensor,
        d_scale: tf.Tensor,
    ) -> tuple[tf.Tensor, list[tf.Tensor], list[tf.Tensor]]:
        real_images, latents = part_of_replica(real_images), part_of_replica(latents)
        with tf.GradientTape(persistent=True) as tape:
            fake_images = generator(latents, training=True)
            real_logits = discriminator(real_images, training=True)
            fake_logits = discriminator(fake_images, training=True)
            d_loss_real, d_loss_fake, g_loss = losses(real_logits, fake_logits)
            d_loss = d_loss_real + d_loss_fake
            g_scaled = g_loss * g_scale / replicas
            d_scaled = d_loss * d_scale / replicas
        metrics = [
            g_loss,
            d_loss,
            d_loss_real,
            d_loss_fake,
            tf.reduce_mean(tf.sigmoid(real_logits)),
            tf.reduce_mean(tf.sigmoid(fake_logits)),
        ]
        # Both gradients are taken from this one forward pass before either update.
        d_variables = [v.value for v in discriminator.trainable_variables]
        logits = [real_logits, fake_logits]
        d_gradients, pixel_gradient = backward(
            tape, d_scaled, g_scaled, logits, d_variables, fake_images
        )
        # Penalties of kernels, of a method that has them, are not adversarial.
        penalties = generator.losses
        g_gradients = tape.gradient(
            [fake_images, *penalties],
            generator.trainable_variables,
            [pixel_gradient, *[g_scale / replicas for _ in penalties]],
        )
        if config.train.r1_gamma:
            plain = d_gradients

            def penalized() -> list[tf.Tensor]:
                penalty = r1_gradients(real_images, d_scale / replicas)
                return [a + b for a, b in zip(plain, penalty, strict=True)]

            is_due = tf.equal(state.step % R1_EVERY, 0)
            d_gradients = tf.cond(is_due, penalized, lambda: plain)
        return tf.stack(metrics) / replicas, g_gradients, d_gradients

    return gradients


def choose_backward(config: Config) -> Callable[..., Any]:
    """The faster way back through the discriminator that is right for its layers.

    Half precision has no room for `SMALLEST_SEED`.
    """
    model = config.model
    mixes_images = model.minibatch_stddev or model.discriminator_norm == "batch"
    if mixes_images or config.train.precision == "mixed_float16":
        return two_passes
    return one_pass


def two_passes(
    tape: tf.GradientTape,
    d_loss: tf.Tensor,
    g_loss: tf.Tensor,
    logits: list[tf.Tensor],
    d_variables: list[tf.Tensor],
    fake_images: tf.Tensor,
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Gradients of d_loss by the variables, of g_loss by the generated images."""
    return tape.gradient(d_loss, d_variables), tape.gradient(g_loss, fake_images)


def one_pass(
    tape: tf.GradientTape,
    d_loss: tf.Tensor,
    g_loss: tf.Tensor,
    logits: list[tf.Tensor],
    d_variables: list[tf.Tensor],
    fake_images: tf.Tensor,
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """The same, where no layer mixes the images of a batch.

    The pixels of an image then depend on a loss through one logit alone: both losses'
    gradients are one and the same but for a factor, that of the losses by the logit.
    """
    real_seed, fake_seed = tape.gradient(d_loss, logits)
    # A hinge that is met asks for nothing and leaves nothing to multiply.
    is_small = tf.abs(fake_seed) < SMALLEST_SEED
    fake_seed = tf.where(is_small, SMALLEST_SEED, fake_seed)
    *d_gradients, pixel_gradient = tape.gradient(
        logits, [*d_variables, fake_images], [real_seed, fake_seed]
    )
    factor = tape.gradient(g_loss, logits[1]) / fake_seed
    return d_gradients, pixel_gradient * tf.reshape(factor, (-1, 1, 1, 1))


def make_r1(config: Config, state: TrainState) -> Callable[..., list[tf.Tensor]]:
    """Makes the gradient of the R1 penalty, which holds the discriminator back.

    Half of gamma times the squared slope of the logits at real images, averaged over
    them (Mescheder, Geiger and Nowozin 2018, arXiv:1801.04406, section 4.1); taken at
    every `R1_EVERY`th step only (Karras et al. 2020, arXiv:1912.04958, section 3.1).

    Returns:
        A function (real images (B, h, w, c), scale of the loss) -> gradients of the
        discriminator's trainable variables.
    """
    discriminator = state.discriminator
    weight = config.train.r1_gamma / 2 * R1_EVERY

    def r1_gradients(real_images: tf.Tensor, scale: tf.Tensor) -> list[tf.Tensor]:
        variables = [v.value for v in discriminator.trainable_variables]
        with tf.GradientTape() as tape:
            with tf.GradientTape() as slope:
                slope.watch(real_images)
                # No masks, and statistics that depend on no other image.
                logits = tf.reduce_sum(discriminator(real_images, training=False))
            squares = tf.square(slope.gradient(logits, real_images))
            mean = tf.reduce_mean(tf.reduce_sum(squares, axis=(1, 2, 3)))
            penalty = weight * mean * scale
        # A bias of the logits has no part in their slope.
        zero = tf.UnconnectedGradients.ZERO
        return tape.gradient(penalty, variables, unconnected_gradients=zero)

    return r1_gradients


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
