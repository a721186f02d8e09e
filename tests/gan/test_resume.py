"""A run that is stopped in any way ends as if it had never been stopped."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import train as program
from config.loader import from_dict, load_config
from gan.__main__ import main as gan
from gan.evaluation import Observation
from gan.fourier import saves_time
from gan.run.checkpoint import available, restore_newest
from gan.run.folder import RunFolder, read_run
from gan.sampling import open_run, sample
from gan.state import TrainState, build_state
from gan.training import StopSignals, batch_inputs, steps_until_boundary, train

ROOT = Path(__file__).parents[2]
# 16 steps an epoch: a kill after step 23 is in the middle of the second one. The first
# stage is just wide enough to be convolved at its frequencies.
PRESET = """
[data]
limit = 256
[model]
generator_widths = [32, 32, 4]
discriminator_widths = [4, 8]
[train]
batch_size = 16
num_steps = 60
[run]
log_every_steps = 1
evaluate_every_steps = 1000
checkpoint_every_steps = 10
grid_images = 4
"""


def log_lines(directory):
    """The whole lines of log.jsonl, also while it is written."""
    path = directory / "log.jsonl"
    text = path.read_text() if path.exists() else ""
    lines = text.splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def logged_steps(directory):
    return [line["step"] for line in log_lines(directory) if "loss/g" in line]


def same(directory):
    """What the log says apart from times and memory, which are never the same."""
    apart = ("time/", "speed/", "memory/")
    return [
        {name: value for name, value in line.items() if not name.startswith(apart)}
        for line in log_lines(directory)
    ]


def run_until(command, directory, ready, number):
    """Starts a command and sends it a signal when `ready(last logged step)`."""
    deadline = time.monotonic() + 600  # on a machine that others keep busy
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        while time.monotonic() < deadline and process.poll() is None:
            if ready(max(logged_steps(directory), default=0)):
                process.send_signal(number)
                break
            time.sleep(0.005)
        try:
            output, _ = process.communicate(timeout=600)
        finally:
            process.kill()
    return process.returncode, output


def newest_state(directory):
    """What the newest checkpoint holds."""
    facts = read_run(directory)
    state = build_state(facts.config, 28, 1)
    assert restore_newest(directory / "state", state.checkpoint) is not None
    return state


@pytest.mark.timeout(1200)
def test_a_run_stopped_and_killed_ends_bit_equal_to_an_uninterrupted_one(tmp_path):
    assert saves_time(batch=16, size=7, kernel_shape=(5, 5, 32, 32), stride=1)
    (tmp_path / "tiny.toml").write_text(PRESET)
    args = ["--config", str(tmp_path / "tiny.toml"), "--no-observe", "--runs-dir"]
    directory = tmp_path / "stopped" / "fashion_mnist-transpose-seed0-tiny"
    first = [sys.executable, "train.py", *args, str(tmp_path / "stopped")]

    code, output = run_until(first, directory, lambda s: s >= 3, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM, output
    said = output.splitlines()[-1]
    stopped_at = max(logged_steps(directory))
    assert f"stopped by SIGTERM after step {stopped_at}; continue with: " in said
    assert [step for step, _ in available(directory / "state")][0] == stopped_at
    again = shlex.split(said.partition("continue with: ")[2])
    assert again == ["python", *first[1:]]  # the very same command
    again[0] = sys.executable

    # Between two checkpoints, so that steps are lost and done again.
    code, output = run_until(
        again, directory, lambda s: s >= 23 and 3 <= s % 10 <= 6, signal.SIGKILL
    )
    assert code == -signal.SIGKILL, output
    assert f"continuing after step {stopped_at} of 60" in output or stopped_at < 10
    saved, reached = available(directory / "state")[0][0], max(logged_steps(directory))
    assert 20 <= saved < reached < 60

    straight = tmp_path / "straight" / directory.name
    said = {}
    for path in (directory, straight):
        result = CliRunner().invoke(program.main, [*args, str(path.parent)])
        said[path] = result.output
        assert result.exit_code == 0 and "finished: 60 steps" in said[path], said[path]
    assert f"continuing after step {saved} of 60" in said[directory]
    assert "warning" not in said[directory]

    assert newest_state(directory).digest() == newest_state(straight).digest()
    # The log has each step once, with the same values.
    assert logged_steps(directory) == list(range(1, 61))
    assert same(directory) == same(straight)
    grid = Path("samples") / "step-00000060.png"
    assert (directory / grid).read_bytes() == (straight / grid).read_bytes()


def resumed(directory, config, images):
    """The state after a run that was stopped by the clock and continued."""
    with RunFolder(directory) as folder:
        stopped = train(config, images, folder, max_seconds=1e-6)
        assert (stopped.stop, stopped.exit_code) == ("time limit reached", 0)
        assert 0 < stopped.step < config.train.num_steps
        assert train(config, images, folder).step == config.train.num_steps
    return newest_state(directory)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"train.precision": "mixed_float16"},
        {"train.precision": "mixed_bfloat16"},
        {"train.jit": True},
        {"train.jit": True, "train.steps_per_call": 5, "run.log_every_steps": 100},
        {"train.steps_per_call": 5, "run.log_every_steps": 100},
        {"model.upsample": "resize", "train.loss": "hinge"},
    ],
)
def test_every_kind_of_step_resumes_exactly(tiny, images, tmp_path, changes):
    config = tiny(changes)
    with RunFolder(tmp_path / "straight") as folder:
        train(config, images, folder)
    state = resumed(tmp_path / "stopped", config, images)
    assert state.digest() == newest_state(tmp_path / "straight").digest()


@pytest.mark.slow
def test_a_random_state_that_is_lost_is_noticed(trained, images, tmp_path, monkeypatch):
    """The negative control: without dropout's seeds the weights end up elsewhere."""
    monkeypatch.setattr(TrainState, "random_state", lambda self: [])
    monkeypatch.setattr(TrainState, "untracked", lambda self: [])
    state = resumed(tmp_path, read_run(trained).config, images)
    monkeypatch.undo()
    expected = newest_state(trained)
    assert state.digest() != expected.digest()
    got = state.discriminator.get_layer("logits").kernel.numpy()
    assert not np.array_equal(got, expected.discriminator.get_layer("logits").kernel)


def test_an_interrupt_finishes_the_step_saves_and_says_how_to_go_on(
    tmp_path, monkeypatch
):
    """SIGINT comes while step 4 is prepared; its state is saved, then exit 130."""

    def interrupting(config, steps, num_images):
        if 3 in steps:
            os.kill(os.getpid(), signal.SIGINT)
        return batch_inputs(config, steps, num_images)

    monkeypatch.setattr("gan.training.batch_inputs", interrupting)
    (tmp_path / "tiny.toml").write_text(PRESET)
    before = signal.getsignal(signal.SIGINT)
    args = ["--config", str(tmp_path / "tiny.toml"), "--runs-dir", str(tmp_path / "r")]
    result = CliRunner().invoke(program.main, [*args, "--no-observe"])
    assert result.exit_code == 130, result.output
    said = result.output.splitlines()[-1]
    assert said.startswith("stopped by SIGINT after step 4; continue with: python ")
    (directory,) = (tmp_path / "r").iterdir()
    assert [step for step, _ in available(directory / "state")] == [4]
    # The grid and the generator are those of step 4, and a stopped run is sound.
    assert (directory / "samples" / "step-00000004.png").exists()
    assert open_run(directory).step == 4
    assert CliRunner().invoke(gan, ["check", str(directory)]).exit_code == 0
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.reported
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_every_signal_that_ends_a_job_is_noted(name):
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # these tests may run under nohup
    with StopSignals() as signals:
        os.kill(os.getpid(), number)
        assert signals.request() == (f"stopped by {name}", 128 + number)
    assert signal.getsignal(number) == signal.SIG_DFL
    signal.signal(number, before)


def test_a_run_under_nohup_outlives_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.request() is None
    signal.signal(signal.SIGHUP, before)


def test_calls_of_many_steps_end_at_each_single_event():
    run = {"log_every_steps": 9000, "evaluate_every_steps": 9000}
    run["checkpoint_steps"] = [30, 3000]
    config = load_config(
        flags={f"run.{key}": value for key, value in run.items()}
        | {
            "run.checkpoint_every_steps": 9000,
            "train.steps_per_call": 1000,
            "train.num_steps": 9000,
        }
    )
    step, ends = 0, []
    while step < config.train.num_steps:
        step += steps_until_boundary(step, config)
        ends.append(step)
    assert ends[:7] == [30, 100, 250, 500, 1000, 2000, 3000] and len(ends) == 13


def test_a_second_interrupt_is_not_held_back():
    # A shell starts what it puts in the background with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.request() == ("stopped by SIGINT", 128 + signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    signal.signal(signal.SIGINT, before)


class Recorder:
    """An observer that notes what it is given."""

    num_images = 12

    def __init__(self):
        self.seen = []

    def observe(self, step, images_uint8, state):
        self.seen.append((step, images_uint8, sample(state.ema_generator, range(12))))
        return Observation({"test/step": float(step)}, {"test/one": images_uint8[0]})


def test_observers_look_and_change_nothing(trained, images, tmp_path):
    config = read_run(trained).config
    recorder = Recorder()
    with RunFolder(tmp_path) as folder:
        train(config, images, folder, make_observers=lambda: [recorder])
    assert [step for step, *_ in recorder.seen] == [0, 6, 12]
    # The untrained one is looked at when the first step is done.
    untrained = sample(build_state(config, 28, 1).ema_generator, range(12))
    recorder.seen[0] = (*recorder.seen[0][:2], untrained)
    for _, given, drawn in recorder.seen:
        assert given.shape == (12, 28, 28, 1)  # more than the grid of 9
        np.testing.assert_array_equal(given, drawn)
    assert newest_state(tmp_path).digest() == newest_state(trained).digest()
    noted = [line for line in log_lines(tmp_path) if "test/step" in line]
    assert [line["test/step"] for line in noted] == [0, 6, 12]


def test_a_larger_budget_continues_a_finished_run(run, images):
    settings = json.loads((run / "config.json").read_text())["config"]
    settings["train"]["num_steps"] = 14
    with RunFolder(run) as folder:
        assert train(from_dict(settings), images, folder).step == 14
    assert [step for step, _ in available(run / "state")] == [14, 12, 10]
    assert logged_steps(run)[-1] == 14


def test_a_damaged_newest_checkpoint_costs_steps_and_not_the_run(run, trained, images):
    """Bit-equal all the same: the steps from 10 on are done again."""
    (run / "state" / "step-00000012" / "ckpt.index").write_bytes(b"")
    with RunFolder(run) as folder:
        assert train(read_run(run).config, images, folder).step == 12
    assert newest_state(run).digest() == newest_state(trained).digest()
    names = sorted(path.name.split("-")[0] for path in (run / "state").iterdir())
    assert names == ["corrupt", "step", "step", "step"]
    assert logged_steps(run) == list(range(1, 13))


def test_one_core_and_two_give_equal_bits(tmp_path):
    """Each operation has one thread; with two threads its sums have another order."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    environment = {k: v for k, v in os.environ.items() if "_THREADS" not in k}
    cadence = ["--set", "run.log_every_steps=1", "--steps", "4", "--no-observe"]
    for count in (1, 2):
        command = [sys.executable, "train.py", *cadence, "--run", f"on-{count}"]
        subprocess.run(
            [*command, "--runs-dir", str(tmp_path)],
            cwd=ROOT,
            env=environment,
            check=True,
            preexec_fn=partial(os.sched_setaffinity, 0, cores[:count]),
        )
    one, two = tmp_path / "on-1", tmp_path / "on-2"
    assert logged_steps(two) == [1, 2, 3, 4] and same(one) == same(two)
