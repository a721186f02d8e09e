import errno
import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from config.loader import load_config, to_dict
from gan.files import first_line, flush, write_atomically
from gan.run.folder import (
    Parent,
    RunError,
    RunFolder,
    RunRecord,
    default_name,
    read_run,
    run_directory,
)

ROOT = Path(__file__).parents[3]
DATASET = {
    "name": "d",
    "digest": "ab",
    "num_images": 9,
    "image_size": 28,
    "channels": 1,
}


def facts(*sets, digest="ab"):
    config = load_config(sets=["train.num_steps=10", *sets])
    return RunRecord(config, DATASET | {"digest": digest}, {"python": "3"})


def test_config_json_is_exactly_the_configuration(tmp_path):
    with RunFolder(tmp_path / "a" / "run") as folder:
        assert folder.claim(facts()) == folder.claim(facts()) == (facts(), [])
    assert {p.name for p in folder.directory.iterdir()} >= {"state", "samples"}
    assert read_run(folder.directory) == facts()
    stored = json.loads((folder.directory / "config.json").read_text())
    assert stored["config"] == json.loads(json.dumps(to_dict(facts().config)))


def test_another_configuration_is_refused_with_each_difference(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.claim(facts())
        before = (tmp_path / "config.json").read_bytes()
        with pytest.raises(RunError) as refusal:
            folder.claim(facts("run.seed=1", "train.loss=hinge"))
        assert "train.loss: bce -> hinge; run.seed: 0 -> 1" in str(refusal.value)
        assert "--run" in str(refusal.value)
        assert (tmp_path / "config.json").read_bytes() == before
        with pytest.raises(RunError, match="images of the data set have changed"):
            folder.claim(facts(digest="cd"))
        stored = json.loads((tmp_path / "config.json").read_text())
        del stored["dataset"]["digest"]
        (tmp_path / "config.json").write_text(json.dumps(stored))
        with pytest.raises(RunError, match="images of the data set have changed"):
            folder.claim(facts())


def test_only_a_larger_budget_continues_the_run(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.claim(facts())
        with pytest.raises(RunError, match="train.num_steps: 10 -> 9"):
            folder.claim(facts("train.num_steps=9", "train.epochs=99"))
        _, changes = folder.claim(facts("train.num_steps=20", "train.epochs=2"))
        assert changes == ["train.epochs: 9.0 -> 2.0", "train.num_steps: 10 -> 20"]
        assert read_run(tmp_path).config.train.num_steps == 20
        with pytest.raises(RunError, match="20 -> 10"):
            folder.claim(facts())
        with pytest.raises(RunError, match="train.loss"):
            folder.claim(facts("train.num_steps=30", "train.loss=hinge"))


def test_a_run_keeps_its_parent_when_its_budget_grows(tmp_path):
    parent = Parent("fork", "other", 7, "ab" * 32)
    with RunFolder(tmp_path) as folder:
        folder.claim(replace(facts(), parent=parent))
        record, _ = folder.claim(facts("train.num_steps=20"))  # not told of it
    assert record.parent == read_run(tmp_path).parent == parent
    assert str(parent) == "forked from other at step 7 (abababababab)"


def test_a_changed_cadence_does_not_hide_lost_results(tmp_path):
    """A grid of step 500 is no sign of a checkpoint if there was one every 2,000."""
    with RunFolder(tmp_path) as folder:
        folder.claim(facts())
        (folder.samples / "step-00000500.png").write_text("a grid")
        _, changes = folder.claim(facts("run.checkpoint_every_steps=100"))
        assert changes == ["run.checkpoint_every_steps: 2000 -> 100"]
        with pytest.raises(RunError, match="but no checkpoint in state/"):
            folder.claim(facts("run.checkpoint_every_steps=9000"))


def test_checkpoints_without_a_configuration_are_refused(tmp_path):
    with RunFolder(tmp_path) as folder:
        (folder.state / "step-00000005").mkdir()
        with pytest.raises(RunError, match="config.json"):
            folder.claim(facts())
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "null",
        "[]",
        "{",
        "[" * 100_000,
        '{"dataset": DATASET}',
        '{"config": [], "dataset": DATASET}',
        '{"config": {"train": {"zzz": 1}}, "dataset": DATASET}',
        '{"config": {"train": {"epochs": 1' + "0" * 400 + '}}, "dataset": DATASET}',
        '{"config": {"train": {"epochs": NaN}}, "dataset": DATASET}',
        '{"config": {}, "dataset": []}',
        '{"config": {}, "dataset": {"image_size": 28, "channels": 1}}',
        '{"config": {}, "dataset": DATASET, "environment": 3}',
        '{"config": {}, "dataset": DATASET, "parent": 3}',
        '{"config": {}, "dataset": DATASET, "parent": {"run": "x"}}',
        '{"config": {}, "dataset": DATASET, "parent": {"kind": "fork", "run": "x", '
        '"step": "7", "digest": ""}}',
        '{"config": {}, "dataset": {"image_size": -4, "channels": 1, "num_images": 9}}',
        '{"config": {}, "dataset": {"image_size": 30, "channels": 1, "num_images": 9}}',
        '{"config": {}, "dataset": {"image_size": 28, "channels": 2, "num_images": 9}}',
        '{"config": {}, "dataset": {"image_size": 9999999999, "channels": 1, '
        '"num_images": 9}}',
        '{"config": {"model": {"latent_dim": 4096, "base_size": 256}}, "dataset": '
        '{"image_size": 1024, "channels": 1, "num_images": 9}}',
        '{"config": {"model": {"base_size": 5}}, "dataset": DATASET}',
        '{"config": {"model": {"generator_widths": [4096, 4096, 4096]}}, '
        '"dataset": DATASET}',
        '{"config": {}, "dataset": DATASET}' + " " * (1 << 20),
    ],
)
def test_a_damaged_config_is_one_line(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(content.replace("DATASET", json.dumps(DATASET)))
    with pytest.raises(RunError, match="config.json is damaged") as refusal:
        read_run(tmp_path)
    assert "\n" not in str(refusal.value)
    with RunFolder(tmp_path) as folder, pytest.raises(RunError, match="damaged"):
        folder.claim(facts())


def test_a_run_folder_does_not_lead_elsewhere(tmp_path):
    """A hostile folder, whose log or lock is a link to a file of the user."""
    mine = tmp_path / "mine"
    mine.write_text("precious")
    for name in (".lock", "log.jsonl", "state", "samples", "generator.keras"):
        directory = tmp_path / f"run-{name}"
        directory.mkdir()
        (directory / name).symlink_to(mine if "." in name else tmp_path)
        with pytest.raises(RunError, match=f"{name} is a link"):
            RunFolder(directory).__enter__()
        (directory / name).unlink()
        os.mkfifo(directory / name)
        with pytest.raises(RunError, match=name):
            RunFolder(directory).__enter__()
    assert mine.read_text() == "precious"


def test_what_a_killed_owner_was_writing_is_removed(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.claim(facts())
    names = (".tmp-1-generator.keras", "samples/.tmp-2-step-00000005.png")
    for name in names:
        (tmp_path / name).write_text("half")
    with RunFolder(tmp_path):
        assert not any((tmp_path / name).exists() for name in names)
    assert read_run(tmp_path) == facts()


@pytest.mark.reported
def test_equal_images_at_another_path_continue_the_run(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.claim(facts("data.dataset=here/set"))
        _, changes = folder.claim(facts("data.dataset=there/set"))
        assert changes == ["data.dataset: here/set -> there/set"]
        assert read_run(tmp_path).config.data.dataset == "there/set"
        with pytest.raises(RunError, match="have changed"):  # other images
            folder.claim(facts("data.dataset=there/set", digest="cd"))


def test_without_a_digest_another_path_is_another_data_set(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.claim(facts("data.dataset=here/set", digest=""))
        with pytest.raises(RunError, match="data.dataset: here/set -> there/set"):
            folder.claim(facts("data.dataset=there/set", digest=""))


@pytest.mark.reported
@pytest.mark.parametrize(
    "name", ["generator.keras", "best/step-00000900", "samples/step-00002001.png"]
)
def test_results_without_a_checkpoint_are_not_overwritten(tmp_path, name):
    """Somebody has moved or removed state/, which is not the same as a new run."""
    with RunFolder(tmp_path) as folder:
        folder.claim(facts())
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a result")
        with pytest.raises(RunError, match="but no checkpoint in state/") as refusal:
            folder.claim(facts())
        (tmp_path / "config.json").unlink()  # without it, too
        with pytest.raises(RunError, match="but no checkpoint in state/"):
            folder.claim(facts())
        assert not (tmp_path / "config.json").exists()
    assert Path(name).name in str(refusal.value)


@pytest.mark.reported
def test_what_a_run_leaves_before_its_first_checkpoint_does_not_stop_it(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.claim(facts())  # with a checkpoint every 2,000 steps
        for step in (0, 500, 2000):
            (folder.samples / f"step-{step:08d}.png").write_text("a grid")
        assert folder.claim(facts())


def test_a_folder_without_config_is_no_run(tmp_path):
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RunError, match="is not a run folder: no config.json"):
            read_run(directory)


@pytest.mark.reported
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_no_other_owner(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    with RunFolder(tmp_path) as folder:
        assert folder.is_locked
    monkeypatch.setattr("fcntl.flock", flock)
    with RunFolder(tmp_path) as folder:
        assert not folder.is_locked


@pytest.mark.reported
def test_a_file_system_that_cannot_flush_folders_loses_nothing(tmp_path, monkeypatch):
    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    flush(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Input/output error"):  # files must be flushed
        flush(tmp_path / "file")


def test_a_second_process_is_refused_with_the_number_of_the_owner(tmp_path):
    program = (
        "import sys; from pathlib import Path; from gan.run.folder import *\n"
        "try:\n"
        "    with RunFolder(Path(sys.argv[1])): print('free')\n"
        "except RunError as error: print(error)\n"
    )

    def second():
        command = [sys.executable, "-c", program, str(tmp_path)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert result.stderr == ""
        return result.stdout

    with RunFolder(tmp_path):
        assert f"in use by process {os.getpid()}; " in second()
    assert second() == "free\n"  # the lock went with the block, the file stays
    with RunFolder(tmp_path):
        assert f"process {os.getpid()};" in second()  # not the pids of earlier owners


def test_the_lock_of_a_killed_process_is_no_lock(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from gan.run.folder import *\n"
        "with RunFolder(Path(sys.argv[1])):\n"
        "    print('locked', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == b"locked\n"
        with pytest.raises(RunError, match=f"in use by process {first.pid}; "):
            RunFolder(tmp_path).__enter__()
        first.kill()
    assert (tmp_path / ".lock").read_text() == str(first.pid)  # its file is still there
    with RunFolder(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write to .*choose another"):
        RunFolder(tmp_path / "file" / "run").__enter__()
    with pytest.raises(RunError, match="File name too long"):
        RunFolder(tmp_path / ("a" * 300)).__enter__()
    # The superuser may write everywhere, so the refusal is played.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(RunError, match="not writable"):
        RunFolder(tmp_path / "run").__enter__()


def test_a_full_disk_leaves_the_old_file_and_no_temporary(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(path, write)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]
    assert path.read_text() == "old"


def test_the_reason_of_an_error_is_its_first_line():
    """As TensorFlow words a full disk while it saves."""
    place = "{{function_node __wrapped__SaveV2_dtypes_79_device_/job:localhost:0}} "
    reason = f"/{'long/' * 30}part-00000; No space left on device [Op:SaveV2]"
    assert first_line(OSError(f"{place}{reason}\nand a page of stack")) == reason
    assert first_line(KeyboardInterrupt()) == "KeyboardInterrupt"
    keras = f"Exception encountered when calling X.call().\n\n\x1b[1m{reason}\x1b[0m\n"
    assert first_line(ValueError(keras)) == reason
    assert len(first_line(OSError("x" * 999))) == 300


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "/abs", "..", ".hidden", "", "-x", "a\n", "a b", "ä"]
)
def test_a_name_never_leaves_the_folder_of_runs(name):
    with pytest.raises(RunError, match="--run: received"):
        run_directory("runs", name)


def test_the_default_name_says_what_differs():
    def name(*sets, preset=""):
        return default_name(load_config(sets=sets), preset)

    assert name() == name(preset="fashion_mnist") == "fashion_mnist-transpose-seed0"
    assert name(
        "model.upsample=resize", "run.seed=3", "data.dataset=emnist/letters"
    ) == ("letters-resize-nearest-seed3")
    assert name("model.kernel_size=4", preset="config/smoke.toml") == (
        "fashion_mnist-transpose-k4-seed0-smoke"
    )


@pytest.mark.parametrize(
    ("dataset", "preset"),
    [("/", ""), ("..", ""), ("a b/c d/", "my preset.toml"), ("~/ä", "x/ä.toml")],
)
def test_the_default_name_is_a_valid_name(dataset, preset):
    config = load_config()
    config = replace(config, data=replace(config.data, dataset=dataset))
    name = default_name(config, preset)
    assert run_directory("runs", name).parent == Path("runs")
