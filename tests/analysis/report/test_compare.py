"""Predictions agree with theory and measurement; `compare` prints everything."""

import json

import keras
import numpy as np
import pytest
from analysis.checkerboard.layout import Protocol
from analysis.checkerboard.spectrum import measure
from click.testing import CliRunner

from analysis.__main__ import main
from analysis.checkerboard.controls import agrees
from analysis.checkerboard.meter import contrast
from analysis.checkerboard.predictions import predict_lines, windowed_means
from analysis.geometry.audit import audit_model, upsamplers
from analysis.report.comparison import unique_labels
from config.schema import ModelConfig
from gan.data.dataset import BUNDLED_FILE
from gan.models import build_generator

SMALL = (8, 6, 4)


def predict(**changes):
    config = ModelConfig(generator_widths=SMALL, initializer_stddev=0.1, **changes)
    generator = build_generator(config)
    return predict_lines(generator, upsamplers(audit_model(generator)))


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


def test_geometry_of_equal_taps():
    # One line at (1/2, 0) is 1/5 of the mean, so is (0, 1/2); (1/2, 1/2) is 1/25.
    found = predict(kernel_size=5)
    assert found.share_of_mean[1] == pytest.approx(np.sqrt(2 / 5**2 + 1 / 5**4))
    assert found.share_of_mean[2] < found.share_of_mean[1] / 3
    assert max(predict(kernel_size=4).share_of_mean.values()) < 1e-12


@pytest.mark.parametrize(
    "method",
    ["resize-nearest", "resize-bilinear", "resize-bicubic"]
    + ["transpose-blur", "transpose-balanced", "subpixel-icnr"],
)
def test_methods_without_lines_have_none_by_any_evidence(method: str):
    found = predict(upsample=method).amplitudes
    assert set(found) == {"geometry", "weights", "probe"}
    if method == "transpose-balanced":  # equal taps are not what it has
        assert found.pop("geometry")[1] > 0.1
    assert all(a < 1e-4 for by_layer in found.values() for a in by_layer.values())


def test_weights_say_what_the_probe_says_of_a_linear_subpixel_generator():
    inputs = keras.Input((400,))
    x = keras.layers.Reshape((20, 20, 1))(keras.layers.Rescaling(0.0, 0.1)(inputs))
    initial = keras.initializers.RandomNormal(seed=1)
    x = keras.layers.Conv2D(8, 3, padding="same", kernel_initializer=initial)(x)
    x = keras.ops.depth_to_space(x, 2)
    x = keras.layers.Conv2D(1, 1, use_bias=False, kernel_initializer=initial)(x)
    generator = keras.Model(inputs, x)
    name = upsamplers(audit_model(generator))[0][0]
    found = predict_lines(generator, [(name, (2, 2))]).amplitudes
    assert found["probe"][1] > 0.01
    # Not equal: the border of the recorded map is not constant.
    assert found["weights"][1] == pytest.approx(found["probe"][1], rel=0.05)


def linear_generator(kernel: np.ndarray, bias: float, noise: float) -> keras.Model:
    """A constant plus noise, then one transposed convolution; no border in 28 px."""
    side = 20
    latents = keras.Input((side * side,))
    x = keras.layers.Rescaling(noise, bias)(latents)
    x = keras.layers.Reshape((side, side, 1))(x)
    layer = keras.layers.Conv2DTranspose(1, 5, 2, "same", use_bias=False)
    x = keras.layers.Cropping2D(6)(layer(x))
    layer.set_weights([kernel])
    return keras.Model(latents, x)


def test_prediction_probe_and_measurement_agree_for_a_linear_generator():
    random = np.random.default_rng(3)
    kernel = random.normal(0, 0.01, (5, 5, 1, 1)).astype(np.float32)
    latents = random.standard_normal((2, 2000, 400)).astype(np.float32)
    with_mean, without = (
        measure(
            np.asarray(linear_generator(kernel, bias, 0.3)(x)),
            level=127.5,
            protocol=Protocol(strides=(2,)),
        )
        for bias, x in zip((1.0, 0.0), latents, strict=True)
    )
    measured = contrast(with_mean, without).family_amplitude[1]
    layer = keras.layers.Conv2DTranspose(1, 5, 2, "same", use_bias=False, name="up")
    inputs = keras.Input((400,))
    scaled = keras.layers.Rescaling(0.3, 1.0)(inputs)
    whole = keras.Model(inputs, layer(keras.layers.Reshape((20, 20, 1))(scaled)))
    layer.set_weights([kernel])
    found = predict_lines(whole, [("up", (2, 2))]).amplitudes
    assert found["weights"][1] == pytest.approx(found["probe"][1], rel=0.01)
    assert agrees(measured, found["weights"][1])
    assert agrees(measured, found["probe"][1])
    assert not agrees(measured, 1.2 * found["weights"][1])


def test_weights_are_near_the_probe_with_all_layers_in_between():
    found = predict(kernel_size=5).amplitudes
    assert found["weights"][1] == pytest.approx(found["probe"][1], rel=0.5)


def test_windowed_means_weigh_the_middle():
    maps = np.zeros((1, 7, 7, 1))
    maps[0, 3, 3] = 1
    assert windowed_means(np.ones((1, 7, 7, 2)), (28, 28)) == pytest.approx(1)
    assert windowed_means(maps, (28, 28))[0, 0] > 2 / 49


def test_what_is_no_stage_still_has_a_probe():
    inputs = keras.Input((4,))
    x = keras.layers.Reshape((4, 4, 1))(keras.layers.Dense(16)(inputs))
    x = keras.layers.Conv2DTranspose(2, 4, 2, "same", name="up")(x)
    x = keras.layers.MaxPooling2D(3, 1, "same")(x)
    found = predict_lines(keras.Model(inputs, x), [("up", (2, 2))])
    assert set(found.amplitudes) == {"probe"} and not found.share_of_mean


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
