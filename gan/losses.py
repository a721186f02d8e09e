"""Adversarial losses: pure functions of float32 logits (batch, 1).

Each returns (d_loss_real, d_loss_fake, g_loss), scalars averaged over the batch; the
discriminator minimises the sum of the first two. At logits 0, where real and generated
cannot be told apart, `bce` gives ln 2, ln 2 and ln 2.
"""

from collections.abc import Callable

import tensorflow as tf

Losses = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


def bce(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> Losses:
    """Cross-entropy; the generator maximises log D(G(z)), so it does not saturate.

    Source: Goodfellow et al. 2014, arXiv:1406.2661, section 3. softplus(-x) is
    -log sigmoid(x) without overflow.
    """
    return (
        tf.reduce_mean(tf.nn.softplus(-real_logits)),
        tf.reduce_mean(tf.nn.softplus(fake_logits)),
        tf.reduce_mean(tf.nn.softplus(-fake_logits)),
    )


def hinge(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> Losses:
    """Hinge loss (Lim and Ye 2017, arXiv:1705.02894): margins of 1 on both sides."""
    return (
        tf.reduce_mean(tf.nn.relu(1.0 - real_logits)),
        tf.reduce_mean(tf.nn.relu(1.0 + fake_logits)),
        -tf.reduce_mean(fake_logits),
    )


def lsgan(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> Losses:
    """Least squares to the labels 1 and 0 (Mao et al. 2016, arXiv:1611.04076)."""
    return (
        0.5 * tf.reduce_mean(tf.square(real_logits - 1.0)),
        0.5 * tf.reduce_mean(tf.square(fake_logits)),
        0.5 * tf.reduce_mean(tf.square(fake_logits - 1.0)),
    )


LOSSES: dict[str, Callable[[tf.Tensor, tf.Tensor], Losses]] = {
    "bce": bce,
    "hinge": hinge,
    "lsgan": lsgan,
}
