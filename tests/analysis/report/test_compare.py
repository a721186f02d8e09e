"""`compare` prints everything that was predicted and measured."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from analysis.__main__ import main
from analysis.report.comparison import unique_labels
from gan.data.dataset import BUNDLED_FILE


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    with np.load(BUNDLED_FILE, allow_pickle=False) as arrays:
        return arrays["test_images"][:3000]


@pytest.fixture(scope="module")
def files(real, tmp_path_factory):
    """A file of real images, and one of 600 with a checkerboard of 6 grey levels."""
    folder = tmp_path_factory.mktemp("images")
    scaled = np.rint(real * 0.9 + 12.75)
    sign = 1 - 2 * (np.indices((28, 28)).sum(axis=0) % 2)
    np.savez(folder / "real.npz", images=scaled.astype(np.uint8))
    np.savez(folder / "tone.npz", images=(scaled[:600] + 6 * sign).astype(np.uint8))
    return folder


def run(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_compare_prints_runs_files_and_results(trained, files, tmp_path):
    saved, figure = tmp_path / "saved.npz", tmp_path / "all.png"
    reference = ("--reference", files / "real.npz")
    assert run("spectra", files / "tone.npz", *reference, "--out", saved).exit_code == 0
    sources = trained, files / "tone.npz", saved
    options = (*reference, "--n", 500, "--figure", figure, "--figures", tmp_path / "f")
    result = run("compare", *sources, *options)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines()]
    last = [row for row in rows if "last" in row[:3]]
    assert [row[0] for row in last] == ["transpose", "tone", "tone"]
    assert float(last[0][-2]) == pytest.approx(params(trained) / 1e6, abs=0.005)
    assert last[1][-5:] == ["-"] * 5
    assert figure.stat().st_size > 10_000
    names = {path.name for path in (tmp_path / "f").iterdir()}
    assert {
        "frequencies.png",
        "frequencies.svg",
        "predictions.svg",
        "spectra-3.png",
    } <= names


def params(directory) -> int:
    from gan.sampling import open_run

    return open_run(directory).generator.count_params()


def test_json_has_everything_predicted_and_measured(trained, files):
    reference = ("--reference", files / "real.npz")
    result = run(
        "compare", trained, files / "tone.npz", *reference, "--n", 600, "--json"
    )
    made, tone = json.loads(result.stdout)
    assert set(made["predicted"]) == {"geometry", "weights", "probe"}
    assert set(made["predicted"]["probe"]) == {"a_last", "a_prev"}
    assert made["settings"]["train.num_steps"] == 12
    last = tone["measured"]["a_last"]
    assert last["low"] < 6 < last["high"]
    assert tone["predicted"] == tone["cost"] == {}
    null = made["measured"]["null_delta_pnr_db"]["14,14"]
    assert null["low"] < null["value"] < null["high"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'SOURCES...'"),
        (["tone.npz", "other.npz"], "Path 'other.npz' does not exist"),
        (["tone.npz", "colour.npz"], "colour: received images of 28x28 px, RGB"),
        (["tone.npz", "saved.npz"], "not comparable: tone was measured against"),
    ],
)
def test_mistakes_get_one_line(files, monkeypatch, arguments, message: str):
    monkeypatch.chdir(files)
    if "colour.npz" in arguments:
        np.savez("colour.npz", images=np.zeros((600, 28, 28, 3), np.uint8) + EDGE)
    if "saved.npz" in arguments:
        run("spectra", "tone.npz", "--reference", "real.npz", "--out", "saved.npz")
    result = run("compare", *arguments)
    assert result.exit_code != 0
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


EDGE = (np.indices((28, 28, 3))[1] > 9).astype(np.uint8)


def test_labels_are_short_and_unique():
    def fact(name: str, **more):
        return {"name": name, **more}

    runs = [fact("a", upsample="transpose", training_seed=seed) for seed in (0, 1)]
    assert unique_labels([runs[0], fact("b")]) == ["transpose", "b"]
    assert unique_labels(runs) == ["transpose seed 0", "transpose seed 1"]
    same = unique_labels([runs[0], runs[0], fact("b")])
    assert same == ["transpose (1)", "transpose (2)", "b"]
