"""`explain` of a resize and of a chain of layers."""

import re

import keras
import numpy as np
import pytest
from click.testing import CliRunner

from analysis.commands.explain import command
from analysis.geometry.arithmetic import conv_transpose_axis

ONES = {"kernel_initializer": "ones", "use_bias": False}
ALIGNED = "--op resize --input 3 --factor 2 --interpolation bilinear".split()
ALIGNED += ["--coordinates", "align-corners"]


def explain(*options):
    """What the command prints, in one line."""
    result = CliRunner().invoke(command, options)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def chain(first, *texts):
    return explain(*first.split(), *(w for text in texts for w in ("--then", text)))


def test_a_resize_shows_its_coordinates_weights_and_calls():
    text = explain(*ALIGNED)
    for expected in (
        "3 to 6 px",
        "x = n*(i-1)/(o-1) = n*(3-1)/(6-1) = 2/5*n",
        "(o-1)/(i-1) = 5/2 instead of o/i = 2",
        "lie 0.5 output px nearer to the edge",
        "y2 4/5 1/5 x0 + 4/5 x1 y3 6/5 4/5 x1 + 1/5 x2",
        "no resize of Keras computes the same",
        "PyTorch computes the same with Upsample(scale_factor=(2, 2), "
        "mode='bilinear', align_corners=True)",
    ):
        assert expected in text
    text = explain(*ALIGNED[:-1], "half-pixel")
    assert "= 1/2*n - 1/4 " in text and "instead of" not in text
    assert "shifted by -1 px" in explain(
        *"--op resize --input 2 --factor 3 --interpolation bilinear".split(),
        *"--coordinates asymmetric".split(),
    )


def test_height_and_width_of_a_resize_may_differ():
    text = explain(*"--op resize --input 3x4 --factor 2x1".split())
    assert "nearest, half-pixel: 3 to 6 px" in text
    assert "nearest, half-pixel: 4 to 4 px" in text
    assert "UpSampling2D((2, 1), interpolation='nearest')" in text


def test_the_generator_of_the_article():
    stride = "kernel=5 stride=2"
    text = chain("--input 7 --kernel 5", stride, stride)
    assert re.findall(r"(\d+) px │ (\d+) px", text) == [
        ("7", "7"),
        ("7", "14"),
        ("14", "28"),
    ]
    assert "shift: +1.5 px" in text
    assert "reaches at most 29 outputs" in text
    assert "14 outputs at the start and 11 at the end" in text
    assert text.count("no layer of PyTorch computes the same") == 2


def test_the_overlap_of_a_chain_is_what_keras_computes():
    first = "--input 5x1 --kernel 5x1 --stride 2x1"
    resize = "op=resize factor=2x1 interpolation=bilinear"
    text = chain(first, resize, "op=conv kernel=3x1 padding=1x0")
    height, width = text.split("Along the width:")
    printed = re.search(r"overlap: ([\d. ]+) shift", height)[1].split()
    layers = [
        keras.layers.Conv2DTranspose(1, (5, 1), (2, 1), "same", **ONES),
        keras.layers.UpSampling2D((2, 1), interpolation="bilinear"),
        keras.layers.Conv2D(1, (3, 1), padding="same", **ONES),
    ]
    x = np.ones((1, 5, 1, 1), np.float32)
    for layer in layers:
        x = layer(x)
    assert np.allclose(np.ravel(x), [float(word) for word in printed])
    assert f"shift: {2 * conv_transpose_axis(5, 5, 2).shift_px:+g} px" in height
    assert "overlap: 1 shift: +0 px" in width


def test_a_chain_with_align_corners_gives_sizes_alone():
    resize = "op=resize factor=2 interpolation=bilinear coordinates=align-corners"
    text = chain("--input 4 --kernel 4 --stride 2", resize, "op=conv kernel=3")
    assert "not given, because of layer 2: it has no constant stride." in text
    assert "8 px │ 16 px" in text and "overlap" not in text
    assert text.count("Layer 2: no resize of Keras computes the same") == 1
    sharper = resize.replace("bilinear", "bicubic cubic-a=-0.75")
    text = chain("--input 4 --kernel 4", sharper.replace("align-corners", "half-pixel"))
    assert "because of layer 2: for bicubic they are known with a = -0.5 alone" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--op resize --kernel 2", "nearest resize does not use kernel, but factor"),
        ("--op resize --factor 2 --cubic-a -0.75", "nearest resize does not use cubic"),
        ("--kernel 3 --factor 2", "transpose does not use factor, but kernel"),
        ("--op resize", "nearest resize needs factor"),
        ("--op conv", "conv needs kernel, a whole number"),
        ("--op resize --factor 200", "on 7 px: the output is larger than 1024 px"),
        ("--kernel 5 --then kernl=3", "layer 2: 'kernl=3' is not expected: give words"),
        ("--kernel 5 --then input=7", "layer 2: 'input=7' is not expected"),
        ("--kernel 5 --then kernel", "layer 2: 'kernel' is not expected"),
        ("--kernel 5 --then kernel=0", "layer 2: Invalid value for '--kernel': '0'"),
        ("--kernel 5 --then op=pool", "layer 2: Invalid value for '--op': 'pool'"),
        ("--kernel 5 --then stride=2", "layer 2: transpose needs kernel"),
        (
            "--kernel 5 --then kernel=3 --then op=resize",
            "layer 3: nearest resize needs",
        ),
        ("--kernel 3 --padding 9 --then kernel=3", "layer 1: ConvTranspose2d(in, out"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(options, words):
    result = CliRunner().invoke(command, ["--input", "7", *options.split()])
    assert result.exit_code == 1
    assert words in result.output and result.output.count("\n") == 1


def test_a_layer_is_given_in_full_and_each_word_once():
    texts = {
        "kernel=5 kernel=3": "layer 2: 'kernel=5' is not expected",
        "op=conv kernel=9 padding=valid": "the kernel spans 9 px",
        "op=resize factor=2 stride=2": "nearest resize does not use stride",
    }
    for text, words in texts.items():
        options = ["--input", "7", "--kernel", "5", "--then", text]
        result = CliRunner().invoke(command, options)
        assert result.exit_code == 1 and result.output.count("\n") == 1
        assert words in result.output and "Error: layer 2: " in result.output
