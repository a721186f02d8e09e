"""A number that is not finite: caught at its step, named, kept, and done again."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

import gan.step
from gan.__main__ import main
from gan.data.dataset import batch_indices
from gan.evaluation import Observation
from gan.replay import first_bad, read, replay
from gan.run import backend, checkpoint
from gan.run.folder import RunError, RunFolder
from gan.state import build_state
from gan.training import TrainingError, train

backend.prepare()
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


@pytest.fixture
def record(failed, tmp_path):
    """A copy of what was kept, to be damaged at will."""
    kept = shutil.copytree(failed[1] / "diverged", tmp_path / "diverged")
    return kept / "step-00000030.npz"


def test_nan_at_step_30_is_caught_there_and_named(failed):
    config, directory, message = failed
    path = directory / "diverged" / "step-00000030.npz"
    assert "loss/g is not finite at step 30" in message
    assert "first tensor that is not finite: latents (1 of 64 values)" in message
    assert "last good checkpoint: step-00000025" in message
    assert f"python -m gan replay {path}" in message and "\n" not in message
    last = json.loads((directory / "log.jsonl").read_text().splitlines()[-1])
    assert last["alarm"].startswith("diverged: loss/g is not finite at step 30")

    steps = [step for step, _ in checkpoint.available(directory / "state")]
    assert steps == [25, 20, 15]
    state = build_state(config, 28, 1)
    checkpoint.restore_newest(directory / "state", state.checkpoint)
    assert not state.non_finite()


def test_what_was_kept_is_the_step_itself(failed, record, images):
    config, directory, _ = failed
    incident, rows = replay(record)
    assert incident.step == 30 and incident.config == config
    expected = images.images_uint8[batch_indices(0, 29, 8, 256)]
    np.testing.assert_array_equal(incident.images_uint8, expected)
    assert np.isnan(incident.latents[3, 2]) and np.isnan(incident.latents).sum() == 1
    assert np.isnan(incident.metrics[-1]).any()
    assert np.isfinite(incident.metrics[:-1]).all()

    assert first_bad(rows).startswith("latents")
    # The whole batch passes through one normalisation, so all of it is lost there.
    bad = {row.name: row.num_bad for row in rows if row.num_bad}
    assert bad["generator base_norm"] == 8 * 7 * 7 * 8
    assert not any(name.startswith(("before", "D(x)", "real")) for name in bad)
    assert any(name.startswith("after: averaged generator") for name in bad)

    before, straight = build_state(config, 28, 1), build_state(config, 28, 1)
    before.checkpoint.read(str(record.parent / "step-00000029" / "ckpt"))
    step = gan.step.make_train_steps(config, straight)
    inputs = gan.step.batch_inputs(config, range(29), 256)
    step(tf.constant(images.images_uint8), *inputs)
    assert before.digest() == straight.digest()


def test_the_command_replays(record):
    result = CliRunner().invoke(main, ["replay", str(record)])
    assert result.exit_code == 0, result.output
    assert "step 30, first tensor that is not finite: latents" in result.output
    assert "generator base_dense" in result.output

    with np.load(record) as arrays:
        healthy = dict(arrays) | {"latents": LATENTS(0, 29, 8, 8)}
    np.savez(record, **healthy)
    result = CliRunner().invoke(main, ["replay", str(record)])
    assert result.exit_code == 1 and "every tensor is finite" in result.output


def test_damaged_records_are_refused_in_one_line(record):
    with np.load(record) as arrays:
        whole = dict(arrays)
    (record.parent / "step-00000029" / "manifest.json").unlink()
    result = CliRunner().invoke(main, ["replay", str(record)])
    assert result.exit_code == 1 and "the state before the step" in result.output
    for name, value in {
        "latents": whole["latents"][:, :3],
        "images": whole["images"].astype(float),
        "config": json.dumps({"model": {"latent_dim": "many"}}),
    }.items():
        np.savez(record, **whole | {name: value})
        with pytest.raises(RunError, match="not the record of a step"):
            read(record)
    record.write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(RunError, match="not the record of a step"):
        replay(record)


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
