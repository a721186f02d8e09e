"""A number that is not finite ends a run at its step, in one line that names it."""

import json

import numpy as np
import pytest

import gan.step
from gan.evaluation import Observation
from gan.run import checkpoint
from gan.run.environment import prepare_tensorflow
from gan.run.folder import RunFolder
from gan.state import build_state
from gan.training import TrainingError, train

prepare_tensorflow()
LATENTS = gan.step.latents


def fail(config, images, directory, **options):
    """Trains until it fails; returns the message."""
    with RunFolder(directory) as folder, pytest.raises(TrainingError) as error:
        train(config, images, folder, **options)
    return str(error.value)


@pytest.fixture(scope="module")
def failed(tiny, images, tmp_path_factory):
    """A run with one latent NaN in step 30, amid a call of five steps; its message."""

    def latents(seed, step, *shape):
        noise = LATENTS(seed, step, *shape)
        if step == 29:
            noise[3, 2] = np.nan
        return noise

    cadence = {"train.steps_per_call": 5, "run.log_every_steps": 20}
    config = tiny({"train.num_steps": 40, "run.evaluate_every_steps": 40} | cadence)
    directory = tmp_path_factory.mktemp("runs") / "failed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gan.step, "latents", latents)
        message = fail(config, images, directory)
    return config, directory, message


def test_nan_at_step_30_is_caught_there_and_named(failed):
    config, directory, message = failed
    assert "loss/g is not finite at step 30" in message
    assert "last good checkpoint: step-00000025" in message
    assert "\n" not in message
    last = json.loads((directory / "log.jsonl").read_text().splitlines()[-1])
    assert last["alarm"].startswith("diverged: loss/g is not finite at step 30")

    steps = [step for step, _ in checkpoint.available(directory / "state")]
    assert steps == [25, 20, 15]
    state = build_state(config, 28, 1)
    checkpoint.restore_newest(directory / "state", state.checkpoint)
    assert not state.non_finite()


class Breaker:
    """An observer that does what none should."""

    num_images = 1

    def observe(self, step, images_uint8, state):
        if step == 6:
            moving = state.ema_generator.get_layer("base_norm").moving_variance
            moving.assign(moving * np.inf)
        return Observation()


def test_a_variable_that_no_loss_shows_is_not_saved(tiny, images, tmp_path):
    """The averaged generator is no part of any loss."""
    message = fail(tiny(), images, tmp_path / "run", make_observers=lambda: [Breaker()])
    expected = "averaged generator base_norm/moving_variance is not finite after step"
    assert expected in message
    steps = [step for step, _ in checkpoint.available(tmp_path / "run" / "state")]
    assert steps == [5]
