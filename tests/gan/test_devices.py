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
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

import train as program
from config.loader import load_config
from config.schema import ConfigError
from gan import devices
from gan.devices import make_strategy
from gan.run.checkpoint import available, read
from gan.run.environment import make_gpu_deterministic
from gan.run.folder import read_run
from gan.state import build_state
from gan.step import METRICS
from gan.training import announce_start

ROOT = Path(__file__).parents[2]
NUM_STEPS = 24
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
evaluate_every_steps = 8
checkpoint_every_steps = 8
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
    """The same run on one device, which is this process, and on two: their folders."""
    here(command("one"))
    finish(command("mirrored", *MIRRORED))
    return command.folder


def here(command):
    """What a command prints that runs in this process, on one device."""
    result = CliRunner().invoke(program.main, command[2:])
    assert result.exit_code == 0, result.output
    return result.output


def digest_of(directory, step=NUM_STEPS):
    """The digest of the state in the checkpoint of a step."""
    state = build_state(read_run(directory).config, 28, 1)
    read(directory / "state" / f"step-{step:08d}", state.checkpoint)
    return state.digest()


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


@pytest.mark.slow
def test_two_processes_equal_two_devices_bit_for_bit(runs, command):
    """Without any fault; another test has a kill and a signal in between."""
    finish(launched(command("multiworker", *MULTIWORKER)))
    assert_ends_like_mirrored(runs, "multiworker")


def assert_ends_like_mirrored(runs, name):
    """A run has the state, the log and the pictures of the run on two devices."""
    run, mirrored = runs / name, runs / "mirrored"
    assert digest_of(run) == digest_of(mirrored)
    np.testing.assert_array_equal(logged(run), logged(mirrored))
    for picture in ("step-00000016.png", f"step-000000{NUM_STEPS}.png"):
        expected = (mirrored / "samples" / picture).read_bytes()
        assert (run / "samples" / picture).read_bytes() == expected
        assert (runs / "one" / "samples" / picture).exists()


CONTROL = """
import json
import sys
from unittest.mock import patch
from gan.run.environment import prepare_tensorflow
prepare_tensorflow()
import keras
import tensorflow as tf
from config.loader import load_config
from gan import augment, devices, layers, models
from gan.data.dataset import load_dataset
from gan.state import build_state
from gan.step import batch_inputs, make_train_steps

strategy = devices.make_strategy("mirrored", 2)
precision, r1_gamma, eagerly = sys.argv[2:]
tf.config.run_functions_eagerly(eagerly == "True")
changes = {"train.precision": precision, "train.r1_gamma": float(r1_gamma)}
changes |= {"train.augment": "colour,translation,cutout", "data.flip": True}
config = load_config(sys.argv[1], changes)
images = tf.constant(load_dataset(config.data).images_uint8)

def metrics(strategy, config=config):
    state = build_state(config, 28, 1, strategy)
    train_steps = make_train_steps(config, state)
    inputs = [batch_inputs(config, [s], len(images)) for s in range(2)]
    return [train_steps(images, *each).numpy()[0].tolist() for each in inputs]

class Own(keras.layers.BatchNormalization):
    def __init__(self, synchronized, **options):
        super().__init__(**options)

found = {"one": metrics(None), "two": metrics(strategy)}
with patch.object(models, "FusedBatchNormalization", Own):
    found["own statistics"] = metrics(strategy)
first_half = lambda whole: whole[: whole.shape[0] // 2]
for name, module in (("equal masks", layers), ("equal changes of images", augment)):
    with patch.object(module, "part_of_replica", first_half):
        found[name] = metrics(strategy)
found["no R1"] = metrics(None, load_config(base=config, flags={"train.r1_gamma": 0.0}))
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    ("precision", "gamma", "near", "eagerly"),
    [
        ("float32", 1.0, 1e-5, True),
        ("float32", 1.0, 1e-5, False),
        ("mixed_float16", 0.0, 1e-2, False),
    ],
)
@pytest.mark.slow
def test_without_any_of_its_parts_two_replicas_differ(
    runs, precision, gamma, near, eagerly
):
    """Controls: batch statistics of each replica's own; masks and changes of images
    that are those of half a batch, twice.

    In float32 the steps include R1, and the last control is one device without it.
    """
    words = map(str, (runs / "tiny.toml", precision, gamma, eagerly))
    command = [sys.executable, "-c", CONTROL, *words]
    found = {k: np.array(v) for k, v in json.loads(finish(command)).items()}
    one, losses = found["one"], np.s_[:, :4]
    # Float16 skips first steps whose gradients are not finite.
    compared = np.s_[:] if gamma else losses
    assert np.abs(found["two"][compared] - one[compared]).max() < near
    for control in ("own statistics", "equal masks", "equal changes of images"):
        difference = np.abs(found[control][losses] - one[losses]).max()
        assert difference > 10 * near, control
    if gamma:
        assert np.abs(found["no R1"] - one).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "flags", "changed"),
    [
        ("one", MIRRORED, "replicas: 1 -> 2"),
        ("mirrored", (), "replicas: 2 -> 1"),
        ("mirrored", MULTIWORKER, ""),
    ],
)
def test_a_checkpoint_moves_between_one_device_and_several(
    runs, command, first, flags, changed
):
    """Row 22 of docs/reliability.md; from several processes see the tests below."""
    copy = shutil.copytree(runs / first, runs / f"moved-{first}-{len(flags)}")
    for step, path in available(copy / "state"):
        if step > 16:
            shutil.rmtree(path)
    again = command(copy.name, *flags)
    if flags:
        said = finish(launched(again) if flags == MULTIWORKER else again)
    else:
        said = here(again)
    assert f"continuing after step 16 of {NUM_STEPS}" in said
    straight = logged(runs / "one")
    np.testing.assert_allclose(logged(copy)[:, :6], straight[:, :6], atol=1e-4)
    if changed:
        assert f"the environment has changed: {changed}" in said
    else:
        assert "warning" not in said
        assert digest_of(copy) == digest_of(runs / first)


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


def start(command, *options):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(launched(command, *options), cwd=ROOT, **pipes)


def wait_for_step(launcher, directory, step):
    log, deadline = directory / "log.jsonl", time.monotonic() + 600
    while not log.exists() or f'"step": {step},' not in log.read_text():
        assert launcher.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_two_processes_equal_two_devices_and_stop_together(runs, command):
    """Rows 22 and 23 of docs/reliability.md.

    After SIGTERM to one worker, both stop after the same step and save. One device
    continues the run.
    """
    directory, straight = runs / "stopped", logged(runs / "one")
    with start(command("stopped", *MULTIWORKER)) as launcher:
        wait_for_step(launcher, directory, 10)
        os.kill(workers_of(launcher)[1], signal.SIGTERM)
        out, err = launcher.communicate(timeout=900)
    assert launcher.returncode == 128 + signal.SIGTERM and "starting" not in err, err
    assert "stopped by another worker after step" in out
    step = available(directory / "state")[0][0]
    assert 10 <= step < NUM_STEPS and f"after step {step}" in out

    mirrored = runs / "mirrored"
    np.testing.assert_array_equal(logged(directory), logged(mirrored)[:step])
    assert digest_of(directory, 8) == digest_of(mirrored, 8)
    picture = Path("samples", "step-00000008.png")
    assert (directory / picture).read_bytes() == (mirrored / picture).read_bytes()

    said = here(command("stopped"))
    assert f"continuing after step {step} of {NUM_STEPS}" in said
    assert "the environment has changed: replicas: 2 -> 1" in said
    np.testing.assert_allclose(logged(directory)[:, :6], straight[:, :6], atol=1e-4)


@pytest.mark.slow
def test_two_processes_killed_and_stopped_equal_two_devices_bit_for_bit(runs, command):
    """Rows 20 and 23 of docs/reliability.md.

    After SIGKILL to one worker, the launcher starts both again. After SIGTERM to one,
    both stop after the same step and save. Two devices of one process do the rest.
    """
    directory = runs / "disturbed"
    with start(command("disturbed", *MULTIWORKER), "--grace", "5") as launcher:
        wait_for_step(launcher, directory, 10)
        os.kill(workers_of(launcher)[1], signal.SIGKILL)
        while "starting all again" not in (line := launcher.stderr.readline()):
            assert line, launcher.wait()
        wait_for_step(launcher, directory, len(logged(directory)) + 1)
        os.kill(workers_of(launcher)[1], signal.SIGTERM)
        out, err = launcher.communicate(timeout=900)
    assert launcher.returncode == 128 + signal.SIGTERM and "starting" not in err, err
    assert "continuing after step 8 " in out or "continuing after step 16" in out
    assert "stopped by another worker after step" in out
    step = available(directory / "state")[0][0]
    assert 10 <= step < NUM_STEPS and f"after step {step}" in out
    said = finish(command("disturbed", *MIRRORED))
    assert f"continuing after step {step} of" in said and "warning" not in said
    assert_ends_like_mirrored(runs, "disturbed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "who"),
    [(signal.SIGKILL, 0), (signal.SIGSTOP, 1), (signal.SIGSTOP, 0)],
)
def test_after_a_worker_is_killed_or_frozen_the_run_continues_exactly(
    runs, command, number, who
):
    """Row 20 of docs/reliability.md."""
    name = f"{number.name}-{who}"
    options = ("--grace", "5", "--start-timeout", "120")
    with start(command(name, *MULTIWORKER), *options) as launcher:
        wait_for_step(launcher, runs / name, 10)
        os.kill(workers_of(launcher)[who], number)
        out, err = launcher.communicate(timeout=900)
    assert launcher.returncode == 0, err
    assert err.count("starting all again") == 1
    assert "continuing after step 8 " in out or "continuing after step 16" in out
    assert_ends_like_mirrored(runs, name)


def test_a_run_on_a_gpu_is_deterministic_and_says_how_to_be_faster(
    command, monkeypatch, eagerly
):
    """Without a GPU, what the run asks of TensorFlow is seen, and not what it does."""
    asked = []
    monkeypatch.setattr(
        "tensorflow.config.experimental.enable_op_determinism",
        lambda: asked.append("determinism"),
    )
    short = ("--steps", "1")
    assert "there is a GPU" not in here(command("without", *short)) and not asked
    with monkeypatch.context() as patch:
        patch.setattr("tensorflow.config.list_physical_devices", lambda kind: [kind])
        assert make_gpu_deterministic() and asked.pop() == "determinism"
    monkeypatch.setattr(
        "gan.run.environment.make_gpu_deterministic", lambda: asked.append("x") or True
    )
    advice = "note: there is a GPU; on it a new run with --jit"
    assert advice in here(command("with", *short)) and asked == ["x"]
    said = []
    for jit in (False, True):
        record = SimpleNamespace(
            parent=None,
            environment={"replicas": 1},
            config=load_config(flags={"train.jit": jit}),
        )
        announce_start(SimpleNamespace(say=said.append), None, {}, record, [], True)
    assert len(said) == 1 and said[0].startswith(advice)


@pytest.mark.slow  # it starts a process of its own
def test_no_part_of_a_run_needs_random_numbers_without_a_seed(tmp_path):
    """TensorFlow refuses those once determinism is asked for, as it is on a GPU."""
    flags = ["--config", "smoke", "--runs-dir", str(tmp_path), "--augment", "cutout"]
    code = (
        "import sys, tensorflow as tf, train\n"
        "tf.config.experimental.enable_op_determinism()\n"
        f"train.main({flags!r})"
    )
    assert "finished: 30 steps" in finish([sys.executable, "-c", code])


@pytest.mark.slow
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
    ("replicas", "flags", "said"),
    [
        (0, ("--strategy", "mirrored"), "no GPU found; --replicas 2 divides the CPU"),
        (3, (*MIRRORED[:3], "3"), "expected a multiple of 3, the number of replicas"),
        (
            2,
            (*MIRRORED, "--batch-size", "8", "--set", "model.minibatch_stddev=8"),
            "expected a multiple of 16, so that each has whole groups",
        ),
        (2, (*MIRRORED, "--jit"), "--jit: received 2 replicas, expected one"),
        (0, ("--replicas", "2"), "--replicas: received with --strategy one"),
        (0, MULTIWORKER, "received TF_CONFIG='', expected"),
    ],
)
def test_what_cannot_work_gets_one_line(command, monkeypatch, replicas, flags, said):
    """A stand-in counts replicas, since this process can no longer divide its CPU."""
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if replicas:
        stand_in = SimpleNamespace(num_replicas_in_sync=replicas)
        monkeypatch.setattr(devices, "make_strategy", lambda *_: stand_in)
    result = CliRunner().invoke(program.main, command("refused", *flags)[2:])
    assert result.exit_code == 1 and said in result.stderr
    assert len(result.stderr.splitlines()) == 1
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
