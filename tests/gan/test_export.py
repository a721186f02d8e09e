import sys
import warnings
from dataclasses import replace

import keras
import numpy as np
import pytest

from gan.data.dataset import latents_from_seeds
from gan.data.images import to_uint8
from gan.export import export_generator, to_onnx, usage
from gan.models import build_generator
from gan.run.folder import RunError
from gan.sampling import open_run


@pytest.mark.parametrize("name", ["g.keras", "g", "g.tflite", "g.onnx"])
def test_every_format_gives_the_same_pixels_and_its_three_lines_work(
    trained, tmp_path, name
):
    run = open_run(trained)
    assert export_generator(run, tmp_path / name) <= 1
    assert [path.name for path in tmp_path.iterdir()] == [name]
    lines = usage(run, tmp_path / name).splitlines()
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow plans to move its Interpreter
        exec("\n".join(lines), names)
    images = names["images"]
    assert len(lines) == 3 and f"# float32 {images.shape} in [-1, 1]" in lines[2]
    assert images.dtype == np.float32 and images.std() > 0.1
    assert images.shape[1:] == (28, 28, 1) and np.abs(images).max() <= 1


def with_method(run, method):
    """The run with another generator, which is not trained."""
    model = replace(run.config.model, upsample=method, kernel_size=4)
    config = replace(run.config, model=model)
    return replace(run, config=config, generator=build_generator(model))


def test_only_classes_of_this_project_need_it_to_load(trained, tmp_path):
    run = open_run(trained)
    assert "gan" not in usage(run, tmp_path / "g.keras").splitlines()[0]
    run = with_method(run, "transpose-balanced")
    assert "gan.upsampling" in usage(run, tmp_path / "g.keras").splitlines()[0]


@pytest.mark.parametrize(
    "method",
    [
        "transpose-blur",
        "resize-nearest",
        "resize-bilinear",
        "resize-bicubic",
        "subpixel",
    ],
)
def test_onnx_serves_the_operations_of_every_method(trained, tmp_path, method):
    run = with_method(open_run(trained), method)
    latents = latents_from_seeds(range(64), run.config.model.latent_dim)
    expected = to_uint8(run.generator(latents)).astype(int)
    found = to_uint8(to_onnx(run, tmp_path / "g.onnx")(latents))
    assert np.abs(found - expected).max() <= 1
    # The control: some conversions shift the pixels by one.
    assert np.abs(np.roll(found, 1, axis=1) - expected).max() > 1


def test_onnx_without_its_packages_or_in_half_precision_is_one_line(
    trained, tmp_path, monkeypatch
):
    run = open_run(trained)
    train = replace(run.config.train, precision="mixed_bfloat16")
    half = replace(run, config=replace(run.config, train=train))
    with pytest.raises(RunError, match="precision mixed_bfloat16, expected float32"):
        export_generator(half, tmp_path / "g.onnx")
    for name in ("onnxruntime", "tf2onnx"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(RunError, match=rf"needs {name}; .*'\.\[onnx\]'"):
                export_generator(run, tmp_path / "g.onnx")
    assert not list(tmp_path.iterdir())


def test_an_export_that_gives_other_pixels_is_refused(trained, tmp_path, monkeypatch):
    run = open_run(trained)
    other = keras.models.clone_model(run.generator)
    monkeypatch.setattr(run.generator, "save", other.save)
    with pytest.raises(RunError, match="other pixels than the run .by [1-9]"):
        export_generator(run, tmp_path / "g.keras")


def test_a_full_disk_leaves_the_earlier_export(trained, tmp_path, monkeypatch):
    run = open_run(trained)
    (tmp_path / "g.keras").write_text("earlier")

    def refuse(path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run.generator, "save", refuse)
    with pytest.raises(OSError, match="No space"):
        export_generator(run, tmp_path / "g.keras")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["earlier"]
