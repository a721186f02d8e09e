"""A run that starts from another one, or goes on with the settings of its own."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

import train as program
from config.loader import load_config
from config.schema import ConfigError
from gan.run.checkpoint import Restored, available, read, restore_newest, save
from gan.run.folder import RunError, RunFolder, read_run
from gan.run.health import Alarms
from gan.run.start import find_start, split_checkpoint
from gan.state import build_state
from gan.training import read_facts, train

NETWORKS = ("generator", "ema_generator", "discriminator")


def call(*args):
    """The output of train.py, which ends well."""
    result = CliRunner().invoke(program.main, [*map(str, args), "--no-observe"])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def refused(*args):
    """The one line with which train.py refuses."""
    result = CliRunner().invoke(program.main, [*map(str, args), "--no-observe"])
    assert result.exit_code == 1, (result.output, result.exception)
    *before, line = result.output.splitlines()
    assert line.startswith("Error: ") and "Error" not in "".join(before)
    return line


def newest_state(directory):
    state = build_state(read_run(directory).config, 28, 1)
    assert restore_newest(directory / "state", state.checkpoint) is not None
    return state


def digest(directory):
    return newest_state(directory).digest()


def weights(state):
    return [w for name in NETWORKS for w in getattr(state, name).get_weights()]


def losses(directory):
    """Losses by step, as they are logged."""
    lines = map(json.loads, (directory / "log.jsonl").read_text().splitlines())
    return {line["step"]: line["loss/g"] for line in lines if "loss/g" in line}


def test_a_run_is_resumed_with_its_own_settings(run, trained, tmp_path, monkeypatch):
    """From another working directory, by path and by name, where steps are left."""
    shutil.rmtree(run / "state" / "step-00000012")
    monkeypatch.chdir(tmp_path)
    output = call("--resume", run.name, "--runs-dir", run.parent)
    assert "continuing after step 10 of 12" in output and "changed" not in output
    assert digest(run) == digest(trained)
    output = call("--resume", run, "--steps", 14)
    assert "settings changed: train.num_steps: 12 -> 14\n" in output
    assert read_run(run).config.train.num_steps == 14


def test_a_resumed_run_takes_no_other_settings(run):
    line = refused("--resume", run, "--seed", 5, "--set", "train.loss=hinge")
    assert "(train.loss: bce -> hinge; run.seed: 0 -> 5)" in line
    assert f"--run NAME, or go on from the state of this one with --fork {run}" in line
    line = refused("--resume", run, "--config", "smoke")
    assert "model.generator_widths: (8, 8, 4) -> (64, 32, 16)" in line
    line = refused("--resume", run, "--steps", 7)
    assert (
        "received a smaller budget (train.num_steps: 12 -> 7), which can only" in line
    )
    assert "12 -> 6" in refused("--resume", run, "--epochs", 6 * 8 / 256)
    # What was given the first time may be given again.
    assert "finished" in call("--resume", run, "--batch-size", 8, "--steps", 12)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ("--resume", "a", "--fork", "b"),
            "received --resume and --fork, expected one",
        ),
        (("--resume", "RUN", "--run", "x"), "received --resume and --run"),
        (("--resume", "nope"), "nope: no run folder at this path or in checkpoints"),
        (("--resume", ""), "no run folder"),
        (("--fork", "RUN"), "--fork: expected a name for the new run, with --run NAME"),
        (("--init-from", "RUN"), "--init-from: expected a name for the new run"),
        (("--fork", "RUN@7", "--run", "x"), "checkpoint '7' (steps: 12, 10, 5)"),
        (("--fork", "RUN@best", "--run", "x"), "no usable checkpoint 'best'"),
        (("--fork", "RUN", "--run", "../x"), "--run: received '../x'"),
    ],
)
def test_starts_that_do_not_fit_are_one_line(trained, args, message):
    named = [arg.replace("RUN", str(trained)) for arg in args]
    assert message in refused(*named)


def test_a_checkpoint_is_named_after_the_last_at_sign():
    assert split_checkpoint("a/b@c@12") == ("a/b@c", "12")
    assert split_checkpoint("x@best") == ("x", "best")
    assert split_checkpoint("mail@home") == ("mail@home", "latest")


def test_images_are_found_again_at_another_path(run, images, tmp_path):
    old, new, other = (tmp_path / f"{name}.npy" for name in ("old", "new", "other"))
    np.save(old, images.images_uint8)
    output = call("--resume", run, "--dataset", old)
    assert f"data found at another path: fashion_mnist -> {old}\n" in output
    old.rename(new)
    line = refused("--resume", run)
    assert f"{old}: no such folder or file" in line and "--dataset" in line
    output = call("--resume", run, "--dataset", new, "--steps", 13)
    assert f"data found at another path: {old} -> {new}\n" in output
    assert "finished: 13 steps" in call("--resume", run)
    np.save(other, 255 - images.images_uint8)
    line = refused("--resume", run, "--dataset", other)
    assert "the images of the data set have changed" in line


def forked(parent, directory, *args):
    """Forks a run into `directory`; returns the output."""
    name = ("--runs-dir", directory.parent, "--run", directory.name)
    return call("--fork", parent, *name, *args)


def test_a_fork_without_changes_goes_on_like_its_parent(trained, tmp_path):
    output = forked(f"{trained}@5", tmp_path / "same")
    assert "forked from tiny at step 5 (" in output and "finished: 12 steps" in output
    assert digest(tmp_path / "same") == digest(trained)
    expected = {s: loss for s, loss in losses(trained).items() if s > 5}
    assert losses(tmp_path / "same") == expected
    grids = sorted(path.name for path in (tmp_path / "same" / "samples").iterdir())
    assert grids == ["step-00000006.png", "step-00000012.png"]
    # The negative control: with another learning rate it ends elsewhere.
    forked(f"{trained}@5", tmp_path / "other", "--set", "train.d_learning_rate=3e-4")
    assert digest(tmp_path / "other") != digest(trained)
    assert read_run(tmp_path / "other").config.train.d_learning_rate == 3e-4
    assert read_run(trained).parent is None  # and the parent is as it was


def test_the_same_command_and_resume_continue_a_fork(trained, tmp_path):
    change = ("--batch-size", 16, "--set", "train.loss=hinge")
    forked(trained, tmp_path / "a", *change, "--steps", 20)
    parent = read_run(tmp_path / "a").parent
    assert (parent.kind, parent.run, parent.step) == ("fork", "tiny", 12)
    assert len(parent.digest) == 64
    forked(trained, tmp_path / "b", *change, "--steps", 20, "--max-minutes", 1e-9)
    assert available(tmp_path / "b" / "state")[0][0] == 13
    output = call("--resume", tmp_path / "b")
    assert "continuing after step 13 of 20" in output
    output = forked(trained, tmp_path / "b", *change, "--steps", 20)
    assert "finished: 20 steps" in output and "forked from tiny" in output
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert read_run(tmp_path / "b").parent == parent
    # Another parent, another step, or another kind is not the same run.
    name = ("--runs-dir", tmp_path, "--run", "a")
    for args in (
        ("--fork", f"{trained}@10"),
        ("--fork", tmp_path / "b"),
        ("--init-from", trained),
    ):
        line = refused(*args, *name)
        assert "is there already and was forked from tiny at step 12" in line
    line = refused(
        "--fork", tmp_path / "a", "--runs-dir", trained.parent, "--run", "tiny"
    )
    assert "has no parent" in line


REFUSED = "model.kernel_size=4", "model.dropout=0.0", "train.precision=mixed_float16"


def test_a_fork_refuses_settings_that_change_its_variables(trained, tmp_path):
    place = ("--runs-dir", tmp_path, "--run", "new", "--steps", 20)
    loss = ("--set", "train.loss=hinge")
    for change in REFUSED:
        line = refused("--fork", trained, *place, "--set", change, *loss)
        key = change.partition("=")[0]
        assert "does not fit the networks" in line and f"{key}: " in line
        assert "train.loss" not in line and not (tmp_path / "new/config.json").exists()
    # The name stays free.
    assert "finished" in call("--fork", trained, *place, *loss)


def test_a_fork_of_a_finished_run_needs_a_larger_budget(trained, tmp_path):
    place = ("--runs-dir", tmp_path, "--run", "new")
    line = refused("--fork", trained, *place)
    assert "train.num_steps: received 12, expected more than 12" in line


def test_initialised_networks_are_those_of_the_parent_and_the_rest_is_new(
    trained, images, tmp_path, eagerly
):
    place = ("--runs-dir", tmp_path, "--run", "new")
    flags = ("--set", "train.loss=hinge", "--precision", "mixed_float16")
    output = call("--init-from", f"{trained}@10", *place, *flags, "--max-minutes", 1e-9)
    assert "initialised from tiny at step 10 (" in output
    assert "continuing" not in output and "after step 1; continue" in output
    config = read_run(tmp_path / "new").config
    begun = build_state(config, 28, 1)
    fresh = build_state(config, 28, 1)
    read(tmp_path / "new" / "state" / "step-00000000", begun.checkpoint)
    source = build_state(read_run(trained).config, 28, 1)
    read(trained / "state" / "step-00000010", source.checkpoint)
    for got, expected in zip(weights(begun), weights(source), strict=True):
        np.testing.assert_array_equal(got, expected)
    for name in ("g_optimizer", "d_optimizer"):
        pairs = zip(
            getattr(begun, name).variables, getattr(fresh, name).variables, strict=True
        )
        for got, expected in pairs:
            np.testing.assert_array_equal(got.numpy(), expected.numpy())
    assert int(begun.step.numpy()) == 0
    # The same command continues it.
    output = call("--init-from", f"{trained}@10", *place, *flags, "--max-minutes", 1e-9)
    assert "continuing after step 1 of" in output


def test_networks_of_other_shapes_are_refused(trained, tmp_path):
    place = ("--runs-dir", tmp_path, "--run", "new")
    line = refused("--init-from", trained, *place, "--set", "model.latent_dim=9")
    assert "model.latent_dim: 8 -> 9" in line and str(trained) in line
    colour = ("--set", "data.channels=3", "--set", "train.loss=hinge")
    line = refused("--init-from", trained, *place, *colour)
    assert "images of 28 px and 1 channels -> 28 px and 3" in line
    assert not (tmp_path / "new").exists()  # and the name stays free


def test_the_best_state_can_be_forked(run, tmp_path):
    """An old best checkpoint has the averaged generator alone, and is refused."""
    record, state = read_run(run), newest_state(run)
    read(run / "state" / "step-00000010", state.checkpoint)
    facts = record.to_json() | {"score": "fcd", "value": 1.0}
    save(run / "best", 10, state.checkpoint, facts, keep=1)
    forked(f"{run}@best", tmp_path / "new")
    assert read_run(tmp_path / "new").parent.step == 10
    assert digest(tmp_path / "new") == digest(run)
    old = {"score": "fcd", "value": 1.0}
    save(run / "best", 10, state.checkpoint, old, keep=1, replace=True)
    line = refused("--fork", f"{run}@best", "--runs-dir", tmp_path, "--run", "b")
    assert "an earlier version kept only the averaged generator" in line


def test_a_damaged_parent_is_passed_over_or_named(run, tmp_path):
    (run / "state" / "step-00000012" / "ckpt.index").write_bytes(b"")
    start = find_start(tmp_path, "new", fork=str(run))
    assert start.origin.parent.step == 10
    with pytest.raises(RunError, match="'12' .step-00000012: ckpt.index differs"):
        find_start(tmp_path, "new", fork=f"{run}@12")


def test_a_run_with_a_parent_never_starts_from_random_weights(
    run, images, tmp_path, eagerly
):
    """Its first state is lost, as when a disk was full at the wrong moment."""
    start = find_start(tmp_path, "new", init_from=str(run))
    config = start.settings
    with RunFolder(tmp_path / "new") as folder:
        train(config, images, folder, origin=start.origin, max_seconds=1e-9)
        expected = digest(tmp_path / "new")
        for path in (*folder.state.iterdir(), *folder.samples.iterdir()):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        (tmp_path / "new" / "generator.keras").unlink()
        with pytest.raises(RunError, match="has lost its first state; remove"):
            train(config, images, folder)
        # The command that made it finds its parent again, but for damaged checkpoints,
        # after which it would start over.
        (folder.state / "corrupt-00000001-x").mkdir()
        assert find_start(tmp_path, "new", init_from=str(run)).origin is None
        (folder.state / "corrupt-00000001-x").rmdir()
        again = find_start(tmp_path, "new", init_from=str(run))
        train(config, images, folder, origin=again.origin, max_seconds=1e-9)
    assert digest(tmp_path / "new") == expected


WATCHED = {
    "run.log_every_steps": 3,
    "run.evaluate_every_steps": 4,
    "run.checkpoint_every_steps": 7,
    "run.keep_checkpoints": 9,
    "run.checkpoint_steps": [2, 5],
    "run.grid_images": 4,
    "run.histograms": True,
    "train.steps_per_call": 5,
}


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"train.jit": True}, marks=pytest.mark.slow),
        pytest.param({"train.precision": "mixed_float16"}, marks=pytest.mark.slow),
        pytest.param(
            {"train.augment": "colour", "data.flip": True}, marks=pytest.mark.slow
        ),
    ],
)
def test_what_is_watched_changes_no_bit_of_the_state(tiny, images, tmp_path, kind):
    for name, changes in (
        ("a", {}),
        ("b", WATCHED),
        ("c", WATCHED | {"train.ema_decay": 0.5}),  # the negative control
    ):
        with RunFolder(tmp_path / name) as folder:
            train(tiny(kind | changes), images, folder)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a") != digest(tmp_path / "c")


def test_what_is_watched_may_change_when_a_run_goes_on(run, trained, images):
    shutil.rmtree(run / "state" / "step-00000012")
    sets = [f"--set={key}={json.dumps(value)}" for key, value in WATCHED.items()]
    output = call("--resume", run, *sets)
    assert "settings changed: train.steps_per_call: 1 -> 5; run.log_every" in output
    assert digest(run) == digest(trained)
    config = read_run(run).config
    assert config.run.grid_images == 4 and config == load_config(
        flags=WATCHED, base=read_run(trained).config
    )
    assert "changed" not in call("--resume", run)  # it is announced once


def test_a_budget_in_epochs_replaces_that_of_the_base():
    base = load_config(sets=["train.num_steps=50", "train.loss=hinge"])
    found = load_config(sets=["train.epochs=2"], base=base).train
    assert (found.num_steps, found.epochs, found.loss) == (0, 2.0, "hinge")
    assert load_config(sets=["run.seed=3"], base=base).train == base.train
    with pytest.raises(ConfigError, match="unknown key train.los"):
        load_config(sets=["train.los=bce"], base=base)


@pytest.mark.parametrize(("facts", "state"), [(None, "D-wins"), ({}, "ok")])
def test_alarms_of_a_fork_count_from_its_first_step(facts, state):
    """100 steps are no evidence, unless the 5,000 of the parent count, too."""
    alarms = Alarms("bce")
    if facts is not None:
        read_facts(Restored(5000, facts, ()), alarms)
    won = {"loss/d": 0.01, "d/prob_real": 0.99, "d/prob_fake": 0.01}
    alarms.add_losses(5100, won | {"grad_norm/g": 1.0, "grad_norm/d": 1.0})
    assert alarms.status.state == state
