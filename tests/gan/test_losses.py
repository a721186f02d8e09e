import math

import numpy as np
import pytest
import tensorflow as tf

from gan.losses import LOSSES, bce, hinge, lsgan
from gan.step import ema_decay, rate_factor

# (d_real, d_fake, g) where D answers 0, its right answer of 2, its wrong answer of 2.
BY_HAND = {
    bce: [
        (math.log(2), math.log(2), math.log(2)),
        (math.log1p(math.exp(-2)), math.log1p(math.exp(-2)), math.log1p(math.exp(2))),
        (math.log1p(math.exp(2)), math.log1p(math.exp(2)), math.log1p(math.exp(-2))),
    ],
    hinge: [(1, 1, 0), (0, 0, 2), (3, 3, -2)],
    lsgan: [(0.5, 0, 0.5), (0.5, 2, 4.5), (4.5, 2, 0.5)],
}


def logits(*values):
    return tf.constant(values, tf.float32)[:, None]


@pytest.mark.parametrize("loss", BY_HAND, ids=lambda loss: loss.__name__)
def test_losses_are_those_worked_by_hand(loss):
    for (real, fake), expected in zip(
        [(0, 0), (2, -2), (-2, 2)], BY_HAND[loss], strict=True
    ):
        values = loss(logits(real), logits(fake))
        np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_the_mean_runs_over_the_batch_and_the_table_is_complete():
    real, fake = logits(0, 2), logits(0, -2)
    for name, loss in LOSSES.items():
        assert loss in BY_HAND and loss.__name__ == name
        expected = np.mean(BY_HAND[loss][:2], axis=0)
        np.testing.assert_allclose(loss(real, fake), expected, rtol=1e-6)


@pytest.mark.parametrize("loss", BY_HAND, ids=lambda loss: loss.__name__)
def test_gradients_push_each_player_its_own_way(loss):
    """At logits 0: D raises real and lowers fake answers, G raises fake answers."""
    real, fake = tf.Variable([0.0]), tf.Variable([0.0])
    with tf.GradientTape(persistent=True) as tape:
        d_real, d_fake, g_loss = loss(real, fake)
    assert tape.gradient(d_real, real)[0] < 0
    assert tape.gradient(g_loss, fake)[0] < 0
    # Least squares to 0 is at rest there, all others push down.
    pushes = tape.gradient(d_fake, fake)[0]
    assert pushes == 0 if loss is lsgan else pushes > 0
    assert tape.gradient(d_fake, real) is None and tape.gradient(g_loss, real) is None


@pytest.mark.parametrize("loss", BY_HAND, ids=lambda loss: loss.__name__)
def test_extreme_logits_stay_finite_with_their_gradients(loss):
    extreme = tf.Variable(logits(-1e4, 1e4))
    with tf.GradientTape() as tape:
        total = tf.add_n(loss(extreme, extreme))
    assert np.isfinite(float(total))
    assert np.isfinite(tape.gradient(total, extreme)).all()


def test_the_generator_loss_does_not_saturate():
    """Where D is sure (logit -20) G's gradient is -1, and that of log(1 - D) is 0."""
    fake = tf.Variable([-20.0])
    with tf.GradientTape(persistent=True) as tape:
        g_loss = bce(tf.zeros(1), fake)[2]
        saturating = -tf.reduce_mean(tf.nn.softplus(fake))
    assert tape.gradient(g_loss, fake).numpy() == pytest.approx(-1)
    assert abs(tape.gradient(saturating, fake)[0]) < 1e-8


@pytest.mark.parametrize(
    ("step", "start", "factor"),
    [
        (0, 0.5, 1.0),
        (50, 0.5, 1.0),
        (75, 0.5, 0.5),
        (99, 0.5, 0.02),
        (100, 0.5, 0.0),
        (130, 0.5, 0.0),
        (25, 0.0, 0.75),
        (99, 1.0, 1.0),
        (1000, 1.0, 1.0),
    ],
)
def test_rates_fall_linearly_to_zero_at_the_end_of_100_steps(step, start, factor):
    value = float(rate_factor(tf.constant(step, tf.int64), 100, start))
    assert value == pytest.approx(factor, abs=1e-6)


@pytest.mark.parametrize(
    ("step", "decay", "expected"),
    [(0, 0.999, 0.1), (8, 0.999, 0.5), (90, 0.999, 0.91), (10**6, 0.999, 0.999)]
    + [(0, 0.0, 0.0), (8, 0.25, 0.25)],
)
def test_the_average_forgets_its_random_start(step, decay, expected):
    value = float(ema_decay(tf.constant(step, tf.int64), decay))
    assert value == pytest.approx(expected, rel=1e-6)
