"""`compare` prints readings, words and predictions of runs, files and saved results."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from analysis.__main__ import main
from analysis.checkerboard.controls import Planted, plant
from analysis.report.comparison import load_sources
from gan.data.dataset import BUNDLED_FILE

OLD_WORDS = "A_last", "A_prev", "PNR", "amplitude A"


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    with np.load(BUNDLED_FILE, allow_pickle=False) as arrays:
        return arrays["test_images"][:3000, ..., np.newaxis]


@pytest.fixture(scope="module")
def files(real, tmp_path_factory):
    """A file of real images, and one of 600 with a checkerboard of 6 grey levels."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    checkerboard = Planted(lambda x, c, r: x + 6 * c, "fixed_pattern_levels")
    np.savez(folder / "real.npz", images=real[:2400])
    tone = plant(checkerboard, real[2400:], random)
    np.savez(folder / "tone.npz", images=tone)
    np.savez(folder / "others.npz", images=real[600:])
    for name, reference, strides in (
        ("saved", "real", "2,2"),
        ("last", "real", "2"),
        ("elsewhere", "others", "2,2"),
    ):
        options = "--reference", folder / f"{reference}.npz", "--strides", strides
        out = folder / f"{name}.npz"
        result = run("spectra", folder / "tone.npz", *options, "--out", out)
        assert result.exit_code == 0, result.output
    return folder


def run(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_compare_draws_its_figures(trained, files, tmp_path):
    figures = "--figure", tmp_path / "all.png", "--figures", tmp_path / "f"
    options = "--reference", files / "real.npz", "--n", 500
    result = run("compare", trained, files / "saved.npz", *options, *figures)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "all.png").stat().st_size > 10_000
    names = {path.name for path in (tmp_path / "f").iterdir()}
    expected = {"gains.png", "fixed.svg", "tiles.svg", "predictions.svg"}
    assert expected | {"spectra-2.png"} <= names


def test_compare_prints_runs_files_and_results(trained, files):
    sources = trained, files / "tone.npz", files / "saved.npz"
    options = "--reference", files / "real.npz", "--n", 500
    result = run("compare", *sources, *options)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines()]
    firsts = [row for row in rows if "samples" in row][::2]
    assert [row[0] for row in firsts] == ["tiny", "tone", "tone"]
    # A run and a saved result know their upsamplings, and a file only its periods.
    assert firsts[0][1] == "1" and firsts[1][2:4] == ["2", "px"]
    assert firsts[2][2] == "1"
    assert float(firsts[0][-2]) == pytest.approx(params(trained) / 1e6, abs=0.005)
    assert firsts[1][-3:] == ["visible", "-", "-"]
    assert not any(word in result.output for word in OLD_WORDS)
    assert max(len(line.rstrip()) for line in result.output.splitlines()) <= 100
    for name in ("geometry", "weights", "probe"):
        assert f" {name} " in result.output


def params(directory) -> int:
    from gan.sampling import open_run

    return open_run(directory).generator.count_params()


def test_json_has_everything_predicted_and_measured(trained, files):
    reference = ("--reference", files / "real.npz")
    result = run(
        "compare", trained, files / "tone.npz", *reference, "--n", 600, "--json"
    )
    made, tone = json.loads(result.stdout)
    assert set(made) == {"label", "measured", "predicted", "cost", "settings"}
    assert set(made["predicted"]) == {"geometry", "weights", "probe"}
    for predictions in made["predicted"].values():
        assert len(predictions) == len(made["measured"]["alphas"])
        for name in ("imaging_gain_percent", "fixed_pattern_levels"):
            assert {"value", "low", "high"} == set(predictions[0][name])
    assert made["settings"]["train.num_steps"] == 12
    places = {(a["row"], a["column"]): a for a in tone["measured"]["alphas"]}
    fixed = places[0.5, 0.5]["fixed_pattern_levels"]
    assert fixed["low"] < 6 < fixed["high"] and fixed["found"]
    assert tone["predicted"] == tone["cost"] == {}
    for alpha in made["measured"]["alphas"]:
        null = alpha["imaging_gain_percent"]["real"]
        assert null["low"] <= null["value"] <= null["high"]


def test_a_file_beside_a_run_is_measured_with_its_strides(trained, files):
    paths = [str(files / "tone.npz"), str(trained)]
    file, made = load_sources(paths, 500, reference=str(files / "real.npz"))
    assert file.measurement.facts["strides"] == made.measurement.facts["strides"]
    assert made.strides_are_known and not file.strides_are_known
    assert "last upsampling" not in " ".join(file.measurement.sentences)


def test_one_reading_stands_for_each_stage(files):
    (tone,) = load_sources([str(files / "saved.npz")])
    first, second = (tone.readings[index] for index in tone.one_per_stage())
    assert first.frequency.name == "(1/2, 1/2)" and first.found
    assert second.frequency.stage == 2 and not second.frequency.on_axis
    assert tone.stage_text(first.frequency) == "the last upsampling"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'SOURCES...'"),
        (["tone.npz", "other.npz"], "Path 'other.npz' does not exist"),
        (["tone.npz", "colour.npz"], "colour: received images of 28x28 px, RGB"),
        (["saved.npz", "elsewhere.npz"], "not comparable: tone was measured against"),
        (["saved.npz", "last.npz"], "with the strides 2,2, tone against real"),
    ],
)
def test_mistakes_get_one_line(files, monkeypatch, arguments, message: str):
    monkeypatch.chdir(files)
    if "colour.npz" in arguments:
        np.savez("colour.npz", images=np.zeros((600, 28, 28, 3), np.uint8) + EDGE)
    result = run("compare", *arguments)
    assert result.exit_code != 0
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


EDGE = (np.indices((28, 28, 3))[1] > 9).astype(np.uint8)
