"""`python -m gan check`: what it finds, what it repairs, and what it prints."""

import json

import keras
import pytest
import tensorflow as tf
from click.testing import CliRunner

from gan.__main__ import main
from gan.run import checkpoint
from gan.run.folder import RunFolder, read_run
from gan.sampling import open_run
from tests.gan.run.test_checkpoint import flip


def check(run, code):
    result = CliRunner().invoke(main, ["check", str(run)])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def test_a_sound_run_is_left_as_it_is(run):
    def content():
        return {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}

    before = content()
    assert check(run, 0) == f"{run} is sound at step 12\n"
    assert content() == before | {run / ".lock": (run / ".lock").read_bytes()}


def test_damage_is_set_aside_and_the_rest_made_sound(run):
    state = run / "state"
    flip(state / "step-00000010" / "ckpt.index")
    (state / ".tmp-00000012-x").mkdir()
    (run / "best" / ".del-step-00000001").mkdir(parents=True)
    output = check(run, 3)
    assert "step-00000010 set aside as corrupt-00000010-" in output
    assert ".tmp-00000012-x, left by a killed process, removed" in output
    assert ".del-step-00000001" in output and "sound at step 12" in output
    assert [step for step, _ in checkpoint.available(state)] == [12, 5]
    check(run, 0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text("{"),
        lambda path: path.write_text(
            path.read_text().replace('"leaky_slope": 0.3', '"leaky_slope": 0.7')
        ),
    ],
)
def test_the_configuration_comes_back_from_the_newest_checkpoint(run, damage):
    config = read_run(run).config
    damage(run / "config.json")
    assert "config.json written again from the newest checkpoint" in check(run, 3)
    assert read_run(run).config == config
    check(run, 0)


@pytest.mark.reported
def test_an_export_is_held_to_the_last_checkpoint(run):
    path = run / "generator.keras"
    opened = open_run(run)
    for damage in (
        lambda: path.unlink(),
        lambda: path.write_bytes(path.read_bytes()[:999]),
        lambda: keras.models.clone_model(opened.generator).save(path),  # other weights
    ):
        damage()
        assert "generator.keras written again from the last checkpoint" in check(run, 3)
        check(run, 0)


def test_what_cannot_be_repaired_is_named(run):
    config = json.loads((run / "config.json").read_text())
    for step in (5, 10, 12):
        flip(run / "state" / f"step-{step:08d}" / "ckpt.index")
    assert "broken: " in (output := check(run, 1))
    assert "no valid checkpoint is left" in output and "cannot be used" in output
    (run / "config.json").write_text(json.dumps(config | {"config": 5}))
    assert "no checkpoint holds the configuration" in check(run, 1)


def test_a_checkpoint_of_another_version_is_broken_and_stays(run):
    other = tf.train.Checkpoint(another_name=tf.Variable(1.0))
    path = checkpoint.save(run / "state", 13, other, {}, keep=9)
    assert "is undamaged but holds other variables" in check(run, 1)
    assert path.exists()


def test_only_the_owner_checks(run, tmp_path):
    with RunFolder(run):
        assert "in use by process" in check(run, 1)
    assert "is not a run folder" in check(tmp_path / "absent", 1)
    assert not (tmp_path / "absent").exists()
