"""ConvTranspose of onnxruntime, executed for random settings."""

import numpy as np
import pytest

from analysis.geometry.arithmetic import conv_transpose_axis, onnx_transpose_axis
from analysis.geometry.formulas import onnx_settings

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
NUM_SETTINGS = 2000


def execute(i, k, s, d, auto_pad, pads, op, output):
    """The (i, o) matrix of a ConvTranspose with the taps 1, 2, …, or the error."""
    given = {"kernel_shape": [k], "strides": [s], "dilations": [d]}
    given |= {"auto_pad": auto_pad, "output_padding": [op]}
    if auto_pad == "NOTSET":
        given["pads"] = list(pads)
    if output is not None:
        given["output_shape"] = [output]
    make, floats = onnx.helper, onnx.TensorProto.FLOAT
    node = make.make_node("ConvTranspose", ["x", "w"], ["y"], **given)
    graph = make.make_graph(
        [node],
        "one",
        [make.make_tensor_value_info("x", floats, ["batch", 1, i])],
        [make.make_tensor_value_info("y", floats, None)],
        [make.make_tensor("w", floats, [1, 1, k], range(1, k + 1))],
    )
    opsets = [make.make_opsetid("", 22)]
    model = make.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options)
        return session.run(None, {"x": np.eye(i, dtype=np.float32)[:, None]})[0][:, 0]
    except Exception as error:  # onnxruntime's errors have no common class
        return str(error)


def predicted(axis):
    """The same matrix by the geometry of one axis."""
    matrix = np.zeros((axis.input_size, axis.output_size))
    for n, pairs in enumerate(axis.terms):
        for j, tap in pairs:
            matrix[j, n] += tap + 1
    return matrix


def test_sizes_and_values_are_those_of_onnxruntime():
    random = np.random.default_rng(0)
    refused = ran = 0
    for _ in range(NUM_SETTINGS):
        i, k = random.integers(1, 8, 2).tolist()
        s, d = random.integers(1, 5, 2).tolist()
        auto_pad = str(random.choice(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
        pads = tuple(random.integers(0, 4, 2).tolist())
        op = int(random.choice([0, 0, 0, 1, 2, 3]))
        output = int(random.integers(1, 30)) if random.random() < 0.3 else None
        setting = i, k, s, d, auto_pad, pads, op, output
        padding = {"NOTSET": pads, "VALID": (0, 0)}.get(auto_pad, auto_pad)
        axis = onnx_transpose_axis(i, k, s, padding, op, d, output)
        found = execute(*setting)
        if isinstance(found, str):
            assert not axis.feasible, (setting, found)
            refused += 1
        else:
            assert axis.feasible, setting
            np.testing.assert_array_equal(found, predicted(axis), err_msg=str(setting))
            ran += 1
    assert ran > NUM_SETTINGS / 3 and refused > NUM_SETTINGS / 10


@pytest.mark.parametrize(
    ("settings", "size", "crop"),
    [
        ((5, 2, "SAME_UPPER"), 14, 1),
        ((5, 2, "SAME_LOWER"), 14, 2),
        ((5, 2, "SAME_UPPER", 1), 14, 2),  # the output padding moves the image
        ((2, 3, "SAME_UPPER"), 20, 0),  # Keras gives 21
        ((5, 2, (0, 0), 0, 1, 14), 14, 2),  # output_shape splits as SAME_LOWER
    ],
)
def test_known_disagreements(settings, size, crop):
    """Seven pixels in; measured with onnx 1.23.2 and onnxruntime 1.32.0."""
    axis = onnx_transpose_axis(7, *settings)
    assert (axis.feasible, axis.output_size, axis.pad_before) == (True, size, crop)


def test_which_rule_is_which():
    """SAME_UPPER is TensorFlow's, SAME_LOWER PyTorch's with padding 2 and one added."""
    upper, lower = (
        onnx_transpose_axis(7, 5, 2, padding)
        for padding in ("SAME_UPPER", "SAME_LOWER")
    )
    assert upper.terms == conv_transpose_axis(7, 5, 2).terms
    assert lower.terms == conv_transpose_axis(7, 5, 2, 2, 1).terms != upper.terms


def test_pads_that_serve_onnx_compute_the_same_pixels():
    """Every layer of Keras and PyTorch has some, but for one with dilation."""
    random = np.random.default_rng(2)
    served = 0
    for _ in range(1000):
        i, k, s = random.integers(1, 8, 3).tolist()
        padding = random.choice(np.array(["same", "valid", 0, 1, 2, 3], dtype=object))
        op = random.choice(np.array([None, 0, 1, 2], dtype=object))
        axis = conv_transpose_axis(i, k, s, padding, op)
        if axis.feasible:
            given = eval(f"dict({onnx_settings([axis])})")
            added = given.get("output_padding", [0])[0]
            found = onnx_transpose_axis(i, k, s, tuple(given["pads"]), added)
            assert found.feasible and found.terms == axis.terms, axis
            served += 1
    assert served > 300
    dilated = conv_transpose_axis(4, 4, 1, 0, 2, dilation=3)  # PyTorch runs it
    assert dilated.feasible and onnx_settings([dilated]) == ""
    assert not onnx_transpose_axis(4, 4, 1, (0, 0), 2, dilation=3).feasible
