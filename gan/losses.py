"""Adversarial losses: pure functions of float32 logits (batch, 1).

Each returns (d_loss_real, d_loss_fake, g_loss), scalars averaged over the batch. The
discriminator minimises the sum of the first two. At logits 0, where it cannot tell real
from generated images, `bce` gives ln 2 for each of them.
"""

from collections.abc import Callable

import tensorflow as tf

Losses = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


def bce(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> Losses:
    """Cross-entropy (Goodfellow et al. 2014, arXiv:1406.2661, section 3).

    The generator maximises log D(G(z)). softplus(-x) is -log sigmoid(x).
    """
    return (
        tf.reduce_mean(tf.nn.softplus(-real_logits)),
        tf.reduce_mean(tf.nn.softplus(fake_logits)),
        tf.reduce_mean(tf.nn.softplus(-fake_logits)),
    )


def hinge(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> Losses:
    """Hinge loss with margins of 1 (Lim and Ye 2017, arXiv:1705.02894)."""
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
