import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

from analysis.commands.quality import command
from analysis.quality import controls, extractor, metrics
from analysis.quality.reference import Yardstick, part
from config.schema import DataConfig
from gan.data.dataset import load_dataset

NUM_IMAGES = 1000


@pytest.fixture(scope="module")
def real():
    """A sixth of the training images: those held against all of them take long."""
    whole = Yardstick.of(DataConfig(), NUM_IMAGES)
    sixth = np.arange(len(whole.train.images_uint8)) % 6 == 0
    return dataclasses.replace(whole, train=part(whole.train, sixth, "train"))


@pytest.fixture(scope="module")
def floor(real):
    return real.score(real.draw())


@pytest.mark.parametrize("run", controls.CONTROLS, ids=lambda run: run.__name__)
def test_control_passes_on_a_subset(run, real, floor):
    for control in run(real, floor):
        assert control.passed, control


@pytest.mark.slow
def test_all_controls_pass_at_full_size():
    for control in controls.run_controls():
        print(control)
    assert all(control.passed for control in controls)


def test_a_blind_coverage_fails_the_controls(real, floor, monkeypatch):
    monkeypatch.setattr(metrics, "density_coverage", lambda *sets: (1.0, 0.97))
    assert not next(controls.repeats(real, floor)).passed


def test_a_biased_kernel_distance_fails_the_controls(real, floor, monkeypatch):
    unbiased = metrics.kernel_distance

    def biased(*sets, **settings):
        value, error = unbiased(*sets, **settings)
        return value + 0.2, error

    monkeypatch.setattr(metrics, "kernel_distance", biased)
    assert not next(controls.same_images(real, floor)).passed
    assert not next(controls.sizes(real, floor)).passed


def test_degradations_do_what_their_names_say():
    grey = np.full((4, 28, 28, 1), 100, np.uint8)
    blurred = controls.box_blur(grey, 3)
    np.testing.assert_array_equal(blurred, grey)
    hit = controls.salt_and_pepper(np.repeat(grey, 50, axis=0), 0.04)
    assert np.mean(hit != 100) == pytest.approx(0.04, abs=0.003)
    assert set(np.unique(hit)) == {0, 100, 255}
    assert (controls.black_square(grey, 4) == 0).sum() == 4 * 16
    checked = controls.checkerboard(grey, 3)
    assert checked[0, :2, :2, 0].tolist() == [[103, 97], [97, 103]]
    # All of an amplitude a at H*W pixels: (a H W)^2.
    assert controls.corner_power(checked) == (3 * 28 * 28) ** 2


def test_command_prints_numbers_under_full_names(tmp_path):
    train, test = (load_dataset(DataConfig(), split) for split in ("train", "test"))
    real = {"train_images": train.images_uint8[:2000]}
    real["test_images"] = test.images_uint8[:600]
    np.savez(tmp_path / "real.npz", **real)
    np.savez(tmp_path / "samples.npz", images=test.images_uint8[-600:])
    arguments = [str(tmp_path / "samples.npz"), "--json"]
    arguments += ["--reference", str(tmp_path / "real.npz")]
    arguments += ["--extractor", str(extractor.ASSETS / "fmnist-v1.npz")]
    arguments += [
        "--figure",
        str(tmp_path / "f.png"),
        "--pairs",
        str(tmp_path / "p.png"),
    ]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert list(found["scores"]) == [
        "samples",
        "floor",
        "noise 5",
        "noise 13",
        "noise 26",
    ]
    name = f"fcd_n600/{found['extractor']}"
    ladder = [found["scores"][row][name] for row in ("floor", "noise 13", "noise 26")]
    assert ladder == sorted(ladder)
    samples = found["scores"]["samples"]
    assert samples[name] < ladder[1]
    assert 0.9 < samples[f"copy_pixels_n600/{found['extractor']}"] < 1.1
    assert (tmp_path / "f.png").exists() and (tmp_path / "p.png").exists()


def test_command_takes_several_sources_and_names_what_tells_them_apart(tmp_path):
    images = load_dataset(DataConfig(limit=600), "test").images_uint8
    sources = []
    for name, added in (("set-one", 0), ("set-two", 40)):
        sources.append(str(tmp_path / f"{name}.npz"))
        np.savez(sources[-1], images=metrics.add_noise(images, added))
    result = CliRunner().invoke(command, [*sources, "--json", "--n", "600"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert list(found["scores"])[:3] == ["one.npz", "two.npz", "floor"]
    name = f"fcd_n600/{found['extractor']}"
    assert found["scores"]["two.npz"][name] > 5 * found["scores"]["one.npz"][name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "all"], "--checkpoint all expects a run"),
        (["--reference", "nowhere"], "nowhere"),
        (["--extractor", "samples.npz"], "not weights written by"),
    ],
)
def test_command_refuses_in_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    images = load_dataset(DataConfig(limit=600), "test").images_uint8
    np.savez("samples.npz", images=images)
    result = CliRunner().invoke(command, ["samples.npz", *arguments])
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
