"""From samples to a saved result, and the commands around it."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from analysis.__main__ import main
from analysis.checkerboard import controls
from analysis.checkerboard.controls import Control
from analysis.checkerboard.layout import Protocol
from analysis.checkerboard.measurement import load_measurement, measure_samples
from analysis.samples import SampleError, load_samples
from gan.data.dataset import BUNDLED_FILE


@pytest.fixture(scope="module")
def injected(tmp_path_factory):
    """2000 real images with a checkerboard of 3 grey levels."""
    with np.load(BUNDLED_FILE, allow_pickle=False) as arrays:
        images = arrays["test_images"][:2000] * 0.9 + 12.75
    sign = 1 - 2 * (np.indices((28, 28)).sum(axis=0) % 2)
    path = tmp_path_factory.mktemp("samples") / "injected.npz"
    np.savez(path, images=np.rint(images + 3 * sign).astype(np.uint8))
    return path


@pytest.fixture(scope="module")
def reference(injected):
    """4000 real images at the same contrast."""
    with np.load(BUNDLED_FILE, allow_pickle=False) as arrays:
        images = arrays["train_images"][:4000] * 0.9 + 12.75
    path = injected.with_name("reference.npz")
    np.savez(path, images=np.rint(images).astype(np.uint8))
    return path


def run(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_json_says_what_was_injected(injected, reference):
    result = run("spectra", injected, "--reference", reference, "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    last, prev = summary["a_last"], summary["a_prev"]
    assert last["low"] < 3 < last["high"]
    assert prev["low"] < 0 < prev["high"]
    assert last["detection_limit"] < 3
    delta = summary["delta_pnr_db"]["14,14"]
    assert 13 < delta["low"] < delta["value"] < delta["high"] < 18
    assert summary["coherence"]["14,14"] > 0.9
    assert set(summary["phase_variance_db"]) == {"2", "4"}
    distance = summary["log_spectral_distance_db"]
    assert distance["value"] > distance["null"] > 0
    assert summary["num_images"] == {"samples": 2000, "real": 2000, "null": 2000}


def test_a_result_survives_the_file(injected, reference, tmp_path):
    out, figure = tmp_path / "result.npz", tmp_path / "spectra.png"
    arguments = ("--reference", reference, "--window", "kaiser", "--out", out)
    result = run("spectra", injected, *arguments, "--figure", figure)
    assert result.exit_code == 0, result.output
    assert "A last, grey levels" in result.output
    loaded = load_measurement(out)
    again = measure_samples(
        load_samples(injected), load_samples(reference), Protocol("kaiser")
    )
    assert loaded.summary == json.loads(json.dumps(again.summary))
    assert loaded.layout.shape == (28, 28)
    for name, array in again.arrays.items():
        assert np.array_equal(loaded.arrays[name], array)
    assert len(loaded.summary["samples"]["digest"]) == 64
    with Image.open(figure) as picture:
        assert picture.width > picture.height
    for other in (injected, figure, tmp_path / "absent.npz"):
        with pytest.raises(SampleError, match="not a result of `spectra`"):
            load_measurement(other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strides", "2,x"], "--strides: received '2,x'"),
        (["--strides", "2,2,2"], "32 px or more for strides (2, 2, 2)"),
        (["--n", 100], "received 100 images, expected at least 500"),
        (["--reference", "./nowhere"], "no such folder or file"),
    ],
)
def test_mistakes_get_one_line(injected, arguments, message: str):
    result = run("spectra", injected, *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_half_of_the_reference_must_be_enough(injected, tmp_path):
    with np.load(BUNDLED_FILE, allow_pickle=False) as arrays:
        np.savez(tmp_path / "few.npz", images=arrays["test_images"][:900])
    result = run("spectra", injected, "--reference", tmp_path / "few.npz")
    assert result.exit_code == 1
    assert "received 900 real images, expected at least 1000" in result.stderr


def test_validate_fails_when_a_control_fails(monkeypatch: pytest.MonkeyPatch):
    outcomes = [Control("good", True, "1", "1"), Control("bad", False, "2", "1")]
    monkeypatch.setattr(controls, "run_controls", lambda images, seed: outcomes)
    result = run("validate", "--json")
    assert result.exit_code == 1
    assert [row["passed"] for row in json.loads(result.stdout)] == [True, False]
    assert "FAILED" in run("validate").output
    outcomes.pop()
    assert run("validate").exit_code == 0
