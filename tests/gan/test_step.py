"""The compiled step, against arithmetic done by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from gan.data.dataset import batch_indices, latents
from gan.data.images import to_float
from gan.losses import LOSSES, bce
from gan.run.environment import prepare_tensorflow
from gan.state import build_state
from gan.step import (
    METRICS,
    R1_EVERY_STEPS,
    back_through_discriminator,
    batch_inputs,
    make_step,
    make_train_steps,
    one_pass_is_enough,
    r1_gradients,
)

prepare_tensorflow()
SMOOTH = {"model.dropout": 0.0}  # what XLA and a forward pass by hand can reproduce


def trained(config, images, calls=((0,),)):
    """A fresh state after the steps in `calls`, their metrics, the number of traces."""
    state = build_state(config, 28, 1)
    function = make_train_steps(config, state)
    pixels = tf.constant(images.images_uint8)
    inputs = [batch_inputs(config, steps, 256) for steps in calls]
    metrics = [function(pixels, *each).numpy() for each in inputs]
    return state, np.concatenate(metrics), function.experimental_get_tracing_count()


def values(model):
    return [variable.value.numpy() for variable in model.variables]


def equal(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.fixture(scope="module")
def one_by_one(tiny, images):
    """Six steps, each in a call of its own."""
    return trained(tiny(), images, [(step,) for step in range(6)])


def test_many_steps_in_one_call_are_the_same_steps(tiny, images, one_by_one):
    """Bit for bit, dropout included, from one trace whatever their number."""
    state, metrics, _ = one_by_one
    again, same, num_traces = trained(tiny(), images, [(0, 1, 2), (3,), (4, 5)])
    assert state.digest() == again.digest()
    np.testing.assert_array_equal(metrics, same)
    assert num_traces == one_by_one[2] == 1
    assert int(again.step) == 6
    assert metrics.shape == (6, len(METRICS)) and np.isfinite(metrics).all()


def eager_step(config, images, num_steps=1):
    """A fresh state after some steps, and the metrics of the last."""
    state = build_state(config, 28, 1)
    function = make_step(config, state)
    for step in range(num_steps):
        real = to_float(images.images_uint8[batch_indices(0, step, 8, 256)])
        metrics = function(real, latents(0, step, 8, 8)).numpy()
    return state, dict(zip(METRICS, metrics, strict=True))


def test_the_seed_decides_the_start(tiny, images, eagerly, one_by_one):
    _, metrics = eager_step(tiny({"run.seed": 1}), images)
    assert metrics["loss/d"] != one_by_one[1][0][METRICS.index("loss/d")]


def test_rates_fall_as_scheduled_and_are_applied(tiny, images, eagerly):
    rates = {"train.g_learning_rate": 0.5, "train.d_learning_rate": 0.25}
    config = tiny(rates | {"train.decay_start": 0.0, "train.num_steps": 4})
    for num_steps, factor in ((1, 1.0), (3, 0.5)):
        state, metrics = eager_step(config, images, num_steps)
        assert (metrics["lr/g"], metrics["lr/d"]) == (0.5 * factor, 0.25 * factor)
        assert float(state.g_optimizer.learning_rate) == 0.5 * factor
        assert float(state.d_optimizer.learning_rate) == 0.25 * factor


@pytest.mark.parametrize("frozen", ["g", "d"])
def test_each_network_is_moved_by_its_own_optimizer_alone(
    tiny, images, eagerly, frozen
):
    config = tiny({f"train.{frozen}_learning_rate": 0.0})
    before = build_state(config, 28, 1)
    after, _ = eager_step(config, images)
    for name in ("generator", "discriminator"):
        moved = [
            not np.array_equal(old.value, new.value)
            for old, new in zip(
                getattr(before, name).trainable_variables,
                getattr(after, name).trainable_variables,
                strict=True,
            )
        ]
        assert not any(moved) if name[0] == frozen else all(moved), name


def test_losses_gradients_and_first_update_by_hand(tiny, images, eagerly):
    config = tiny(SMOOTH)
    state = build_state(config, 28, 1)
    real = to_float(images.images_uint8[batch_indices(0, 0, 8, 256)])
    with tf.GradientTape(persistent=True) as tape:
        fake = state.generator(latents(0, 0, 8, 8), training=True)
        real_logits = state.discriminator(real, training=True)
        fake_logits = state.discriminator(fake, training=True)
        d_real, d_fake, g_loss = bce(real_logits, fake_logits)
        d_loss = d_real + d_fake
    weights = state.generator.trainable_variables
    g_gradients = tape.gradient(g_loss, weights)
    d_gradients = tape.gradient(d_loss, state.discriminator.trainable_variables)
    # Adam's first update; its epsilon of 1e-7 stands beside sqrt(1 - beta_2) |g|.
    expected = [
        w.value.numpy() - 2e-4 * g / (np.abs(g) + 1e-7 / np.sqrt(0.001))
        for w, g in zip(weights, map(np.asarray, g_gradients), strict=True)
    ]

    after, metrics = eager_step(config, images)
    by_hand = {
        "loss/g": g_loss,
        "loss/d": d_loss,
        "loss/d_real": d_real,
        "loss/d_fake": d_fake,
        "d/prob_real": np.mean(1 / (1 + np.exp(-real_logits))),
        "d/prob_fake": np.mean(1 / (1 + np.exp(-fake_logits))),
        "grad_norm/g": np.sqrt(sum(np.sum(np.square(g)) for g in g_gradients)),
        "grad_norm/d": np.sqrt(sum(np.sum(np.square(g)) for g in d_gradients)),
        "lr/g": 2e-4,
        "lr/d": 2e-4,
    }
    assert metrics == pytest.approx({k: float(v) for k, v in by_hand.items()}, rel=1e-4)
    # Untrained, D sees no difference: ln 2, 2 ln 2 and one half.
    assert metrics["loss/g"] == pytest.approx(np.log(2), abs=0.01)
    for variable, value in zip(
        after.generator.trainable_variables, expected, strict=True
    ):
        np.testing.assert_allclose(variable.value, value, atol=1e-7)


def both_ways_back(config, images, loss, shift=0.0):
    """Gradients by one pass and by two, the fake logits moved by `shift`."""
    state = build_state(config, 28, 1)
    real, fake = map(to_float, np.split(images.images_uint8[:16], 2))
    with tf.GradientTape(persistent=True) as tape:
        fake_images = state.generator(latents(0, 0, 8, 8)) + fake
        real_logits = state.discriminator(real, training=True)
        fake_logits = state.discriminator(fake_images, training=True) + shift
        d_real, d_fake, g_loss = LOSSES[loss](real_logits, fake_logits)
        d_loss = d_real + d_fake
    variables = [v.value for v in state.discriminator.trainable_variables]
    logits = [real_logits, fake_logits]
    for once in (True, False):
        d, pixels = back_through_discriminator(
            tape, d_loss, g_loss, logits, variables, fake_images, once
        )
        yield [pixels, *d]


@pytest.mark.parametrize("shift", [0.0, -200.0, 200.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_one_pass_back_through_the_discriminator_is_enough(
    tiny, images, eagerly, loss, shift
):
    """Also where a loss is met, so that one of both gradients is nothing."""
    config = tiny({"model.minibatch_stddev": 0, "model.initializer_stddev": 0.2})
    assert one_pass_is_enough(config)
    once, twice = both_ways_back(config, images, loss, shift)
    for a, b in zip(once, twice, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())
    assert np.any(twice[0]) or (loss, shift) == ("bce", 200.0)


@pytest.mark.parametrize(
    "mixing", [{"model.minibatch_stddev": 8}, {"model.discriminator_norm": "batch"}]
)
def test_one_pass_is_wrong_where_a_layer_mixes_images(tiny, images, eagerly, mixing):
    config = tiny(
        {"model.minibatch_stddev": 0, "model.initializer_stddev": 0.2} | mixing
    )
    assert not one_pass_is_enough(config)
    once, twice = both_ways_back(config, images, "bce")
    assert np.abs(once[0] - twice[0]).max() > 0.01 * np.abs(twice[0]).max()


def test_half_precision_takes_two_passes(tiny):
    half = {"model.minibatch_stddev": 0, "train.precision": "mixed_float16"}
    assert not one_pass_is_enough(tiny(half))


def test_r1_pulls_the_weights_of_a_linear_discriminator_to_zero():
    """Its slope is w everywhere: gamma / 2 |w|^2 has the gradient gamma w."""
    linear = keras.Sequential(
        [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(1)]
    )
    kernel = np.array([[1.0], [-2.0], [0.5], [0.0]], np.float32)
    linear.set_weights([kernel, np.ones(1, np.float32)])
    of_kernel, of_bias = r1_gradients(linear, tf.zeros((5, 2, 2, 1)), 0.1, 3.0)
    np.testing.assert_allclose(of_kernel, 3 * R1_EVERY_STEPS * 0.1 * kernel, rtol=1e-6)
    assert of_bias.numpy() == [0.0]


def test_r1_is_the_gradient_of_half_the_squared_slope(tiny, images):
    """Along a random direction, against differences of the penalty itself."""
    config = tiny(SMOOTH | {"model.initializer_stddev": 0.2})
    state = build_state(config, 28, 1)
    real = tf.constant(to_float(images.images_uint8[:8]))
    weights = state.discriminator.trainable_variables
    normal = np.random.default_rng(0).standard_normal
    direction = [normal(w.shape).astype(np.float32) for w in weights]

    def penalty(amount):
        for weight, part in zip(weights, direction, strict=True):
            weight.assign_add(amount * part)
        with tf.GradientTape() as tape:
            tape.watch(real)
            logits = tf.reduce_sum(state.discriminator(real, training=False))
        slope = tape.gradient(logits, real).numpy().astype(np.float64)
        for weight, part in zip(weights, direction, strict=True):
            weight.assign_sub(amount * part)
        return np.mean(np.sum(slope**2, axis=(1, 2, 3)))

    gradients = r1_gradients(state.discriminator, real, 2 / R1_EVERY_STEPS, 1.0)
    along = sum(np.sum(g * d) for g, d in zip(gradients, direction, strict=True))
    expected = (penalty(1e-4) - penalty(-1e-4)) / 2e-4
    assert along == pytest.approx(expected, rel=0.02) and abs(along) > 1e-3


def test_r1_is_taken_at_every_eighth_step(tiny, images, eagerly):
    norms = {}
    for gamma in (0.0, 1000.0):
        config = tiny({"train.r1_gamma": gamma})
        for number in (7, 8, 9):
            state = build_state(config, 28, 1)
            step = make_step(config, state)
            state.step.assign(number)
            real = tf.constant(to_float(images.images_uint8[:8]))
            metrics = step(real, latents(0, 0, 8, 8)).numpy()
            norms[gamma, number] = metrics[METRICS.index("grad_norm/d")]
    assert norms[1000, 7] == norms[0, 7] and norms[1000, 9] == norms[0, 9]
    assert norms[1000, 8] > 2 * norms[0, 8]


def test_the_average_follows_weights_and_statistics(tiny, images, eagerly):
    """After one step: 0.1 x start + 0.9 x now, because decay is ramped up from 1/10."""
    config = tiny()
    start = values(build_state(config, 28, 1).generator)
    state, _ = eager_step(config, images)
    now = values(state.generator)
    statistics = [v.path for v in state.generator.variables if "moving" in v.path]
    assert len(statistics) == 6
    for variable, old, new in zip(
        state.ema_generator.variables, start, now, strict=True
    ):
        assert not np.array_equal(old, new), variable.path
        expected = 0.1 * old + 0.9 * new
        np.testing.assert_allclose(variable.value, expected, atol=1e-6)


def test_decay_zero_makes_the_average_the_generator(tiny, images, eagerly):
    state, _ = eager_step(tiny({"train.ema_decay": 0.0}), images)
    assert equal(values(state.ema_generator), values(state.generator))


@pytest.mark.parametrize(
    "precision",
    ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)],
)
def test_half_precision_trains_variables_in_float32(tiny, images, precision):
    config = tiny(SMOOTH | {"train.precision": precision})
    before = build_state(config, 28, 1)
    state, metrics, num_traces = trained(config, images, [(0, 1), (2,)])
    assert np.isfinite(metrics).all() and num_traces == 1
    weights = [w for m in (state.generator, state.discriminator) for w in m.weights]
    assert {w.dtype for w in weights} == {"float32"}
    assert not equal(values(before.generator), values(state.generator))
    scaled = hasattr(state.g_optimizer, "inner_optimizer")
    assert scaled == (precision == "mixed_float16")
    # Gradient norms are those of float32 although float16's loss was scaled by 2**15.
    tf.config.run_functions_eagerly(True)
    _, full = eager_step(tiny(SMOOTH), images)
    tf.config.run_functions_eagerly(False)
    np.testing.assert_allclose(metrics[0], list(full.values()), rtol=0.02)


def test_an_overflow_in_float16_skips_the_update_but_counts_the_step(
    tiny, images, eagerly
):
    config = tiny({"train.precision": "mixed_float16"})
    state = build_state(config, 28, 1)
    before = [v.value.numpy() for v in state.discriminator.trainable_variables]
    state.d_optimizer.dynamic_scale.assign(2.0**120)
    real = to_float(images.images_uint8[:8])
    make_step(config, state)(real, latents(0, 0, 8, 8))
    after = [v.value.numpy() for v in state.discriminator.trainable_variables]
    assert equal(before, after)
    assert int(state.d_optimizer.iterations) == 0 and int(state.step) == 1
    assert float(state.d_optimizer.dynamic_scale) == 2.0**119


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [0.0, 0.1])
def test_xla_agrees_with_the_plain_step(tiny, images, gamma):
    calls = [(0, 1, 2)]
    settings = SMOOTH | {"train.r1_gamma": gamma}
    plain, metrics, _ = trained(tiny(settings), images, calls)
    config = tiny(settings | {"train.jit": True})
    compiled, same, num_traces = trained(config, images, calls)
    assert num_traces == 1
    np.testing.assert_allclose(metrics, same, rtol=1e-3, atol=1e-5)
    # Adam divides by the gradient's size: a weight may differ by rounding x rate.
    for a, b in zip(values(plain.generator), values(compiled.generator), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("loss", ["hinge", "lsgan"])
def test_every_loss_reaches_the_step(tiny, images, eagerly, loss):
    _, metrics = eager_step(tiny({"train.loss": loss}), images)
    expected = {"hinge": (2, 0), "lsgan": (0.5, 0.5)}[loss]  # at logits near 0
    assert (metrics["loss/d"], metrics["loss/g"]) == pytest.approx(expected, abs=0.02)
