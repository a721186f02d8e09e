"""Alarms: what raises them, what must not, and what they then do to a run."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf

from gan.evaluation import Observation
from gan.losses import LOSSES
from gan.run import checkpoint
from gan.run.environment import prepare_tensorflow
from gan.run.folder import RunFolder
from gan.run.health import ADVICE, CHANCE, STATES, Alarms
from gan.state import build_state
from gan.training import train

prepare_tensorflow()
HEALTHY = {
    "loss/d": 1.2,
    "d/prob_real": 0.57,
    "d/prob_fake": 0.43,
    "grad_norm/d": 6.0,
    "grad_norm/g": 1.5,
}
# What was logged by healthy runs, at its extremes.
WEAK = HEALTHY | {"loss/d": 1.44, "d/prob_real": 0.478, "d/prob_fake": 0.511}
STRONG = {
    "loss/d": 0.35,
    "d/prob_real": 0.9,
    "d/prob_fake": 0.1,
    "grad_norm/d": 15,
    "grad_norm/g": 9,
}
BAD = {
    "D-wins": HEALTHY | {"loss/d": 0.05, "d/prob_fake": 0.02},
    "G-wins": HEALTHY | {"loss/d": 2.5, "d/prob_real": 0.3, "d/prob_fake": 0.6},
    "diverged": HEALTHY | {"grad_norm/g": 150.0},
}


def feed(alarms, values, steps):
    """The states after each log line."""
    states = []
    for step in steps:
        alarms.add_losses(step, values)
        states.append(alarms.status.state)
    return states


@pytest.mark.parametrize("values", [HEALTHY, WEAK, STRONG])
def test_healthy_values_raise_nothing(values):
    assert set(feed(Alarms("bce"), values, range(25, 20_000, 25))) == {"ok"}


@pytest.mark.parametrize("every", [1, 25, 50])
@pytest.mark.parametrize("state", BAD)
def test_a_bad_value_must_last_two_hundred_steps(state, every):
    """Whatever the cadence, and the first hundred do not count."""
    alarms = Alarms("bce")
    steps = range(every, 401, every)
    states = dict(zip(steps, feed(alarms, BAD[state], steps), strict=True))
    assert {s for step, s in states.items() if step < 300} == {"ok"}
    assert {s for step, s in states.items() if step >= 300} == {state}
    assert alarms.code == STATES.index(state)
    assert state in ADVICE
    number = "150" if state == "diverged" else f"loss/d {BAD[state]['loss/d']:.2f}"
    assert number in alarms.status.reason

    assert feed(alarms, HEALTHY, range(450, 601, 50)) == [state] * 3 + ["ok"]
    assert alarms.status.reason == ""


def test_now_and_then_a_bad_line_is_no_alarm():
    alarms = Alarms("bce")
    for step in range(150, 5000, 100):
        assert feed(alarms, BAD["diverged"], [step]) == ["ok"]
        assert feed(alarms, HEALTHY, [step + 50]) == ["ok"]


@pytest.mark.parametrize("loss", LOSSES)
def test_chance_is_the_loss_of_not_knowing(loss):
    """Of constant logits that lose least: 0, or 1/2 for least squares to 0 and 1."""
    logits = np.full((4, 1), 0.5 if loss == "lsgan" else 0.0, np.float32)
    real, fake, _ = LOSSES[loss](tf.constant(logits), tf.constant(logits))
    assert float(real + fake) == pytest.approx(CHANCE[loss])
    won = HEALTHY | {"loss/d": 0.05 * CHANCE[loss]}
    lost = HEALTHY | {"loss/d": 2 * CHANCE[loss], "d/prob_real": 0.3}
    assert feed(Alarms(loss), won, range(50, 301, 50))[-1] == "D-wins"
    assert feed(Alarms(loss), lost, range(50, 301, 50))[-1] == "G-wins"


def test_a_collapse_must_be_seen_twice():
    alarms = Alarms("bce")
    for reason, state in (
        ("", "ok"),
        ("2 of 10 classes are left", "ok"),
        ("", "ok"),
        ("2 of 10 classes are left", "ok"),
        ("1 of 10 classes are left", "collapsing"),
        ("", "collapsing"),
    ):
        alarms.add_observation(reason)
        assert alarms.status.state == state
    assert alarms.status.reason == "1 of 10 classes are left"
    alarms.add_observation("")
    assert alarms.status.state == "ok"


def test_the_worst_alarm_counts():
    alarms = Alarms("bce")
    alarms.add_observation("copies")
    alarms.add_observation("copies")
    assert alarms.status.state == "collapsing"
    alarms.add_non_finite("loss/g is not finite at step 8")
    assert alarms.status.state == "diverged"


def test_alarms_continue_after_a_resume():
    alarms, resumed = Alarms("bce"), Alarms("bce")
    feed(alarms, BAD["D-wins"], [150, 200])
    resumed.load_state_dict(json.loads(json.dumps(alarms.state_dict())))
    for one in (alarms, resumed):
        assert feed(one, BAD["D-wins"], [250, 300]) == ["ok", "D-wins"]
    assert alarms.state_dict() == resumed.state_dict()
    fresh = Alarms("bce")
    fresh.step = 200
    assert feed(fresh, BAD["D-wins"], [250, 300]) == ["ok", "ok"]


def test_alarms_that_an_earlier_version_saved_are_read():
    """It noted the last quiet step of each alarm as well."""
    saved = Alarms("bce")
    feed(saved, BAD["D-wins"], [150, 200])
    memory = saved.state_dict()
    for found in memory["evidence"].values():
        found["quiet_step"] = 100
    resumed = Alarms("bce")
    resumed.load_state_dict(memory)
    assert resumed.state_dict() == saved.state_dict()


def test_the_policy_decides_what_an_alarm_does():
    for policy, expected in (
        ("warn", None),
        ("stop", ("stopped by alarm diverged: no number", 3)),
    ):
        alarms = Alarms("bce", policy)
        assert alarms.stop_request() is None
        alarms.add_non_finite("no number")
        assert alarms.stop_request() == expected
    for unknown in ("panic", "rollback"):
        with pytest.raises(ValueError, match="expected one of"):
            Alarms("bce", unknown)


class Collapsed:
    """An observer that reports a collapse from a step on."""

    num_images = 4

    def __init__(self, first_step):
        self.first_step = first_step

    def observe(self, step, images_uint8, state):
        return Observation(alarm="staged" if step >= self.first_step else "")


def run_collapsed(config, images, directory, on_alarm):
    """Trains with that observer; outcome and the state that is left on disk."""
    with RunFolder(directory) as folder:
        observers = lambda: [Collapsed(first_step=4)]  # noqa: E731
        outcome = train(
            config, images, folder, make_observers=observers, on_alarm=on_alarm
        )
    state = build_state(config, 28, 1)
    checkpoint.restore_newest(directory / "state", state.checkpoint)
    return outcome, state


@pytest.fixture
def every_second(tiny):
    cadence = {"run.evaluate_every_steps": 2, "run.checkpoint_every_steps": 2}
    return tiny(cadence | {"train.num_steps": 8})


def noted_alarms(directory):
    lines = (directory / "log.jsonl").read_text().splitlines()
    return [line["alarm"] for line in map(json.loads, lines) if "alarm" in line]


def test_stop_saves_and_says_why_and_warn_goes_on(
    every_second, images, tmp_path, eagerly
):
    outcome, state = run_collapsed(every_second, images, tmp_path, "stop")
    assert (outcome.step, outcome.exit_code) == (6, 3)
    assert outcome.stop == "stopped by alarm collapsing: staged"
    assert int(state.step) == 6
    assert noted_alarms(tmp_path) == ["collapsing: staged"]
    outcome, state = run_collapsed(every_second, images, tmp_path, "warn")
    assert (outcome.step, outcome.exit_code) == (8, 0)


@pytest.mark.parametrize("rate", [pytest.param(2e-4, marks=pytest.mark.slow), 2e-2])
def test_a_discriminator_that_learns_too_fast_is_noticed(tiny, images, tmp_path, rate):
    """A hundred times too fast; the same run with the default rate is not stopped."""
    config = tiny(
        {
            "model.discriminator_widths": [16, 32],
            "train.d_learning_rate": rate,
            "train.num_steps": 400,
            "train.steps_per_call": 25,
            "run.log_every_steps": 25,
            "run.evaluate_every_steps": 400,
            "run.checkpoint_every_steps": 400,
        }
    )
    with RunFolder(tmp_path) as folder:
        outcome = train(config, images, folder, on_alarm="stop")
    lines = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    codes = [line["alarm/code"] for line in lines if "alarm/code" in line]
    if rate < 1e-3:
        assert (outcome.step, outcome.exit_code, set(codes)) == (400, 0, {0})
    else:
        assert outcome.exit_code == 3 and outcome.step < 400
        assert STATES[codes[-1]] in ("D-wins", "diverged")
        assert re.search(r"D\(x\) (0\.9|1\.0).*D\(G\(z\)\) 0\.0", outcome.stop)
