"""The functions for notebooks give what the commands give, to the bit."""

import html
import inspect
import json

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import dcgan
from analysis.__main__ import main as analysis
from config.loader import to_dict
from gan.__main__ import main as gan
from gan.run.checkpoint import restore_newest
from gan.run.manifest import available
from gan.sampling import open_run
from gan.state import build_state


def printed(command, *arguments):
    """What a command prints."""
    result = CliRunner().invoke(command, [str(it) for it in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def numbers(*arguments):
    return json.loads(printed(analysis, *arguments, "--json"))


def equal_to_command(result, *arguments):
    """Numbers and text are those of the command."""
    assert result.numbers == numbers(*arguments)
    assert result.text == repr(result) == printed(analysis, *arguments)
    assert html.unescape(result._repr_html_()) == f"<pre>{result.text}</pre>"


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Real images as a file with a training and a test split, and their arrays."""
    from config.schema import DataConfig
    from gan.data.dataset import load_dataset

    images = load_dataset(DataConfig(limit=2400)).images_uint8
    path = tmp_path_factory.mktemp("real") / "real.npz"
    np.savez(path, train_images=images[:1700], test_images=images[1700:])
    return path, images[:1700]


@pytest.fixture(scope="module")
def made(tmp_path_factory, real):
    """Images of another program: floats in [0, 1] with a checkerboard, and their file.

    The file holds the levels that the floats stand for.
    """
    checker = 1 - 2 * (np.indices((28, 28, 1)).sum(axis=0) % 2)
    levels = np.clip(real[1][:600] + 12.0 * checker, 0, 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("made") / "made.npz"
    np.savez(path, images=levels)
    return path, levels


def test_samples_are_those_of_the_command(trained, tmp_path):
    run = dcgan.open_run(trained)
    images = dcgan.sample(run, [3, 5, 6])
    printed(gan, "sample", trained, "--seeds", "3,5,6", "--out", tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz") as stored:
        np.testing.assert_array_equal(images, stored["images"])
    np.testing.assert_array_equal(dcgan.sample(str(trained), 7)[5], images[1])
    assert not np.array_equal(dcgan.sample(run, [3], "5")[0], images[0])
    picture = np.asarray(dcgan.grid(images, scale=2))
    assert picture.shape == (2 * 57, 2 * 57)
    np.testing.assert_array_equal(
        picture[: 2 * 28 : 2, 1 : 2 * 28 : 2], images[0, ..., 0]
    )
    assert dcgan.grid(images).size == (6 * 57, 6 * 57)


def test_a_run_that_was_stopped_continues_to_the_same_bits(tiny, trained, tmp_path):
    """In two calls, against the shared run, which was one call."""
    config = tiny({"model.initializer_stddev": 0.2})
    settings = {f"{s}.{k}": v for s, t in to_dict(config).items() for k, v in t.items()}
    options = {"name": "run", "runs_dir": tmp_path, "observe": False}
    run = dcgan.train(settings=settings, max_minutes=1e-9, **options)
    assert dcgan.open_run(run.directory) == run == dcgan.Run(tmp_path / "run")
    assert available(run.directory / "state")[0][0] == 1
    assert not np.array_equal(dcgan.sample(run), dcgan.sample(trained))
    assert dcgan.resume(run, observe=False) == run
    assert run.config == dcgan.Run(trained).config
    first, second = (build_state(config, 28, 1) for _ in range(2))
    restore_newest(run.directory / "state", first.checkpoint)
    restore_newest(trained / "state", second.checkpoint)
    assert first.digest() == second.digest()
    np.testing.assert_array_equal(dcgan.sample(run), dcgan.sample(trained))
    steps, values = run.scalars("loss/g")
    assert steps == list(range(1, 13)) and all(value > 0 for value in values)
    dcgan.resume(str(run.directory), num_steps=13, observe=False)
    assert run.config.train.num_steps == available(run.directory / "state")[0][0] == 13


def test_a_preset_and_settings_give_the_name_of_the_command(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(dcgan, "train_in", lambda *arguments: seen.append(arguments))
    settings = {"model.upsample": "resize", "train.num_steps": 3}
    dcgan.train("smoke", settings, runs_dir=tmp_path, max_minutes=2)
    ((directory, config, minutes, observe),) = seen
    assert directory == tmp_path / "fashion_mnist-resize-nearest-seed0-smoke"
    assert config == dcgan.load_config("smoke", settings)
    assert (config.train.num_steps, minutes, observe) == (3, 2, True)


def test_layers_of_a_run_and_of_a_model_in_memory(trained, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as the kernel of a notebook has it
    equal_to_command(dcgan.layers(dcgan.Run(trained)), "layers", trained)
    equal_to_command(dcgan.layers("resize", what="discriminator"),
                     "layers", "resize", "--what", "discriminator")  # fmt: skip
    model = open_run(trained).generator
    found = dcgan.layers(model, image_shape=(28, 28, 1), lines=True)
    assert found.numbers == numbers("layers", trained, "--lines")
    assert found.picture().size[0] > 300
    other = keras.Sequential(
        [keras.Input((7, 7, 3)), keras.layers.Conv2DTranspose(3, 5, 2, "same")]
    )
    codes = [
        finding["code"]
        for layer in dcgan.layers(other, image_shape=(28, 28, 3)).numbers["layers"]
        for finding in layer["findings"]
    ]
    assert {"W7", "W8"} <= set(codes)


def test_layers_of_a_pytorch_module_in_memory():
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.ConvTranspose2d(3, 2, 5, 2, 2, 1))
    found = dcgan.layers(module, inputs=[torch.zeros(1, 3, 7, 7)])
    (layer,) = found.numbers["layers"]
    assert layer["output_shape"] == [1, 2, 14, 14] and layer["checked"]
    assert found.numbers["params"] == 3 * 2 * 25 + 2
    assert found.picture().size[0] > 300
    for mistake in ({"inputs": [torch.zeros(1, 4, 7, 7)]}, {"lines": True}):
        with pytest.raises(dcgan.UserError) as refusal:
            dcgan.layers(module, **mistake)
        assert "\n" not in str(refusal.value)


def test_a_decoder_is_probed_as_by_the_command(trained, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    found = dcgan.probe(dcgan.Run(trained), num_inputs=4)
    equal_to_command(found, "probe", trained, "--n", 4)
    latents = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    model = open_run(trained).generator
    assert dcgan.probe(model, inputs=latents).numbers == found.numbers
    with pytest.raises(dcgan.UserError, match="no figure"):
        found.picture()


def test_checkerboards_of_a_run_and_of_arrays(trained, real, made):
    options = "--n", 500, "--reference", real[0]
    found = dcgan.spectra(dcgan.Run(trained), num_images=500, reference=str(real[0]))
    equal_to_command(found, "spectra", trained, *options)
    assert found.picture().size[0] > 300
    # Floats with a stated range are the levels that they stand for.
    path, levels = made
    array = dcgan.from_array(
        levels[..., 0] / np.float32(255), "made", value_range=(0, 1), strides=(2, 2)
    )
    reference = dcgan.from_array(real[1], "real")
    found = dcgan.spectra(array, reference=reference)
    file = numbers("spectra", path, "--reference", real[0], "--strides", "2,2")
    assert found.numbers["alphas"] == file["alphas"]
    assert found.numbers["sentences"] == file["sentences"] and file["found"]
    # A wrong range is another contrast, and other numbers.
    half = dcgan.from_array(
        levels / np.float32(255), value_range=(-1, 1), strides=(2, 2)
    )
    other = dcgan.spectra(half, reference=reference).numbers["alphas"][-1]
    fixed = [it["fixed_pattern_levels"]["value"] for it in (other, file["alphas"][-1])]
    assert fixed[0] == pytest.approx(fixed[1] / 2, rel=0.05)


def test_runs_files_and_arrays_are_compared(trained, real, made):
    options = "--n", 500, "--reference", real[0]
    array = dcgan.from_array(made[1][:500], "made")
    found = dcgan.compare(trained, array, num_images=500, reference=str(real[0]))
    run, file = numbers("compare", trained, made[0], *options)
    assert found.numbers[0] == run
    assert found.numbers[1]["measured"]["alphas"] == file["measured"]["alphas"]
    assert "A checkerboard" in found.text


def test_quality_of_files_and_arrays(tmp_path, real, made):
    np.savez(tmp_path / "few.npz", images=real[1][:120])  # too few for features
    reference = str(tmp_path / "few.npz")
    found = dcgan.quality(made[0], reference=reference)
    equal_to_command(found, "quality", made[0], "--reference", reference)
    assert found.picture().size[0] > 300
    array = dcgan.quality(dcgan.from_array(made[1]), reference=reference)
    assert array.numbers["scores"] == found.numbers["scores"]
    better = dcgan.quality(dcgan.from_array(real[1][:600]), reference=reference)
    name = "swd_n20/28px"
    scores = [it.numbers["scores"]["samples"][name] for it in (better, array)]
    assert 1.3 * scores[0] < scores[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dcgan.open_run("/no/run"), "/no/run is not a run folder"),
        (lambda: dcgan.train("smok"), "one of: dcgan64, emoji"),
        (lambda: dcgan.train("", {"train.epoch": 1}), "did you mean train.epochs"),
        (lambda: dcgan.train(dcgan.Config(), {"run.seed": 1}), "expected one of them"),
        (lambda: dcgan.train("smoke", max_minutes=0), "max_minutes: received 0"),
        (lambda: dcgan.sample("RUN", []), "seeds: received []"),
        (lambda: dcgan.sample("RUN", [-1]), "seeds: received [-1]"),
        (lambda: dcgan.open_run("RUN").scalars("x"), "expected one of alarm/code"),
        (lambda: dcgan.layers("transposed"), "received 'transposed', expected"),
        (lambda: dcgan.spectra("nowhere"), "expected a folder of images, an .npz or"),
        (lambda: dcgan.spectra(np.zeros((600, 28, 28))), "received ndarray, exp"),
        (lambda: dcgan.compare(), "received no source"),
        (lambda: dcgan.quality(*2 * [SAMPLES]), "arrays called images, images"),
        (lambda: dcgan.quality("RUN", reference="fashion"), "nearest: fashion_mnist"),
        (lambda: dcgan.from_array(np.ones((600, 8, 8))), "values from -1 to 1"),
        (lambda: dcgan.from_array(NOISE, value_range=(0, 1)), "values from 0 to 1"),
        (lambda: dcgan.from_array(NOISE, value_range=(1, -1)), "expected black first"),
        (lambda: dcgan.from_array(NOISE[None], value_range=(-1, 1)), "shape (1, 600"),
        (lambda: dcgan.from_array(NOISE[:9], value_range=(-1, 1)), "received 9 images"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(trained, monkeypatch, tmp_path, call, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "RUN").symlink_to(trained)
    with pytest.raises(dcgan.UserError) as refusal:
        call()
    assert message in str(refusal.value)
    assert refusal.value._render_traceback_() == [f"Error: {refusal.value}"]
    assert "\n" not in str(refusal.value)


NOISE = np.random.default_rng(0).uniform(-1, 1, (600, 8, 8))
SAMPLES = dcgan.from_array(NOISE, value_range=(-1, 1))


def test_every_public_name_is_documented():
    for name in dcgan.__all__:
        assert inspect.getdoc(getattr(dcgan, name)), name


def test_layers_of_an_onnx_file(tmp_path):
    onnx = pytest.importorskip("onnx")
    text = (
        '<ir_version: 10, opset_import: ["": 22]> one (float[1, 2, 7, 7] x) => '
        "(float[1, 3, n, m] y) { y = ConvTranspose <strides = [2, 2], "
        'auto_pad = "SAME_UPPER"> (x, w) }'
    )
    model = onnx.parser.parse_model(text)
    weights = np.ones((2, 3, 5, 5), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    onnx.save(model, tmp_path / "one.onnx")
    found = dcgan.layers(tmp_path / "one.onnx")
    equal_to_command(found, "layers", tmp_path / "one.onnx")
    assert found.numbers["layers"][0]["predicted_shape"] == [1, 3, 14, 14]


def test_a_run_is_opened_by_its_name(trained, tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "mine").symlink_to(trained)
    monkeypatch.chdir(tmp_path)
    assert dcgan.open_run("mine").config == dcgan.open_run(trained).config
    assert np.array_equal(dcgan.sample("mine", 2), dcgan.sample(trained, 2))
