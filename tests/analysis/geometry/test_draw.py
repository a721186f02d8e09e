"""The explained formulas, and the drawings of one layer."""

import itertools
import math
import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.colors import to_rgb
from PIL import Image

from analysis.commands.draw import command as draw
from analysis.commands.explain import command as explain
from analysis.geometry.draw import COLOURS, Scene, under_kernel
from analysis.geometry.formulas import Convolution, counterparts, keras_refuses

SEED = "--input 7 --kernel 5 --stride 2 --padding same".split()


def layers() -> list[Convolution]:
    """Layers that can run, over both operations and every way to pad."""
    found = []
    for op, i, k, s, p, extra, d in itertools.product(
        ("conv", "transpose"),
        (3, 6),
        (1, 2, 5),
        (1, 2, 3),
        ("same", "valid", 0, 2),
        (None, 1),
        (1, 2),
    ):
        layer = Convolution(op, i, k, s, p, extra, d)
        try:
            layer.geometry()
        except ValueError:
            continue
        found.append(layer)
    return found


def test_the_numbers_put_in_give_the_value_printed():
    names = {"max": max, "ceil": math.ceil, "floor": math.floor}
    assert len(layers()) > 150
    for layer in layers():
        for line in layer.formulas()[:-1]:
            _, _, numbers, value = line.split(" = ")
            assert eval(numbers, names) == int(value), line


def test_a_counterpart_has_the_same_sizes_in_the_other_framework():
    for layer in layers():
        for other in counterparts([layer]) or []:
            assert other.framework != layer.framework
            assert other.geometry().output_size == layer.geometry().output_size
    torch = Convolution("transpose", 7, 5, 2, 2, 1)
    assert counterparts([Convolution("transpose", 7, 5, 2)]) == [torch]
    assert counterparts([Convolution("transpose", 7, 4)]) is None


def test_keras_refuses_stride_and_dilation_even_on_different_axes():
    strided, dilated = (
        Convolution("conv", 9, 3, 2, "valid"),
        Convolution("conv", 9, 3, 1, "valid", dilation=2),
    )
    assert keras_refuses([strided, dilated])
    assert not keras_refuses([strided, strided])
    with pytest.raises(ValueError, match="dilation_rate"):
        keras.layers.Conv2D(1, 3, (2, 1), dilation_rate=(1, 2))
    theirs = [replace(axis, padding=0) for axis in (strided, dilated)]
    assert counterparts(theirs[:1]) and counterparts(theirs[1:])
    assert counterparts(theirs) is None
    options = "--op conv --input 9 --kernel 3 --stride 2x1 --dilation 1x2".split()
    refused = CliRunner().invoke(explain, options)
    assert refused.exit_code == 1
    assert "Keras refuses a stride above 1" in refused.output
    assert refused.output.count("\n") == 1
    result = CliRunner().invoke(explain, [*options, "--padding", "0"])
    assert "The other framework has no layer of these sizes" in result.output


def test_explain_shows_both_windows():
    result = CliRunner().invoke(explain, SEED)
    assert result.exit_code == 0
    assert "o = i*s = 7*2 = 14" in result.output
    assert "PyTorch's output n is TensorFlow's output n+1" in result.output
    assert "y1 w2 w0" in result.output
    assert "3 : 2" in result.output


def test_explain_prints_the_matrix_of_the_plane():
    options = "--op conv --input 4 --kernel 3 --padding valid".split()
    lines = CliRunner().invoke(explain, options).output.splitlines()
    first = next(line for line in lines if line.startswith("y0,0")).split()
    assert first.count(".") == 16 - 9
    assert [word for word in first[1:] if word != "."][-1] == "w2,2"


def test_explain_needs_no_tensorflow():
    code = (
        "import sys\nfrom analysis.commands.explain import command\n"
        f"command({SEED}, standalone_mode=False)\n"
        "assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--input 3 --kernel 4 --stride 2 --output-padding 0", "TensorFlow aborts"),
        (
            "--op conv --input 3 --kernel 5 --padding valid",
            "kernel spans 5 px, the padded map has only 3",
        ),
        ("--input 3 --kernel 3 --padding 5", "output would have -5 px"),
        ("--input 3 --kernel 3 --padding half", "not same|valid|N"),
        ("--input 3 --kernel 0", "not in 1..1024"),
        ("--input 900 --kernel 3 --stride 2", "larger than 1024"),
        ("--input 400 --kernel 3", "too many to draw"),
    ],
)
def test_wrong_parameters_are_one_line(options, reason, tmp_path):
    out = tmp_path / "x.png"
    result = CliRunner().invoke(draw, [*options.split(), "--out", str(out)])
    assert result.exit_code != 0
    assert reason in result.output.splitlines()[-1]
    assert not out.exists()


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    out = str(tmp_path / "missing" / "x.png")
    result = CliRunner().invoke(draw, [*SEED, "--out", out])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert (
        "does not end in" in CliRunner().invoke(draw, [*SEED, "--out", "x.pdf"]).output
    )


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ("--input 3 --kernel 3 --stride 2 --padding same", "x.png"),
        ("--input 3x2 --kernel 3x2 --stride 1x2 --padding valid", "x.gif"),
        ("--op conv --input 5 --kernel 2 --dilation 2", "x.gif"),
        ("--input 2 --kernel 2 --padding 1 --stride 3 --output-padding 2", "x.png"),
    ],
)
def test_picture_and_animation_of_unusual_layers(options, name, tmp_path):
    out = tmp_path / name
    result = CliRunner().invoke(draw, [*options.split(), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert out.stat().st_size > 1000


def test_the_other_frameworks_layer_is_drawn_on_request(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(
        "analysis.geometry.draw.save_picture",
        lambda scene, path: titles.append(scene.title),
    )
    out = str(tmp_path / "x.png")
    asked = [*SEED, "--framework", "torch", "--out", out]
    assert CliRunner().invoke(draw, asked).exit_code == 0
    assert "padding=2, output_padding=1" in titles[0]
    asked = "--input 7 --kernel 4 --framework torch --out".split() + [out]
    assert "no such layer of 7 to 7 px" in CliRunner().invoke(draw, asked).output


def test_the_animation_has_a_frame_for_every_output(tmp_path):
    out = tmp_path / "x.gif"
    CliRunner().invoke(draw, ["--input", "2", "--kernel", "3", "--out", str(out)])
    with Image.open(out) as animation:
        assert animation.n_frames == 4


def test_the_picture_marks_the_products_it_states():
    scene = Scene(Convolution("transpose", 4, 5, 2), Convolution("transpose", 3, 3, 2))
    product = to_rgb(COLOURS["input"][1])
    for n in scene.outputs:
        image, weights, _ = under_kernel(scene, n)
        marked = np.all(image == product, axis=-1).sum()
        assert marked == len(weights) == scene.overlap[n]
    _, weights, outline = under_kernel(scene, (0, 0))
    assert weights == {(3, 2): "10"}  # tap 1 by the crop of 1, tap 0 by the crop of 0
    assert outline.get_bbox().size.tolist() == [3, 5]
