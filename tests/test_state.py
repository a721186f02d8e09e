import numpy as np
import pytest
import tensorflow as tf

from gan.state import StateError, TrainState, build_state


def without_random_state(monkeypatch):
    monkeypatch.setattr(TrainState, "random_state", lambda self: [])


def test_seed_states_are_found_and_tracked(tiny):
    state = build_state(tiny(), 28, 1)
    assert len(state.random_state()) == 2  # one a dropout layer
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
