"""Several devices and processes train as one, and none of them waits endlessly.

The runs are real processes: virtual CPUs must be there before TensorFlow starts.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from config.schema import ConfigError
from gan.devices import make_strategy
from gan.run.checkpoint import available, restore_newest
from gan.run.folder import read_run
from gan.state import build_state
from gan.step import METRICS

ROOT = Path(__file__).parents[2]
NUM_STEPS = 40
PRESET = f"""
[data]
limit = 512
[model]
generator_widths = [8, 8, 4]
discriminator_widths = [4, 8]
initializer_stddev = 0.1
dropout = 0.3
leaky_slope = 0.3
minibatch_stddev = 8
discriminator_norm = "batch"
[train]
batch_size = 16
r1_gamma = 0.0  # of which processes round the gradients otherwise
g_learning_rate = 2e-4  # rounding grows where an activation passes 0: at 6e-4 to 1e-3
d_learning_rate = 2e-4
num_steps = {NUM_STEPS}
[run]
log_every_steps = 1
evaluate_every_steps = 20
checkpoint_every_steps = 10
keep_checkpoints = 100
grid_images = 4
"""
MIRRORED = ("--strategy", "mirrored", "--replicas", "2")
MULTIWORKER = ("--strategy", "multiworker")
pytestmark = pytest.mark.timeout(1500)  # on a machine that others keep busy


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """A function from the name of a run and flags to a command line."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "tiny.toml").write_text(PRESET)

    def build(name, *flags):
        preset = ["--config", str(folder / "tiny.toml"), "--no-observe"]
        where = ["--runs-dir", str(folder), "--run", name]
        return [sys.executable, "train.py", *preset, *where, *flags]

    build.folder = folder
    return build


def finish(command, **environment):
    options = {"cwd": ROOT, "capture_output": True, "text": True}
    done = subprocess.run(command, env=os.environ | environment, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def launched(command, *options):
    return [sys.executable, "-m", "gan", "launch", *options, "--", *command]


@pytest.fixture(scope="module")
def runs(command):
    """The same run on one device, on two, and by two processes: their folders."""
    finish(command("one"))
    finish(command("mirrored", *MIRRORED))
    finish(launched(command("multiworker", *MULTIWORKER)))
    return command.folder


def state_of(directory):
    state = build_state(read_run(directory).config, 28, 1)
    assert restore_newest(directory / "state", state.checkpoint).step == NUM_STEPS
    return state


def logged(directory):
    """Metrics by step, (steps, len(METRICS)); of a step done twice the last time."""
    lines = map(json.loads, (directory / "log.jsonl").read_text().splitlines())
    rows = {line["step"]: line for line in lines if "loss/g" in line}
    return np.array([[rows[step][name] for name in METRICS] for step in sorted(rows)])


def test_two_replicas_train_as_one_device(runs):
    """Equal sums in another order: batch norm, dropout and Adam see one batch."""
    one, two = logged(runs / "one"), logged(runs / "mirrored")
    assert one.shape == (NUM_STEPS, len(METRICS))
    np.testing.assert_allclose(two[:20], one[:20], atol=1e-5, rtol=0)


def test_r1_of_two_replicas_is_that_of_one_device(command, runs):
    penalized = ("--set", "train.r1_gamma=1", "--steps", "20")
    finish(command("r1-one", *penalized))
    finish(command("r1-mirrored", *penalized, *MIRRORED))
    one, two = logged(runs / "r1-one"), logged(runs / "r1-mirrored")
    np.testing.assert_allclose(two, one, atol=1e-5, rtol=0)
    assert np.abs(one - logged(runs / "one")[:20]).max() > 1e-3  # the control


def test_two_processes_equal_two_devices_bit_for_bit(runs):
    mirrored, multiworker = runs / "mirrored", runs / "multiworker"
    assert state_of(multiworker).digest() == state_of(mirrored).digest()
    np.testing.assert_array_equal(logged(multiworker), logged(mirrored))
    for name in ("step-00000020.png", f"step-000000{NUM_STEPS}.png"):
        pictures = [(runs / run / "samples" / name) for run in ("mirrored", "one")]
        assert (multiworker / "samples" / name).read_bytes() == pictures[0].read_bytes()
        assert pictures[1].exists()


CONTROL = """
import sys
from unittest.mock import patch
import numpy as np
from gan.run.environment import prepare_tensorflow
prepare_tensorflow()
import keras
import tensorflow as tf
from config.loader import load_config
from gan import devices, models
from gan.data.dataset import load_dataset
from gan.state import build_state
from gan.step import batch_inputs, make_train_steps

strategy = devices.make_strategy("mirrored", 2)
config = load_config(sys.argv[1], {"train.precision": sys.argv[2]})
images = tf.constant(load_dataset(config.data).images_uint8)

def losses(state):
    train_steps = make_train_steps(config, state)
    inputs = [batch_inputs(config, [s], len(images)) for s in range(3)]
    rows = [train_steps(images, *each) for each in inputs]
    return np.concatenate([row.numpy()[:, :4] for row in rows])

def gap():
    one, two = build_state(config, 28, 1), build_state(config, 28, 1, strategy)
    print(np.abs(losses(one) - losses(two)).max())

class Own(keras.layers.BatchNormalization):
    def __init__(self, synchronized, **options):
        super().__init__(**options)

gap()
with patch.object(models, "FusedBatchNormalization", Own):
    gap()
with patch.object(models, "SharedDropout", keras.layers.Dropout):
    gap()
"""


@pytest.mark.parametrize(
    ("precision", "near"),
    [("float32", 1e-5), pytest.param("mixed_float16", 1e-2, marks=pytest.mark.slow)],
)
def test_without_any_of_its_parts_two_replicas_differ(command, precision, near):
    """The controls: statistics, then a dropout mask, of each replica's own."""
    preset = str(command.folder / "tiny.toml")
    whole, *controls = map(
        float, finish([sys.executable, "-c", CONTROL, preset, precision]).split()
    )
    assert whole < near
    assert min(controls) > 10 * near


@pytest.mark.parametrize(
    ("first", "flags", "changed"),
    [
        ("one", MIRRORED, "replicas: 1 -> 2"),
        pytest.param("mirrored", (), "replicas: 2 -> 1", marks=pytest.mark.slow),
        ("mirrored", MULTIWORKER, ""),
        pytest.param("multiworker", MIRRORED, "", marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_moves_between_one_device_and_several(
    runs, command, first, flags, changed
):
    """Row 22 of docs/reliability.md."""
    copy = shutil.copytree(runs / first, runs / f"moved-{first}-{len(flags)}")
    for step, path in available(copy / "state"):
        if step > 20:
            shutil.rmtree(path)
    again = command(copy.name, *flags)
    said = finish(launched(again) if flags == MULTIWORKER else again)
    assert f"continuing after step 20 of {NUM_STEPS}" in said
    straight = logged(runs / "one")
    np.testing.assert_allclose(logged(copy)[:, :6], straight[:, :6], atol=1e-4)
    if changed:
        assert f"the environment has changed: {changed}" in said
    else:
        assert "warning" not in said
        assert state_of(copy).digest() == state_of(runs / first).digest()


def workers_of(launcher):
    """Process numbers of a launcher's workers, chief first, once they are there."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    found = {}
    for pid in map(int, children.read_text().split()):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if entry.startswith(b"TF_CONFIG="):
                config = json.loads(entry.removeprefix(b"TF_CONFIG="))
                found[config["task"]["index"]] = pid
    return [found[index] for index in sorted(found)]


def disturb(command, directory, act, *options):
    """Launches workers and does something to them once step 15 is logged."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    launcher = subprocess.Popen(launched(command, *options), cwd=ROOT, **pipes)
    log, deadline = directory / "log.jsonl", time.monotonic() + 600
    while not log.exists() or '"step": 15' not in log.read_text():
        assert launcher.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    act(workers_of(launcher))
    out, err = launcher.communicate(timeout=900)
    return launcher.returncode, out, err


@pytest.mark.parametrize(
    ("number", "who"),
    [
        (signal.SIGKILL, 1),
        pytest.param(signal.SIGKILL, 0, marks=pytest.mark.slow),
        (signal.SIGSTOP, 1),
        pytest.param(signal.SIGSTOP, 0, marks=pytest.mark.slow),
    ],
)
def test_after_a_worker_is_killed_or_frozen_the_run_continues_exactly(
    runs, command, number, who
):
    """Row 20 of docs/reliability.md."""
    name = f"{number.name}-{who}"
    act = lambda pids: os.kill(pids[who], number)  # noqa: E731
    options = ("--grace", "5", "--start-timeout", "120")
    flags = command(name, *MULTIWORKER)
    code, out, err = disturb(flags, runs / name, act, *options)
    assert code == 0, err
    assert err.count("starting all again") == 1
    assert "continuing after step 10" in out or "continuing after step 20" in out
    assert state_of(runs / name).digest() == state_of(runs / "mirrored").digest()
    np.testing.assert_array_equal(logged(runs / name), logged(runs / "mirrored"))


def test_a_signal_to_one_worker_stops_and_saves_all(runs, command):
    """Row 23 of docs/reliability.md: both processes stop after the same step."""
    flags = command("stopped", *MULTIWORKER)
    act = lambda pids: os.kill(pids[1], signal.SIGTERM)  # noqa: E731
    code, out, err = disturb(flags, runs / "stopped", act)
    assert code == 128 + signal.SIGTERM and "starting" not in err
    assert "stopped by another worker after step" in out
    step = available(runs / "stopped" / "state")[0][0]
    assert 15 <= step < NUM_STEPS and f"after step {step}" in out
    finish(launched(flags))
    assert state_of(runs / "stopped").digest() == state_of(runs / "mirrored").digest()


def test_a_worker_without_its_peer_ends_in_time(command):
    """Row 21: TensorFlow alone ignores SIGTERM and waits for more than ten minutes."""
    cluster = {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}
    config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 1}})
    environment = {"TF_CONFIG": config, "GAN_START_TIMEOUT_SECONDS": "3"}
    done = subprocess.run(
        command("absent", *MULTIWORKER),
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == -signal.SIGKILL
    assert "not all of 2 workers were there after 3 s;" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--strategy", "mirrored"), "no GPU found; --replicas 2 divides the CPU"),
        ((*MIRRORED[:3], "3"), "expected a multiple of 3, the number of replicas"),
        (
            (*MIRRORED, "--batch-size", "8", "--set", "model.minibatch_stddev=8"),
            "expected a multiple of 16, so that each has whole groups",
        ),
        ((*MIRRORED, "--jit"), "--jit: received 2 replicas, expected one"),
        (("--replicas", "2"), "--replicas: received with --strategy one"),
        (MULTIWORKER, "received TF_CONFIG='', expected"),
    ],
)
def test_what_cannot_work_gets_one_line(command, flags, said):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
    options = {"cwd": ROOT, "capture_output": True, "text": True, "env": environment}
    done = subprocess.run(command("refused", *flags), **options)
    assert done.returncode == 1 and said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (command.folder / "refused").exists()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("GAN_START_TIMEOUT_SECONDS", "soon", "received 'soon', expected seconds"),
        (
            "TF_CONFIG",
            json.dumps(
                {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}
            ),
            "received TF_CONFIG=",
        ),
    ],
)
def test_a_wrong_environment_gets_one_line(monkeypatch, variable, value, said):
    one = {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(one))
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=said):
        make_strategy("multiworker")
