import json
import os

import pytest
import tensorflow as tf

from gan.run import checkpoint
from gan.run.checkpoint import CheckpointError, available, restore_newest, save, verify

FILES = ("ckpt.index", "ckpt.data-00000-of-00001", "manifest.json")


class Saved:
    """A folder with checkpoints of one small variable; its value is the step."""

    def __init__(self, directory):
        self.directory = directory
        self.variable = tf.Variable([0.0] * 100)
        self.checkpoint = tf.train.Checkpoint(variable=self.variable)

    def save(self, *steps, keep=3, lasting=()):
        for step in steps:
            self.variable.assign([float(step)] * 100)
            facts = {"by": "test"}
            save(self.directory, step, self.checkpoint, facts, keep, lasting=lasting)

    def restore(self):
        self.variable.assign([-1.0] * 100)
        return restore_newest(self.directory, self.checkpoint)

    def value(self):
        return set(self.variable.numpy().tolist())

    def path(self, step, file=""):
        return self.directory / f"step-{step:08d}" / file

    def names(self):
        return sorted(path.name for path in self.directory.iterdir())


@pytest.fixture
def saved(tmp_path):
    return Saved(tmp_path / "state")


def test_the_newest_is_restored_with_what_its_writer_said(saved):
    assert restore_newest(saved.directory, saved.checkpoint) is None  # no folder yet
    saved.save(5, 10)
    restored = saved.restore()
    assert (restored.step, restored.facts) == (10, {"by": "test"})
    assert restored.warnings == () and saved.value() == {10.0}
    assert set(os.listdir(saved.path(10))) == set(FILES)


def test_retention_keeps_the_newest(saved):
    saved.save(5, 10, 15, 100000000, keep=2)
    assert saved.names() == ["step-00000015", "step-100000000"]
    assert [step for step, _ in available(saved.directory)] == [100000000, 15]
    assert saved.restore().step == 100000000


def test_lasting_steps_are_never_removed(saved):
    saved.save(1, 3, 5, 10, 15, keep=1, lasting=(1, 10, 30))
    assert [step for step, _ in available(saved.directory)] == [15, 10, 1]


def test_a_checkpoint_of_a_run_that_was_rolled_back_is_refused(saved):
    """Older versions saved a factor on the learning rates, 1 unless rolled back."""
    for step, factor in ((5, 1.0), (10, 0.5)):
        saved.checkpoint.rate_scale = tf.Variable(factor)
        saved.save(step)
        del saved.checkpoint.rate_scale
    with pytest.raises(CheckpointError, match=r"by 0\.5, and rollback was removed"):
        saved.restore()
    assert saved.value() == {-1.0} and saved.path(10).exists()
    checkpoint.remove(saved.path(10))
    assert saved.restore().step == 5 and saved.value() == {5.0}
    saved.save(15)  # without the factor
    names = [name for name, _ in tf.train.list_variables(str(saved.path(15, "ckpt")))]
    assert not [name for name in names if "rate_scale" in name]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


DAMAGES = {
    "flipped": flip,
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 1),
    "emptied": lambda path: os.truncate(path, 0),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b" x"),
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(saved, file, damage):
    saved.save(5, 10)
    DAMAGES[damage](saved.path(10, file))
    restored = saved.restore()
    assert restored.step == 5 and saved.value() == {5.0}
    (warning,) = restored.warnings
    assert "step-00000010 set aside as" in warning and file in warning
    aside, kept = saved.names()
    assert aside.startswith("corrupt-00000010-") and kept == "step-00000005"
    saved.save(10)  # the step can be reached and saved again
    assert saved.restore().step == 10 and saved.value() == {10.0}


def test_with_no_valid_checkpoint_left_nothing_starts_over(saved):
    saved.save(5, 10)
    for step in (5, 10):
        flip(saved.path(step, "ckpt.index"))
    with pytest.raises(CheckpointError, match="no valid .*00000010.*00000005.*--run"):
        saved.restore()
    with pytest.raises(CheckpointError, match="set aside earlier"):
        saved.restore()


def edit(path, **changes):
    """Changes a manifest and computes its checksum again."""
    manifest = json.loads(path.read_text()) | changes
    del manifest["sha256"]
    path.write_text(json.dumps(manifest | {"sha256": checkpoint.checksum(manifest)}))


@pytest.mark.parametrize(
    "changes",
    [
        {"step": 11},
        {"step": "10"},
        {"step": None},
        {"step": [10]},
        {"files": {}},
        {"files": []},
        {"files": {"ckpt.index": 5}},
        {"facts": None},
        {"more": 1},
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(saved, changes):
    saved.save(10)
    edit(saved.path(10, "manifest.json"), **changes)
    with pytest.raises(CheckpointError):
        verify(saved.path(10))
    with pytest.raises(CheckpointError, match="no valid checkpoint"):
        saved.restore()


@pytest.mark.parametrize(
    "name", ["../step-00000005/ckpt.index", "/etc/passwd", "..", ""]
)
def test_a_manifest_cannot_point_outside_its_folder(saved, name):
    saved.save(5, 10)
    path = saved.path(10, "manifest.json")
    files = json.loads(path.read_text())["files"]
    target = saved.path(10, "ckpt.index")
    edit(path, files=files | {name: checkpoint.fingerprint(target)})
    with pytest.raises(CheckpointError, match="outside|unreadable"):
        verify(saved.path(10))


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b"null", b"[]", b"{"])
def test_a_manifest_that_is_no_manifest_is_set_aside(saved, content):
    saved.save(5, 10)
    saved.path(10, "manifest.json").write_bytes(content)
    assert saved.restore().step == 5


def test_a_nul_in_a_file_name_is_no_traceback(saved):
    saved.save(5, 10)
    path = saved.path(10, "manifest.json")
    edit(path, files=json.loads(path.read_text())["files"] | {"a\0b": {}})
    assert saved.restore().step == 5


def test_every_digit_of_a_manifest_counts(saved):
    """What it says of its writer is not covered by the sums of the other files."""
    saved.save(10)
    path = saved.path(10, "manifest.json")
    path.write_text(path.read_text().replace('"by": "test"', '"by": "tesu"'))
    with pytest.raises(CheckpointError, match="unreadable"):
        verify(saved.path(10))


def test_an_early_manifest_without_a_checksum_is_read(saved):
    saved.save(10)
    path = saved.path(10, "manifest.json")
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    path.write_text(json.dumps(manifest))
    assert saved.restore().facts == {"by": "test"}
    path.write_text(
        json.dumps(manifest | {"sha257": "0"})
    )  # its name has a flipped bit
    with pytest.raises(CheckpointError):
        verify(saved.path(10))


@pytest.mark.parametrize("file", FILES)
def test_a_pipe_or_an_endless_device_is_not_read(saved, file):
    saved.save(5, 10)
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        saved.path(10, file).unlink()
        make(saved.path(10, file))
        with pytest.raises(CheckpointError, match=file):
            verify(saved.path(10))


@pytest.mark.parametrize(("name", "size"), [("variable", 7), ("misnamed", 100)])
def test_a_checkpoint_of_another_version_is_refused_and_kept(saved, name, size):
    """Nothing is wrong with it, and going on from an older one would lose steps."""
    saved.save(5)
    other = tf.train.Checkpoint(**{name: tf.Variable([0.0] * size)})
    save(saved.directory, 10, other, {}, 3)
    with pytest.raises(CheckpointError, match="00000010 is undamaged .*version.*--run"):
        saved.restore()
    assert saved.names() == ["step-00000005", "step-00000010"]


def test_a_replacement_takes_the_place_of_the_one_before(saved):
    saved.save(5)
    saved.variable.assign([7.0] * 100)
    save(saved.directory, 5, saved.checkpoint, {}, 3)
    assert saved.restore().step == 5 and saved.value() == {5.0}  # it was there already
    saved.variable.assign([7.0] * 100)
    save(saved.directory, 5, saved.checkpoint, {}, 3, replace=True)
    assert saved.restore().step == 5 and saved.value() == {7.0}
    assert saved.names() == ["step-00000005"]


@pytest.mark.parametrize("killed", [False, True])
def test_a_replacement_that_ends_between_its_renames_loses_nothing(
    saved, monkeypatch, killed
):
    saved.save(5)
    rename = os.rename

    def refuse(source, target):
        if ".tmp-" in str(source):
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    if killed:  # then nobody is left to put it back
        monkeypatch.setattr(checkpoint, "put_back", lambda directory: None)
    with pytest.raises(KeyboardInterrupt):
        save(saved.directory, 5, saved.checkpoint, {}, 3, replace=True)
    monkeypatch.undo()
    assert saved.names() == [".old-step-00000005" if killed else "step-00000005"]
    assert saved.restore().step == 5 and saved.value() == {5.0}


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("flushed", [0, 1, 3])
def test_an_interrupted_save_leaves_the_earlier_ones_alone(
    saved, monkeypatch, error, flushed
):
    saved.save(5)
    calls = iter(range(100))

    def refuse(path):
        if next(calls) == flushed:
            raise error

    monkeypatch.setattr(checkpoint, "flush", refuse)
    is_disk = isinstance(error, OSError)
    with pytest.raises(CheckpointError if is_disk else KeyboardInterrupt):
        saved.save(10)
    assert saved.names() == ["step-00000005"]
    monkeypatch.undo()
    assert saved.restore().step == 5
    saved.save(10)
    assert saved.restore().step == 10


def test_a_refusal_by_tensorflow_is_one_line(saved, monkeypatch):
    def refuse(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left\nat line 2")

    monkeypatch.setattr(saved.checkpoint, "write", refuse)
    with pytest.raises(CheckpointError, match="step 5 not written: No space left$"):
        saved.save(5)
    assert saved.names() == []


def test_what_a_killed_writer_left_is_removed_and_never_read(saved):
    saved.save(5)
    for name in (".tmp-00000010-abcd", ".del-step-00000001"):
        (saved.directory / name).mkdir()
        (saved.directory / name / "ckpt.index").write_text("half")
    (saved.directory / "step-x").mkdir()
    (saved.directory / "step-00000099").write_text("no folder")
    assert [step for step, _ in available(saved.directory)] == [5]
    assert saved.restore().step == 5
    assert saved.names() == ["step-00000005", "step-00000099", "step-x"]


def test_tensorflows_state_file_is_not_asked(saved):
    """A torn one would make a run start over in silence."""
    saved.save(5, 10)
    (saved.directory / "checkpoint").write_text('model_checkpoint_path: "ckpt-')
    assert saved.restore().step == 10


def test_a_moved_folder_still_restores(saved, tmp_path):
    saved.save(5)
    saved.directory = saved.directory.rename(tmp_path / "elsewhere")
    assert saved.restore().step == 5 and saved.value() == {5.0}
