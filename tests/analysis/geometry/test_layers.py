import dataclasses
import json
import subprocess
import sys

import keras
import pytest
from click.testing import CliRunner
from keras import layers

import dcgan
from analysis.commands.layers import command
from analysis.geometry import keras_layers
from config.loader import to_dict
from config.schema import Config, ModelConfig


def run(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def audit_json(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def by_name(summary):
    return {layer["name"]: layer for layer in summary["layers"]}


def test_json_holds_what_other_programs_read():
    found = by_name(audit_json("transpose"))
    assert [
        found[f"stage{n}"]["pads"] for n in ("1_conv", "2_upsample", "3_upsample")
    ] == [
        [[2, 2], [2, 2]],
        [[1, 2], [1, 2]],
        [[1, 2], [1, 2]],
    ]
    layer = found["stage2_upsample"]
    assert layer["type"] == "Conv2DTranspose"
    assert layer["input_shape"] == [None, 7, 7, 64]
    assert layer["output_shape"] == [None, 14, 14, 64]
    assert (layer["kernel_size"], layer["strides"]) == ([5, 5], [2, 2])
    assert layer["checked"] is True
    assert {"code", "level", "text"} == set(layer["findings"][0])
    assert layer["total_shift_px"] == [0.5, 0.5]
    assert found["stage3_upsample"]["total_output_field_px"] == [29, 29]


def test_the_table_says_which_padding_is_right_and_why():
    result = run("transpose")
    assert result.exit_code == 0
    words = " ".join(result.output.split())
    assert "(1,2)" in words
    assert "from the input size 7 it would be (2, 2) plus 1" in words
    assert "12 of 12 layers as predicted, 0 errors" in words


def test_an_even_kernel_breaks_fewer_rules():
    layer = by_name(audit_json("transpose", "--kernel-size", 4))["stage2_upsample"]
    assert layer["pads"] == [[1, 1], [1, 1]]
    assert {finding["code"] for finding in layer["findings"]} == {"W5", "I1", "I2"}


def test_torch_differs_by_one_pixel():
    found = by_name(audit_json("transpose", "--framework", "torch"))
    assert found["stage2_upsample"]["torch"] == {
        "pads": [[2, 1], [2, 1]],
        "shift_px": [1, 1],
        "difference": "PyTorch's output n is TensorFlow's output n+1",
    }
    assert found["stage1_conv"]["torch"]["shift_px"] == [0, 0]
    result = run("transpose", "--framework", "torch", "--what", "discriminator")
    assert "PyTorch's windows start 1 px earlier" in result.output


@pytest.mark.reported
def test_where_pytorch_has_no_such_layer_it_is_said(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8, 3)),
            layers.Conv1DTranspose(2, 2, padding="same", name="even"),
            layers.Conv1D(2, 3, padding="causal", name="causal"),
            layers.Conv1D(2, 3, padding="same", name="odd"),
            layers.MaxPooling1D(2, name="pool"),
        ]
    )
    (tmp_path / "m.json").write_text(model.to_json())
    found = by_name(audit_json(tmp_path / "m.json", "--framework", "torch"))
    for name in ("even", "causal"):
        assert "PyTorch has no layer" in found[name]["torch"]["difference"]
    assert found["odd"]["torch"]["difference"] == "the same values"
    assert "torch" not in found["pool"]  # nothing is said of what is not compared
    result = run(tmp_path / "m.json", "--framework", "torch")
    assert "even: PyTorch has no layer of this kernel" in result.output
    infeasible = layers.Conv1DTranspose(2, 2, 1, padding="same", output_padding=0)
    model = keras.Sequential([keras.Input((8, 3)), infeasible])
    (tmp_path / "m.json").write_text(model.to_json())
    assert "PyTorch" not in run(tmp_path / "m.json", "--framework", "torch").output


def test_the_summary_counts_what_was_found_right(tmp_path):
    """A layer that cannot run is not as predicted, and unknown sizes have no cost."""
    broken = layers.Conv2DTranspose(1, 4, 2, padding="same", output_padding=0)
    model = keras.Sequential([keras.Input((7, 7, 3)), broken, layers.ReLU()])
    (tmp_path / "m.json").write_text(model.to_json())
    words = " ".join(run(tmp_path / "m.json").output.split())
    assert "1 of 2 layers as predicted, 1 errors; 49 parameters" in words
    assert "cannot run" in words and "omit output_padding" in words
    model = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(1, 3)])
    (tmp_path / "m.json").write_text(model.to_json())
    words = " ".join(run(tmp_path / "m.json", "--size", 64).output.split())
    assert "0 of 1 layers as predicted, 0 errors; at least 28 parameters" in words
    assert "W7" not in words


def test_patterns_are_named_after_the_layer_that_causes_them():
    found = dcgan.layers("transpose", lines=True)  # numbers and text of the command
    lines = found.numbers["lines"]
    assert [(line["layer"], line["stage"]) for line in lines] == [
        ("stage2_upsample", 2),
        ("stage3_upsample", 1),
    ]
    periods = [{f["period"] for f in line["frequencies"]} for line in lines]
    assert periods == [{4}, {2}]
    gains = [f["imaging_gain_percent"] for f in lines[1]["frequencies"]]
    assert all(gain["low"] <= gain["value"] <= gain["high"] for gain in gains)
    assert max(gain["low"] for gain in gains) > 10
    assert lines[0]["imbalance"] == pytest.approx(0.75, abs=0.03)
    words = " ".join(found.text.split())
    assert "stage3_upsample can make a pattern of period 2 px: imaging gain" in words
    assert "by its weights alone up to" in words and "grey levels" in words
    assert "imbalance of its kernel 0.7" in words
    found = dcgan.layers("resize", lines=True)
    words = " ".join(found.text.split())
    assert "resize can make a pattern of period 4 px, and makes none" in words
    for line in found.numbers["lines"]:
        for frequency in line["frequencies"]:
            assert frequency["imaging_gain_percent"]["value"] < 1e-3
            assert frequency["fixed_pattern_levels"]["value"] < 1e-3
            assert frequency["weights"]["imaging_gain_percent"]["value"] < 1e-3


@pytest.mark.parametrize("size", [32, 64])
def test_other_image_sizes(size):
    summary = audit_json("resize", "--size", size)
    assert summary["layers"][-1]["output_shape"] == [None, size, size, 1]
    assert summary["num_not_checked"] == 0


def test_a_model_file_is_audited_and_compared_with_the_images(tmp_path):
    model = keras.Sequential(
        [keras.Input((7, 7, 3)), layers.Conv2DTranspose(1, 4, 2, padding="same")]
    )
    model.save(tmp_path / "m.keras")
    codes = [
        f["code"] for f in audit_json(tmp_path / "m.keras")["layers"][0]["findings"]
    ]
    assert not {"W7", "W8"} & set(codes)
    summary = audit_json(tmp_path / "m.keras", "--size", 28)
    codes = [f["code"] for f in summary["layers"][0]["findings"]]
    assert {"W7", "W8"} <= set(codes)


def test_a_run_is_read_from_its_configuration(tmp_path):
    config = Config(model=ModelConfig(upsample="resize-bilinear", kernel_size=3))
    facts = {"image_size": 32, "channels": 3, "num_images": 1}
    (tmp_path / "config.json").write_text(
        json.dumps({"config": to_dict(config), "dataset": facts})
    )
    found = by_name(audit_json(tmp_path))
    assert found["stage4_upsample_conv"]["output_shape"] == [None, 32, 32, 3]
    assert found["stage4_upsample_conv"]["kernel_size"] == [3, 3]
    found = by_name(audit_json(tmp_path, "--what", "discriminator"))
    assert found["stage1_conv"]["input_shape"] == [None, 32, 32, 3]


def test_an_error_sets_the_exit_status(tmp_path, monkeypatch):
    layer = layers.Conv2DTranspose(1, 4, 2, padding="same", output_padding=0)
    model = keras.Sequential([keras.Input((7, 7, 3)), layer])
    (tmp_path / "m.json").write_text(model.to_json())
    result = run(tmp_path / "m.json")
    assert result.exit_code == 1
    assert "E1 error" in result.output
    right = keras_layers.arithmetic.conv_axis
    monkeypatch.setattr(
        keras_layers.arithmetic,
        "conv_axis",
        lambda *args: dataclasses.replace(right(*args), pad_before=2, pad_after=1),
    )
    assert run("transpose", "--what", "discriminator").exit_code == 1


def test_mistakes_are_answered_in_one_line(tmp_path):
    (tmp_path / "m.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (tmp_path / "no_run").mkdir()
    for arguments, words in {
        ("transposed",): "expected transpose, transpose-blur",
        ("transpose", "--size", 30): "expected a multiple of 4",
        (tmp_path / "m.h5",): "an HDF5 file without the layers",
        (tmp_path / "no_run",): "not a run folder",
        (tmp_path / "m.h5", "--lines"): "--lines needs weights",
        ("transpose", "--what", "discriminator", "--lines"): "no layer is known",
        (tmp_path / "m.h5", "--kernel-size", 4): "belongs to an upsampler",
        ("transpose", "--figure", tmp_path / "absent" / "f.png"): "No such file",
    }.items():
        result = run(*arguments)
        assert result.exit_code == 1
        assert words in result.output
        assert result.output.count("\n") == 1


def test_names_from_a_file_cannot_style_the_terminal(tmp_path):
    model = keras.Sequential([keras.Input((4, 4, 1)), layers.ReLU(name="[red]x")])
    (tmp_path / "m.json").write_text(model.to_json())
    assert "[red]x" in run(tmp_path / "m.json").output


@pytest.mark.parametrize("target", ["transpose", "resize-bilinear"])
def test_the_figure_is_written(tmp_path, target):
    assert run(target, "--figure", tmp_path / "f.png").exit_code == 0
    header = (tmp_path / "f.png").read_bytes()[:24]
    width, height = (int.from_bytes(header[i : i + 4], "big") for i in (16, 20))
    assert (width, height > 1000) == (2250, True)


def test_help_does_not_import_tensorflow():
    code = (
        "import sys, runpy; sys.argv = ['analysis', 'layers', '--help']\n"
        "try: runpy.run_module('analysis', run_name='__main__')\n"
        "except SystemExit: assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Audits the layers" in done.stdout
