import dataclasses
import io
import json
import shutil
import warnings
import zipfile

import h5py
import keras
import numpy as np
import pytest
from PIL import Image

from gan import sampling
from gan.data.images import tile
from gan.models import build_generator
from gan.run.checkpoint import available, restore_newest
from gan.run.folder import RunError, read_run
from gan.sampling import open_run, renderer, sample
from gan.state import build_state


def tree(directory):
    return {p: p.stat().st_mtime_ns for p in directory.rglob("*")}


def test_a_loaded_run_has_its_settings_and_its_step(trained):
    before = tree(trained)
    run = open_run(str(trained))
    assert (run.step, run.image_size, run.channels) == (12, 28, 1)
    assert run.config == read_run(trained).config
    assert open_run(trained, "5").step == 5
    assert tree(trained) == before  # nothing in the folder has changed


def test_the_image_of_a_seed_does_not_depend_on_other_seeds(trained):
    generator = open_run(trained).generator
    many = sample(generator, range(130))
    assert many.shape == (130, 28, 28, 1) and many.dtype == np.uint8
    assert many.std() > 5 and len({image.tobytes() for image in many}) == 130
    shuffled = np.random.default_rng(0).permutation(130)
    np.testing.assert_array_equal(sample(generator, shuffled), many[shuffled])
    for seed in (0, 63, 64, 129):
        np.testing.assert_array_equal(sample(generator, [seed])[0], many[seed])
    twice = sample(generator, [7, 3, 7])
    np.testing.assert_array_equal(twice, many[[7, 3, 7]])


def test_the_grid_of_training_shows_the_same_images(trained):
    grid = tile(sample(open_run(trained).generator, range(9)))
    with Image.open(trained / "samples" / "step-00000012.png") as stored:
        np.testing.assert_array_equal(np.asarray(stored), grid[..., 0])


def test_no_latents_are_refused(trained):
    render = renderer(open_run(trained).generator)
    with pytest.raises(ValueError, match="no latents"):
        render(np.zeros((0, 8), np.float32))


def test_checkpoint_export_and_state_hold_the_same_averaged_generator(run):
    config = read_run(run).config
    state = build_state(config, 28, 1)
    restore_newest(run / "state", state.checkpoint)
    expected = sample(state.ema_generator, range(70))
    np.testing.assert_array_equal(sample(open_run(run).generator, range(70)), expected)
    shutil.rmtree(run / "state")
    exported = open_run(run)
    np.testing.assert_array_equal(sample(exported.generator, range(70)), expected)
    raw = sample(state.generator, range(70))
    assert not np.array_equal(raw, expected)  # the control: weights without averages
    # Averaged weights with the raw statistics are another network, too.
    for layer in ("base_norm", "stage1_norm", "stage2_norm"):
        average, current = (
            model.get_layer(layer) for model in (state.ema_generator, state.generator)
        )
        average.moving_mean.assign(current.moving_mean)
        average.moving_variance.assign(current.moving_variance)
    assert not np.array_equal(sample(state.ema_generator, range(70)), expected)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_checkpoint_that_training_removes_meanwhile_is_skipped(
    run, monkeypatch, moment
):
    """Training removes it before or after its files were verified."""
    verify = sampling.verify

    def removing(path):
        if path.name == "step-00000012" and moment == "before":
            shutil.rmtree(path)
        manifest = verify(path)
        if path.name == "step-00000012":
            shutil.rmtree(path)
        return manifest

    monkeypatch.setattr(sampling, "verify", removing)
    assert open_run(run).step == 10


def test_a_damaged_checkpoint_is_skipped_and_not_removed(run):
    path = run / "state" / "step-00000012" / "ckpt.index"
    path.write_bytes(path.read_bytes()[:-1])
    assert open_run(run).step == 10
    assert [step for step, _ in available(run / "state")] == [12, 10, 5]
    with pytest.raises(RunError, match="'12'.*ckpt.index differs"):
        open_run(run, "12")


@pytest.mark.parametrize("name", ["7", "newest", "../x", "best", "-1"])
def test_an_unknown_checkpoint_is_refused_with_those_that_exist(trained, name):
    with pytest.raises(RunError, match="no usable checkpoint") as refusal:
        open_run(trained, name)
    assert name == "best" or "kept: 12, 10, 5" in str(refusal.value)


def test_no_checkpoint_at_all(run):
    shutil.rmtree(run / "state")
    (run / "generator.keras").unlink()
    with pytest.raises(RunError, match="no usable checkpoint 'latest' .kept: none"):
        open_run(run)


def test_checkpoints_of_other_widths_are_refused_in_one_line(run):
    facts = json.loads((run / "config.json").read_text())
    facts["config"]["model"]["generator_widths"] = [8, 8, 6]
    (run / "config.json").write_text(json.dumps(facts))
    with pytest.raises(RunError, match="describes another model") as refusal:
        open_run(run)
    assert "\n" not in str(refusal.value)


@pytest.fixture
def exported(run):
    """generator.keras of a run without checkpoints, and its configuration."""
    shutil.rmtree(run / "state")
    return run / "generator.keras", read_run(run).config


def refuse(path):
    with warnings.catch_warnings(), pytest.raises(RunError) as refusal:
        warnings.simplefilter("error")  # Keras must not warn either
        open_run(path.parent)
    assert f"{path} does not hold this generator: " in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"generator_widths": (8, 8, 6)},
        {"upsample": "resize-nearest"},
        {"kernel_size": 4},
        {"latent_dim": 9},
    ],
)
def test_another_generator_is_refused(exported, changes):
    path, config = exported
    build_generator(dataclasses.replace(config.model, **changes)).save(path)
    refuse(path)


def test_a_file_with_more_layers_is_refused(exported):
    """Keras alone would load the layers that fit and ignore the others."""
    path, config = exported
    generator = build_generator(config.model)
    more = keras.layers.Conv2D(1, 3, padding="same")(generator.output)
    keras.Model(generator.input, more).save(path)
    refuse(path)
    build_generator(config.model).load_weights(path)  # the control


def test_a_damaged_export_is_refused(exported):
    path, _ = exported
    content = path.read_bytes()
    offset = content.index(b"model.weights.h5") + 8000  # among the weights
    for damaged in (
        b"",
        content[: len(content) // 2],
        content[:offset] + bytes([content[offset] ^ 4]) + content[offset + 1 :],
    ):
        path.write_bytes(damaged)
        refuse(path)


def with_weights(path, change):
    """Changes the weights in an export as an attacker could."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    stream = io.BytesIO(members["model.weights.h5"])
    with h5py.File(stream, "r+") as file:
        names = []
        file.visititems(
            lambda name, item: names.append(name) if hasattr(item, "shape") else None
        )
        largest = max(names, key=lambda name: file[name].size)
        change(file, largest)
    members["model.weights.h5"] = stream.getvalue()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def link(file, name):
    del file[name]
    file[name] = h5py.ExternalLink("/etc/passwd", "/")


def store_elsewhere(file, name):
    shape, size = file[name].shape, file[name].nbytes
    del file[name]
    file.create_dataset(name, shape, "f4", external=[("/etc/passwd", 0, size)])


def make_huge(file, name):
    del file[name]
    file.create_dataset(name, (2**40,), "f4", chunks=(1024,))


@pytest.mark.parametrize("change", [link, store_elsewhere, make_huge])
def test_weights_with_links_or_huge_shapes_are_refused(exported, change):
    path, _ = exported
    with_weights(path, lambda file, name: None)
    open_run(path.parent)  # the control
    with_weights(path, change)
    refuse(path)


def test_weights_larger_than_the_generator_are_refused_before_decompression(exported):
    path, _ = exported
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(1 << 24))
    assert path.stat().st_size < 100_000
    with pytest.raises(RunError, match=r"16777216 bytes of weights, at most \d+ fit"):
        open_run(path.parent)


def test_the_architecture_in_an_export_is_never_read(exported):
    path, _ = exported
    expected = sample(open_run(path.parent).generator, [0])
    harmful = {"module": "os", "class_name": "function", "config": "system"}
    with zipfile.ZipFile(path) as archive:
        weights = archive.read("model.weights.h5")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(harmful))
        archive.writestr("../../escape.txt", "no")
        archive.writestr("model.weights.h5", weights)
    np.testing.assert_array_equal(
        sample(open_run(path.parent).generator, [0]), expected
    )


def test_changed_settings_that_change_no_shape_are_refused(run):
    facts = json.loads((run / "config.json").read_text())
    facts["config"]["model"]["leaky_slope"] = 0.7
    (run / "config.json").write_text(json.dumps(facts))
    with pytest.raises(RunError, match="config.json describes another model"):
        open_run(run)
