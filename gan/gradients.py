"""Gradients of both networks from one forward pass, and the R1 penalty."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from config.schema import Config
from gan.devices import part_of_replica
from gan.losses import LOSSES
from gan.state import TrainState

R1_EVERY = 8  # steps between penalties, each as many times as strong
SMALLEST_SEED = 1e-25  # beside gradients no more than nothing; float32 ends at 1e-38


def make_gradients(config: Config, state: TrainState) -> Callable[..., Any]:
    """Makes what one replica does with its part of the batch.

    Returns:
        A function (real images, latents, both loss scales) -> (the first six of METRICS
        (6,), gradients of the generator, of the discriminator), all as shares of the
        global batch: their sums over the replicas are its means.
    """
    losses, r1_gradients = LOSSES[config.train.loss], make_r1(config, state)
    generator, discriminator = state.generator, state.discriminator
    replicas, once = state.strategy.num_replicas_in_sync, one_pass_is_enough(config)

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
            # Of kernels, by a method that has them; Keras computes them here and now.
            penalties = generator.losses
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
        d_gradients, pixel_gradient = back_through_discriminator(
            tape, d_scaled, g_scaled, logits, d_variables, fake_images, once
        )
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


def one_pass_is_enough(config: Config) -> bool:
    """Whether both losses can share the way back through the discriminator.

    Not where a layer mixes images; and half precision has no room for `SMALLEST_SEED`.
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
    once: bool,
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Gradients of d_loss by the variables, of g_loss by the generated images.

    Where no layer mixes the images of a batch, the pixels of one depend on a loss
    through one logit alone. Both losses' gradients by them are then equal but for a
    factor, that of the losses' gradients by the logit, and one pass is enough.
    """
    if not once:
        return tape.gradient(d_loss, d_variables), tape.gradient(g_loss, fake_images)
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
