"""The command `python -m analysis quality`."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import ndimage

from analysis.commands import quality
from analysis.commands.quality import Scores, command, load_all
from analysis.quality import reference
from analysis.quality.extractor import ASSETS
from analysis.quality.reference import add_noise, subset
from analysis.samples import Samples
from config.schema import DataConfig


@pytest.fixture
def samples(fashion_mnist, tmp_path, monkeypatch):
    """Some test images as samples.npz in the working directory."""
    monkeypatch.chdir(tmp_path)
    images = fashion_mnist.test.images_uint8[-500:]
    np.savez("samples.npz", images=images)
    return images


def run(*arguments):
    return CliRunner().invoke(command, arguments)


def test_numbers_have_full_names(fashion_mnist, samples, tmp_path):
    np.savez(
        "real.npz",
        train_images=fashion_mnist.train.images_uint8[:1000],
        test_images=fashion_mnist.test.images_uint8[:500],
    )
    result = run(
        *("samples.npz", "--json", "--reference", "real.npz"),
        *("--extractor", str(ASSETS / "fmnist-v1.npz")),
        *("--figure", "figure.png", "--pairs", "pairs.png"),
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    noise = ["noise 5", "noise 13", "noise 26"]
    assert list(found["scores"]) == ["samples", "floor", *noise]
    name = f"fcd_n500/{found['extractor']}"
    fcd = [found["scores"][row][name] for row in ("floor", "noise 13", "noise 26")]
    assert fcd == sorted(fcd)
    scores = found["scores"]["samples"]
    assert scores["swd_n500/28px"] < found["scores"]["noise 5"]["swd_n500/28px"]
    assert scores[name] < fcd[1]
    assert 0.9 < scores[f"copy_pixels_n500/{found['extractor']}"] < 1.1
    assert (tmp_path / "figure.png").exists() and (tmp_path / "pairs.png").exists()


def test_rows_are_named_by_what_differs_between_sources(
    fashion_mnist, samples, monkeypatch
):
    """The real images are Fashion-MNIST, where neither sources nor options name any."""
    few = np.arange(len(fashion_mnist.train.images_uint8)) % 60 == 0
    train = subset(fashion_mnist.train, few, "train")
    default = {DataConfig(): (train, fashion_mnist.test)}
    monkeypatch.setattr(reference, "load_splits", default.__getitem__)
    np.savez("set-one.npz", images=samples)
    np.savez("set-two.npz", images=add_noise(samples, 40))
    result = run("set-one.npz", "set-two.npz", "--json", "--n", "500")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert list(found["scores"])[:3] == ["set-one", "set-two", "floor"]
    name = f"fcd_n500/{found['extractor']}"
    assert found["scores"]["set-two"][name] > 5 * found["scores"]["set-one"][name]


def test_the_figure_has_a_labelled_line_for_each_source(monkeypatch):
    """Two runs with two and one checkpoints, and images of another program."""

    def samples(path, step):
        name, facts = path.rpartition("/")[2], {} if step < 0 else {"step": step}
        return Samples(np.zeros((1, 4, 4, 1), np.uint8), name, "run", "", facts)

    steps = {"runs/a": [100, 300], "runs/b": [200], "runs/other.npz": [-1]}
    monkeypatch.setattr(
        quality,
        "load_one",
        lambda path, *_: {f"step {s}": samples(path, s) for s in steps[path]},
    )
    loaded = load_all(list(steps), "all", samples)
    assert list(loaded) == ["a", "b", "other.npz"]
    values = iter([4.0, 2.0, 3.0, 5.0])
    rows = {row: {"fcd": next(values)} for group in loaded.values() for row in group}
    real = SimpleNamespace(name=lambda key: key)
    figure = Scores(real, loaded, rows, {"floor": {"fcd": 1.0}}).draw_training()
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert [text.get_text() for text in figure.legends[0].texts] == list(loaded)
    assert lines["a"].get_xydata().tolist() == [[100, 4], [300, 2]]
    assert lines["b"].get_xydata().tolist() == [[200, 3]]
    assert lines["other.npz"].get_xydata().tolist() == [[0, 5], [1, 5]]


def test_few_real_images_in_colour_get_what_their_number_allows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    images = ndimage.uniform_filter(random.integers(0, 256, (620, 32, 32, 3)), 3)
    np.savez("real.npz", images=images[:120].astype(np.uint8))
    np.savez("samples.npz", images=images[120:].astype(np.uint8))
    options = "samples.npz", "--reference", "real.npz"
    result = run(*options, "--json", "--figure", "figure.png")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert "20 real images to compare with; FCD and other" in found["notes"][-1]
    for level in ("32px", "16px", "mean"):
        name = f"swd_n20/{level}"
        floor, noisy = (found["scores"][row][name] for row in ("floor", "noise 26"))
        assert 0 < floor < noisy
        assert found["scores"]["samples"][f"{name}_se"] > 0
    assert not [name for name in found["scores"]["samples"] if "fcd" in name]
    assert (tmp_path / "figure.png").exists()
    printed = run(*options).stdout
    assert "SWD x1000: 20 images against as many of real" in printed
    assert f"{found['scores']['floor']['swd_n20/16px']:.1f} ±" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "all"], "--checkpoint all expects a run"),
        (["--reference", "nowhere"], "nowhere"),
        (["--extractor", "samples.npz"], "not weights written by"),
    ],
)
def test_mistakes_are_answered_in_one_line(samples, arguments, message):
    result = run("samples.npz", *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.reported
def test_samples_of_another_shape_name_the_option(samples):
    np.savez("colour.npz", images=np.repeat(samples, 3, axis=3))
    result = run("colour.npz")
    assert "28x28 px, RGB; the real images of fashion_mnist have" in result.stderr
    assert "--reference" in result.stderr
