"""Faults done to real processes, files and disks; docs/reliability.md lists them all.

The random ones are those of tools/inject_faults.py: a few of each, many when slow.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from rich.console import Console

import train as program
from gan.data.dataset import load_dataset
from gan.files import write_atomically
from gan.run import checkpoint
from gan.run.checkpoint import CheckpointError, available, restore_newest, verify
from gan.run.environment import describe_environment
from gan.run.folder import RunFolder, read_run
from gan.run.log import RunLog
from gan.state import build_state
from gan.training import train
from tools import inject_faults as faults

pytestmark = pytest.mark.timeout(1500)  # on a machine that others keep busy


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A finished run with all its checkpoints."""
    directory = tmp_path_factory.mktemp("straight") / "run"
    assert faults.finish(directory, keep=faults.NUM_STEPS) == 0
    return directory


@pytest.fixture(scope="module")
def judge(straight):
    return faults.Reference(straight)


def check(tallies, num):
    assert sum(tally.tried for tally in tallies.values()) == num
    for name, tally in tallies.items():
        assert (tally.wrong, tally.survived) == ([], tally.tried), name
        assert tally.lost_steps <= faults.SAVE_EVERY


@pytest.mark.slow  # test_resume.py has one kill
@pytest.mark.parametrize("num", [3, 20])
def test_runs_killed_at_random_lose_an_interval_at_most(tmp_path, judge, num):
    check(faults.kill_runs(tmp_path, num, np.random.default_rng(num), judge), num)


@pytest.mark.parametrize("num", [28, pytest.param(280, marks=pytest.mark.slow)])
def test_no_flipped_bit_goes_unseen_where_it_counts(straight, judge, num):
    copy = shutil.copytree(straight, straight.with_name(f"copy{num}"))
    draws = np.random.default_rng(num)
    tallies = faults.damage_files(copy, num, draws, judge)
    check(tallies, num)
    assert sum(tallies[kind].no_effect for kind in ("index", "data", "manifest")) == 0


def test_without_the_sums_another_step_is_restored_in_silence(
    judge, straight, tmp_path
):
    """The control: TensorFlow's own sums hold within the files of any step."""
    state = shutil.copytree(straight / "state", tmp_path / "state")
    newest, older = (path for _, path in available(state)[:2])
    for path in older.glob("ckpt*"):
        shutil.copy(path, newest)
    tally = faults.Outcome()
    with pytest.MonkeyPatch.context() as patch:
        trusting = lambda path: json.loads((path / "manifest.json").read_text())  # noqa: E731
        patch.setattr(checkpoint, "verify", trusting)
        judge.restore(tmp_path, faults.NUM_STEPS, tally, "swapped")
    assert "right: False" in tally.wrong[0]
    step = judge.restore(tmp_path, faults.NUM_STEPS, faults.Outcome(), "")
    assert step == faults.NUM_STEPS - faults.SAVE_EVERY


class Killed:
    """A save in a process that is killed at its `number`-th step on the disk."""

    def __init__(self, number, copying=False):
        self.left, self.copying = number, copying

    def die_at(self, function):
        def counted(*args, **kwargs):
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return counted

    def __call__(self, directory):
        saved = tf.train.Checkpoint(variable=tf.Variable([5.0] * 1000))
        checkpoint.save(directory, 5, saved, {}, 3)
        saved.variable.assign([6.0] * 1000)
        checkpoint.flush = self.die_at(checkpoint.flush)
        os.rename = self.die_at(os.rename)
        if self.copying:
            copy = self.die_at(shutil.copy2)
            Path.rename = lambda a, b: (
                shutil.copytree(a, b, copy_function=copy),
                shutil.rmtree(a),
            )
        checkpoint.save(directory, 5, saved, {}, 3, replace=True)
        sys.exit()


def values_after(directory, killed):
    """What is restored after such a save, and whether it was torn; None: not killed."""
    process = faults.start(killed, directory)
    process.join()
    torn = []
    for _, path in available(directory):
        try:
            verify(path)
        except CheckpointError:
            torn.append(path)
    variable = tf.Variable([0.0] * 1000)
    if restore_newest(directory, tf.train.Checkpoint(variable=variable)) is None:
        raise AssertionError("nothing is left")
    assert not list(directory.glob(".*"))
    killed_by_us = process.exitcode == -signal.SIGKILL
    return set(variable.numpy().tolist()) if killed_by_us else None, bool(torn)


def test_a_save_killed_at_each_of_its_steps_is_never_torn(tmp_path):
    """Four flushes, two renames, a flush: before the second rename 5, after it 6."""
    found = []
    for number in range(20):
        values, torn = values_after(tmp_path / str(number), Killed(number))
        assert not torn
        if values is None:
            break
        found.append(values)
    assert found == [{5.0}] * 6 + [{6.0}]


def test_a_copy_in_place_of_the_rename_is_torn(tmp_path):
    """The control: some kill leaves a folder that has the name and lacks a file."""
    number = 4 + 3 + 1  # flushes, files of the one before, the first of the new one
    with pytest.raises(CheckpointError, match="no valid checkpoint"):
        values_after(tmp_path, Killed(number, copying=True))


@pytest.fixture
def disk(tmp_path):
    """A file system of 256 KiB."""
    directory = tmp_path / "disk"
    try:
        with faults.small_disk(directory, 256):
            yield directory
    except OSError as error:
        pytest.skip(str(error))


def leave(disk, num_bytes):
    """Fills a disk up to the last `num_bytes`."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    status = os.statvfs(disk)
    with filler.open("wb") as file:
        file.write(bytes(status.f_bavail * status.f_frsize - num_bytes))


def test_a_save_on_a_full_disk_leaves_no_trace(disk):
    """Wherever in the save the disk is full; TensorFlow writes two files itself."""
    saved = tf.train.Checkpoint(variable=tf.Variable([5.0] * 4000))
    state, outcomes = disk / "state", []
    checkpoint.save(state, 5, saved, {}, 3)
    saved.variable.assign([6.0] * 4000)
    for pages in range(12):
        leave(disk, 4096 * pages)
        try:
            checkpoint.save(state, 6, saved, {}, 3)
        except CheckpointError as error:
            assert "step 6 not written" in str(error) and "\n" not in str(error)
            outcomes.append("refused")
            assert os.listdir(state) == ["step-00000005"]
            verify(state / "step-00000005")
            continue
        outcomes.append("written")
        verify(state / "step-00000006")
        checkpoint.remove(state / "step-00000006")
    # Data of 4 pages, index and manifest of one each.
    assert outcomes == ["refused"] * 6 + ["written"] * 6


def test_an_export_on_a_full_disk_keeps_the_one_before(disk, straight, judge):
    path = disk / "generator.keras"
    shutil.copy(straight / "generator.keras", path)
    before = path.read_bytes()
    leave(disk, 8192)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, judge.state.ema_generator.save)
    assert path.read_bytes() == before and len(os.listdir(disk)) == 2
    leave(disk, 1 << 17)
    write_atomically(path, judge.state.ema_generator.save)


def test_a_full_disk_costs_log_lines_and_not_the_training(disk):
    console = Console(record=True, width=200, file=open(os.devnull, "w"))
    (disk / "samples").mkdir()
    with RunLog(disk, 10, console) as log:
        leave(disk, 0)
        log.begin(-1, {}, "")
        for step in range(3):
            log.losses(step, {"loss/g": 0.5})
            log.grid(step, np.zeros((99, 99, 1), np.uint8))
        leave(disk, 1 << 16)
        log.losses(3, {"loss/g": 0.5})
    console.file.close()
    said = console.export_text()
    assert said.count("warning: log.jsonl cannot be written") == 1
    assert said.count("warning: sample grids cannot be written") == 1
    line = (disk / "log.jsonl").read_text().splitlines()[-1]
    assert json.loads(line) == {"step": 3, "loss/g": 0.5}


@pytest.mark.slow
@pytest.mark.parametrize("num", [12])
def test_a_run_on_a_full_disk_goes_on_when_there_is_room(tmp_path, judge, num):
    try:
        tally = faults.fill_disks(tmp_path, num, judge)
    except OSError as error:
        assert error.errno is None, error
        pytest.skip(str(error))
    check({"disk": tally}, num)


@pytest.mark.slow
def test_it_does_not_matter_where_in_an_epoch_a_run_stops(tiny, tmp_path):
    """In its middle, at its end, and one step after: 4 steps an epoch."""
    cadence = {"run.checkpoint_every_steps": 1, "run.keep_checkpoints": 9}
    config = tiny({"data.limit": 32, "train.num_steps": 8} | cadence)
    images = load_dataset(config.data)
    state = build_state(config, 28, 1)
    digests = []
    with RunFolder(tmp_path) as folder:
        for stop in (8, 5, 4, 3):
            for step, path in available(folder.state):
                if step > stop:
                    checkpoint.remove(path)
            train(config, images, folder)
            assert restore_newest(folder.state, state.checkpoint).step == 8
            digests.append(state.digest())
    assert len(set(digests)) == 1


def test_a_resume_elsewhere_says_what_is_different(run, images):
    """Threads, oneDNN, XLA flags, device and versions are written with each state."""
    (_, path), *_ = available(run / "state")
    before = describe_environment()
    assert verify(path)["facts"]["environment"] == before
    assert {"threads", "onednn", "device", "xla_flags", "tensorflow"} < set(before)
    manifest = verify(path)
    other = before | {"threads": 99, "device": "Q", "onednn": "0", "of_the_past": 1}
    manifest["facts"]["environment"] = other
    manifest["sha256"] = checkpoint.checksum(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    with open(os.devnull, "w") as nowhere, RunFolder(run) as folder:
        console = Console(record=True, width=200, file=nowhere)
        train(read_run(run).config, images, folder, console=console)
    expected = f"device: Q -> CPU; threads: 99 -> {before['threads']}; onednn: 0 -> "
    (said,) = [x for x in console.export_text().splitlines() if "not bit-exact" in x]
    assert expected in said and "past" not in said and "tensorflow" not in said


def test_one_constant_image_in_batches_of_eight_is_trained_on(tmp_path):
    """Zero variance, fewer images than a batch has, and nothing to measure."""
    np.save(tmp_path / "one.npy", np.full((1, 28, 28), 7, np.uint8))
    args = ["--dataset", str(tmp_path / "one.npy"), "--runs-dir", str(tmp_path / "r")]
    sets = [f"{k}={v}" for k, v in faults.SETTINGS.items() if k.startswith("model")]
    args += ["--steps", "3", "--batch-size", "8", "--run", "one"]
    args += [part for text in sets for part in ("--set", text)]
    result = CliRunner().invoke(program.main, args)
    assert result.exit_code == 0 and "finished: 3 steps" in result.output, result.output
    assert "note: not observed" in result.output
    lines = (tmp_path / "r" / "one" / "log.jsonl").read_text().splitlines()
    assert all(value is not None for value in json.loads(lines[-1]).values())
