import keras
import numpy as np
import pytest
import tensorflow as tf

from gan.run.checkpoint import restore_newest, save
from gan.state import FusedAdam, StateError, TrainState, build_state


def without_random_state(monkeypatch):
    monkeypatch.setattr(TrainState, "random_state", lambda self: [])


def test_seed_states_are_found_and_tracked(tiny):
    state = build_state(tiny(), 28, 1)
    assert len(state.random_state()) == 2  # one for each dropout layer
    assert state.untracked() == []
    assert len(build_state(tiny({"model.dropout": 0.0}), 28, 1).random_state()) == 0


def test_a_lost_seed_state_is_refused_by_name(tiny, monkeypatch):
    without_random_state(monkeypatch)
    with pytest.raises(StateError, match=r"seed_generator_state.*seed_generator_state"):
        build_state(tiny(), 28, 1)
    build_state(tiny({"model.dropout": 0.0}), 28, 1)  # nothing there to be lost


def test_every_lost_variable_is_named(tiny):
    """A checkpoint of the generator alone loses its average, D, and both optimizers."""
    state = build_state(tiny(), 28, 1)
    state.checkpoint = tf.train.Checkpoint(generator=state.generator)
    owned = len(state.generator.variables)
    assert len(state.untracked()) == len(state.variables()) - owned


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_a_checkpoint_holds_everything_that_the_digest_covers(
    tiny, tmp_path, precision
):
    config = tiny({"train.precision": precision, "run.seed": 1})
    state = build_state(config, 28, 1)
    rng = np.random.default_rng(0)
    for variable in state.variables():  # whatever training would have made of them
        change = rng.integers(1, 100, variable.shape)
        variable.assign(tf.cast(change, variable.dtype))
    state.step.assign(9)
    path = state.checkpoint.write(str(tmp_path / "ckpt"))
    other = build_state(tiny({"train.precision": precision}), 28, 1)
    assert other.digest() != state.digest()
    other.checkpoint.read(path).assert_consumed()
    assert other.digest() == state.digest() and int(other.step) == 9


def test_a_checkpoint_with_the_rate_scale_of_older_versions_is_restored(tiny, tmp_path):
    state, other = (build_state(tiny({"run.seed": s}), 28, 1) for s in (0, 1))
    state.checkpoint.rate_scale = tf.Variable(1.0)
    save(tmp_path, 0, state.checkpoint, {}, keep=1)
    assert other.digest() != state.digest()
    restore_newest(tmp_path, other.checkpoint)
    assert other.digest() == state.digest() and other.untracked() == []


def test_the_digest_covers_each_variable_and_the_step(tiny):
    state, same = build_state(tiny(), 28, 1), build_state(tiny(), 28, 1)
    digests = {state.digest()}
    assert digests == {same.digest()}
    for variable in [*state.random_state(), *state.variables(), state.step]:
        variable.assign(variable + tf.ones_like(variable))
        digests.add(state.digest())
    # Seed states are variables of D too, hence counted twice.
    assert len(digests) == 1 + 2 + len(state.variables()) + 1


def test_the_average_starts_as_the_generator(tiny):
    state = build_state(tiny(), 28, 1)
    for average, variable in zip(
        state.ema_generator.variables, state.generator.variables, strict=True
    ):
        assert average is not variable
        np.testing.assert_array_equal(average.value, variable.value)


def test_optimizers_are_built_before_their_first_step(tiny):
    state = build_state(tiny({"train.precision": "mixed_float16"}), 28, 1)
    for optimizer, model in (
        (state.g_optimizer, state.generator),
        (state.d_optimizer, state.discriminator),
    ):
        assert optimizer.built
        assert len(optimizer.variables) >= 2 * len(model.trainable_variables)


def test_the_fused_update_is_that_of_keras_and_of_the_paper():
    """Three steps of one weight by hand, then many weights against Keras."""
    one = keras.Variable([1.0])
    adam = FusedAdam(0.1, beta_1=0.5, beta_2=0.9, epsilon=0.0)
    adam.build([one])
    m = v = 0.0
    weight = 1.0
    for step, gradient in enumerate([2.0, -1.0, 0.5], start=1):
        adam.apply([tf.constant([gradient])], [one])
        m, v = 0.5 * m + 0.5 * gradient, 0.9 * v + 0.1 * gradient**2
        weight -= 0.1 * (m / (1 - 0.5**step)) / np.sqrt(v / (1 - 0.9**step))
        np.testing.assert_allclose(one.numpy(), [weight], rtol=1e-6)

    draws = np.random.default_rng(0)
    start = draws.standard_normal((50, 20)).astype("f")
    pair = [keras.Variable(start), keras.Variable(start)]
    optimizers = [FusedAdam(1e-2, 0.5), keras.optimizers.Adam(1e-2, 0.5)]
    for _ in range(20):
        gradient = tf.constant(draws.standard_normal((50, 20)).astype("f"))
        for optimizer, variable in zip(optimizers, pair, strict=True):
            optimizer.apply([gradient], [variable])
    np.testing.assert_allclose(pair[0].numpy(), pair[1].numpy(), rtol=0, atol=2e-6)
    assert np.abs(pair[0].numpy() - start).max() > 0.05
