"""The audit of ONNX files: every statement beside what onnxruntime computes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from analysis.__main__ import main

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from analysis.geometry import onnx_layers  # noqa: E402
from analysis.geometry.onnx_layers import audit_onnx, load_onnx  # noqa: E402


def make_model(nodes, shape, weights=None, opset=22, output=None):
    """A model of some nodes from the input "x" to the last one's first output."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "made",
        [info("x", TensorProto.FLOAT, shape)],
        [info(nodes[-1].output[0], TensorProto.FLOAT, output)],
        [numpy_helper.from_array(v, name) for name, v in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def one_node(kind, shape, weights=None, output=None, **attributes):
    """A model of a single node."""
    names = ["x", *(weights or {})]
    node = helper.make_node(kind, names, ["y"], name=kind.lower(), **attributes)
    return make_model([node], shape, weights, output=output)


def transposed(kernel, stride, size=7, channels=(3, 4), rank=2, **attributes):
    """A model of one ConvTranspose."""
    weights = np.ones((*channels, *[kernel] * rank), np.float32)
    return one_node(
        "ConvTranspose",
        [1, channels[0], *[size] * rank],
        {"w": weights},
        strides=[stride] * rank,
        **attributes,
    )


def codes(audit):
    return {finding.code for finding in audit.findings}


def execute(model):
    """The shape that onnxruntime gives, or None if it refuses."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options)
        given = session.get_inputs()[0]
        x = np.zeros([n if isinstance(n, int) else 1 for n in given.shape], np.float32)
        return session.run(None, {given.name: x})[0].shape
    except Exception:
        return None


def random_model(random):
    """One convolution, transposed convolution, pooling, enlargement or padding."""
    rank = int(random.integers(1, 4))
    size, channels = int(random.integers(1, 9)), int(random.choice([2, 4]))
    numbers = lambda low, high: random.integers(low, high, rank).tolist()  # noqa: E731
    kind = str(
        random.choice(
            ["Conv", "ConvTranspose", "ConvTranspose", "MaxPool", "AveragePool", "Pad"]
            + ["Resize", "DepthToSpace"] * (rank == 2)
        )
    )
    shape = [1, channels, *[size] * rank]
    if kind == "DepthToSpace":
        shape[1] = 8
        mode = str(random.choice(["DCR", "CRD"]))
        return one_node(kind, shape, blocksize=2, mode=mode)
    if kind == "Pad":
        pads = [0, 0, *numbers(-1, 3), 0, 0, *numbers(-1, 3)]
        mode = str(random.choice(["constant", "reflect", "edge"]))
        return one_node(kind, shape, {"p": np.array(pads, np.int64)}, mode=mode)
    if kind == "Resize":
        scales = np.array([1, 1, *[int(random.integers(1, 4))] * 2], np.float32)
        mode = str(random.choice(["nearest", "linear"]))
        rule = str(random.choice(["half_pixel", "asymmetric", "align_corners"]))
        given = {"r": np.array([], np.float32), "s": scales}
        rule = {"coordinate_transformation_mode": rule}
        return one_node(kind, shape, given, mode=mode, **rule)
    kernel = numbers(1, 6)
    given = {"strides": numbers(1, 4), "kernel_shape": kernel}
    way = str(random.choice(["pads", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if way == "pads":
        given["pads"] = numbers(0, 3) * 2
    else:
        given["auto_pad"] = way
    if kind in ("Conv", "ConvTranspose"):
        group = int(random.choice([1, 2]))
        given |= {"group": group}
        if not way.startswith("SAME") or kind == "ConvTranspose":
            given["dilations"] = numbers(1, 3)
        widths = (4, channels // group) if kind == "Conv" else (channels, 3)
        weights = {"w": np.ones((*widths, *kernel), np.float32)}
        if kind == "ConvTranspose":
            given["output_padding"] = numbers(0, 2)
        return one_node(kind, shape, weights, **given)
    if way == "pads":
        given["ceil_mode"] = int(random.integers(0, 2))
        given["pads"] = [
            min(p, (k - 1) // 2) for p, k in zip(given["pads"], kernel * 2, strict=True)
        ]
    return one_node(kind, shape, **given)


def test_every_statement_about_random_nodes_is_true():
    """Sizes equal onnxruntime's; what it refuses has an error or is not checked."""
    random = np.random.default_rng(0)
    checked = refused = moved = 0
    for number in range(400):
        model = random_model(random)
        (audit,) = audit_onnx(model)
        built = execute(model)
        where = number, helper.printable_node(model.graph.node[0]), audit.reason
        # A window that is larger than the map: some nodes run and return nothing, or
        # what was rounded to one pixel.
        if built is None or 0 in built or "E4" in codes(audit):
            assert not audit.as_predicted, where
            refused += 1
        elif "E9" in codes(audit):
            moved += 1
        elif audit.predicted_shape:
            assert audit.predicted_shape == built, where
            assert not [f for f in audit.findings if f.level == "error"], where
            checked += audit.checked
        else:
            assert not audit.checked, where
    assert checked > 200 and refused > 20 and moved > 1


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_amounts_value_and_axes_of_a_pad_are_read(mode):
    def audit(amounts, value=0.0, axes=None):
        given = {"p": np.array(amounts, np.int64), "v": np.array(value, np.float32)}
        if axes:
            given["a"] = np.array(axes, np.int64)
        model = one_node("Pad", [1, 2, 4, 5], given, mode=mode)
        (found,) = audit_onnx(model)
        return found, execute(model)

    for amounts, axes in (
        ([0, 0, 1, 2, 0, 0, 2, 1], None),
        ([1, 2, 2, 1], [2, 3]),
        ([2, 1, 1, 2], [-1, -2]),
        ([0, 0, 2, 1, 0, 0, 1, 2], [0, 1, 3, 2]),
    ):
        found, built = audit(amounts, axes=axes)
        assert found.as_predicted and found.predicted_shape == built == (1, 2, 7, 8)
    found, _ = audit([0, 1, 0, 0, 0, 0, 0, 0])
    assert found.reason == "it pads other axes than the spatial ones"
    if mode == "constant":
        found, _ = audit([1, 2, 2, 1], value=3.0, axes=[2, 3])
        assert found.reason == "only its size is predicted: it does not pad with zeros"
        assert not found.findings
    if mode == "reflect":
        found, built = audit([9, -1, 0, 0], axes=[2, 3])
        assert built is None and codes(found) == {"E4"}


def test_a_pooling_that_onnxruntime_computes_wrongly_is_named(tmp_path):
    """Window 1, stride 3: SAME reads the first pixel, and onnxruntime the second."""
    path, out = tmp_path / "old.onnx", tmp_path / "new.onnx"
    pooling = {"kernel_shape": [1], "strides": [3], "auto_pad": "SAME_UPPER"}
    onnx.save(one_node("AveragePool", [1, 1, 3], **pooling), path)
    result = CliRunner().invoke(
        main, ["layers", str(path), "--explicit-pads", str(out)]
    )
    assert result.exit_code == 1 and "E9" in result.output
    x = np.array([[[1, 2, 3]]], np.float32)
    old, new = (ort.InferenceSession(p).run(None, {"x": x})[0] for p in (path, out))
    assert old.tolist() == [[[2]]] and new.tolist() == [[[1]]]


def test_a_wrong_prediction_is_noticed(monkeypatch):
    """The control: the rows that are cut off lie one pixel further."""
    rule = onnx_layers.arithmetic.onnx_transpose_axis
    model = transposed(5, 2, auto_pad="SAME_UPPER")
    assert audit_onnx(model)[0].as_predicted
    monkeypatch.setattr(
        onnx_layers.arithmetic,
        "onnx_transpose_axis",
        lambda *s: rule(*["SAME_LOWER" if p == "SAME_UPPER" else p for p in s]),
    )
    (audit,) = audit_onnx(model)
    assert not audit.as_predicted and "E7" in codes(audit)


@pytest.mark.parametrize(
    ("settings", "size", "expected"),
    [
        ({"auto_pad": "SAME_UPPER"}, 14, {"W12", "I4"}),
        ({"auto_pad": "SAME_LOWER"}, 14, {"W12", "I4"}),
        ({"auto_pad": "SAME_UPPER", "output_padding": [1, 1]}, 14, {"W11"}),
        ({"output_shape": [14, 14]}, 14, {"I4"}),
        ({"auto_pad": "VALID", "output_shape": [14, 14]}, 14, {"I4"}),
        ({"output_padding": [2, 2]}, 19, {"E2"}),
        ({"output_shape": [20, 20]}, 20, {"E1"}),
        ({"pads": [0, 0, -1, -1]}, 18, {"E8"}),
        ({"pads": [2, 2, 1, 1]}, 14, {"I4"}),
    ],
)
def test_known_disagreements_are_named(settings, size, expected):
    """Kernel 5, stride 2, seven pixels: the table that was measured."""
    (audit,) = audit_onnx(transposed(5, 2, **settings))
    assert audit.predicted_shape == (1, 4, size, size)
    assert expected <= codes(audit)
    assert audit.as_predicted == (not any(code.startswith("E") for code in expected))


def verdict(model):
    (audit,) = audit_onnx(model)
    return next(f.text for f in audit.findings if f.code == "I4")


def test_the_verdict_names_the_layers_that_compute_the_same():
    upper = verdict(transposed(5, 2, auto_pad="SAME_UPPER"))
    assert 'Keras computes the same with padding="same"' in upper
    assert "no layer of PyTorch computes the same" in upper
    lower = verdict(transposed(5, 2, auto_pad="SAME_LOWER"))
    assert "no layer of Keras computes the same" in lower
    assert (
        "PyTorch computes the same with padding=(2, 2), output_padding=(1, 1)" in lower
    )
    both = verdict(transposed(4, 2, pads=[1, 1, 1, 1]))
    assert 'padding="same"' in both and "padding=(1, 1)" in both
    valid = verdict(transposed(4, 2))
    assert 'padding="valid"' in valid and "padding=(0, 0)" in valid


def test_other_pads_compute_the_same_and_are_read_alike(tmp_path):
    """Each pair of files on random numbers; a file that was refused runs then."""
    random = np.random.default_rng(1)
    for number, settings in enumerate(
        [
            {"auto_pad": "SAME_UPPER"},
            {"auto_pad": "SAME_LOWER"},
            {"auto_pad": "SAME_UPPER", "output_padding": [1, 1]},
            {"output_shape": [14, 14]},
        ]
    ):
        model = transposed(5, 2, **settings)
        path, out = (tmp_path / f"{name}{number}.onnx" for name in ("old", "new"))
        onnx.save(model, path)
        result = CliRunner().invoke(
            main, ["layers", str(path), "--explicit-pads", str(out)]
        )
        assert result.exit_code == 0, result.output
        x = random.normal(size=(1, 3, 7, 7)).astype(np.float32)
        old, new = (ort.InferenceSession(p).run(None, {"x": x})[0] for p in (path, out))
        np.testing.assert_array_equal(old, new)
        (node,) = onnx.load(out).graph.node
        names = {a.name for a in node.attribute}
        assert "pads" in names and not names & {"auto_pad", "output_shape"}
        (audit,) = audit_onnx(onnx.load(out))
        assert audit.as_predicted and not codes(audit) & {"W11", "W12"}
    # tf2onnx writes this for Keras' kernel 2 and stride 3, and onnxruntime refuses it.
    onnx.save(transposed(2, 3, pads=[0, 0, -1, -1]), path)
    assert execute(onnx.load(path)) is None
    result = CliRunner().invoke(
        main, ["layers", str(path), "--explicit-pads", str(out)]
    )
    assert result.exit_code == 1 and "E8" in result.output
    assert execute(onnx.load(out)) == (1, 4, 21, 21)
    onnx.save(transposed(2, 3, pads=[-1, -1, 0, 0]), path)
    result = CliRunner().invoke(
        main, ["layers", str(path), "--explicit-pads", str(out)]
    )
    assert "convtranspose: no pads serve it" in result.output


def test_sizes_are_followed_through_a_decoder():
    """Constants of a Reshape, a branch, a crop, and a node of another domain."""
    node = helper.make_node
    weights = {
        "w0": np.ones((8, 4 * 16), np.float32),
        "shape": np.array([-1, 4, 4, 4], np.int64),
        "w1": np.ones((4, 2, 4, 4), np.float32),
        "w2": np.ones((3, 4, 3, 3), np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "from": np.array([0, 0], np.int64),
        "to": np.array([7, 7], np.int64),
        "axes": np.array([2, 3], np.int64),
    }
    nodes = [
        node("MatMul", ["x", "w0"], ["a"]),
        node("Reshape", ["a", "shape"], ["b"]),
        node("ConvTranspose", ["b", "w1"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Resize", ["b", "", "scales"], ["d"], mode="nearest"),
        node("Conv", ["d", "w2"], ["e"], pads=[1, 1, 1, 1]),
        node("Concat", ["c", "e"], ["f"], axis=1),
        node("Slice", ["f", "from", "to", "axes"], ["g"]),
        node("Sharpen", ["g"], ["y"], domain="my.own"),
    ]
    model = make_model(nodes, ["batch", 8], weights)
    model.opset_import.append(helper.make_opsetid("my.own", 1))
    audits = {audit.type: audit for audit in audit_onnx(model)}
    shapes = {name: audit.output_shape for name, audit in audits.items()}
    assert shapes["ConvTranspose"] == (1, 2, 8, 8) and shapes["Conv"] == (1, 3, 8, 8)
    assert shapes["Concat"] == (1, 5, 8, 8) and shapes["Slice"] == (1, 5, 7, 7)
    assert audits["Sharpen"].reason == "an operator of my.own"
    assert all(a.as_predicted for n, a in audits.items() if n != "Sharpen")
    assert audits["MatMul"].macs == 8 * 64
    assert audits["ConvTranspose"].macs == 4 * 4 * 16 * 4 * 2
    assert audits["Conv"].macs == 64 * 9 * 4 * 3
    assert sum(a.params for a in audits.values()) == 512 + 4 + 128 + 108 + 4 + 6
    # The branches differ in geometry, so nothing is said about their sum.
    assert audits["Concat"].chain is None and audits["Conv"].chain


def test_what_a_file_states_wrongly_is_an_error():
    model = transposed(5, 2, auto_pad="SAME_UPPER")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    stated = helper.make_tensor_type_proto(TensorProto.FLOAT, [1, 4, 15, 15])
    model.graph.output[0].type.CopyFrom(stated)
    (audit,) = audit_onnx(model)
    assert "E6" in codes(audit) and not audit.as_predicted


def test_sizes_that_are_not_stated_can_be_given():
    model = transposed(4, 2, size=None, auto_pad="SAME_UPPER")
    (audit,) = audit_onnx(model)
    assert audit.reason == "its input size is not fixed: give it with --input-size"
    (audit,) = audit_onnx(model, 16)
    assert audit.as_predicted and audit.output_shape[2:] == (32, 32)


def damaged():
    """Files that are no model, or one that wants too much, by name."""
    good = transposed(4, 2, auto_pad="SAME_UPPER").SerializeToString()
    huge = np.array([10**12], np.int64)
    node = helper.make_node
    bomb = make_model(
        [
            node("ConstantOfShape", ["n"], ["z"]),
            node("Add", ["x", "z"], ["y"]),
        ],
        [1],
        {"n": huge},
    )
    yield "empty", b"", "not an ONNX model"
    yield "text", b"this is text, not a protocol buffer", "not an ONNX model"
    yield "half", good[: len(good) // 2], "not an ONNX model"
    yield "bomb", bomb.SerializeToString(), None
    for name, settings in {
        "stride0": {"strides": [0, 0]},
        "far": {"strides": [2**40, 1]},
        "short": {"pads": [1]},
        "odd": {"auto_pad": "SAME"},
        "kernel": {"dilations": [2**33, 2**33]},
    }.items():
        model = transposed(3, 1)
        del model.graph.node[0].attribute[:]
        made = [helper.make_attribute(k, v) for k, v in settings.items()]
        model.graph.node[0].attribute.extend(made)
        yield name, model.SerializeToString(), None
    lost = transposed(4, 2)
    lost.graph.initializer[0].name = "elsewhere"
    yield "lost", lost.SerializeToString(), None


@pytest.mark.parametrize(("name", "content", "message"), damaged())
def test_bad_files_get_one_line_or_are_not_checked(tmp_path, name, content, message):
    path = tmp_path / f"{name}.onnx"
    path.write_bytes(content)
    result = CliRunner().invoke(main, ["layers", str(path), "--json"])
    if message:
        assert result.exit_code == 1
        assert result.output.startswith("Error: ") and message in result.output
        assert len(result.output.splitlines()) == 1
    else:
        layers = json.loads(result.output)["layers"]
        assert not any(layer["checked"] and layer["strides"] for layer in layers)


def test_weights_in_another_file_are_not_read(tmp_path):
    """The name of that file may be any path; the shape of the weights is enough."""
    model = transposed(4, 2, auto_pad="SAME_UPPER")
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, "../../../etc/passwd")
    tensor.ClearField("raw_data")
    path = tmp_path / "outside.onnx"
    path.write_bytes(model.SerializeToString())
    (audit,) = audit_onnx(load_onnx(path))
    assert audit.as_predicted and audit.params == 3 * 4 * 16
    out = tmp_path / "other" / "new.onnx"
    out.parent.mkdir()
    result = CliRunner().invoke(
        main, ["layers", str(path), "--explicit-pads", str(out)]
    )
    assert result.exit_code == 1 and "whose weights lie there" in result.output


def test_options_of_keras_are_refused(tmp_path):
    path = tmp_path / "one.onnx"
    onnx.save(transposed(4, 2), path)
    for option in (
        ["--lines"],
        ["--framework", "torch"],
        ["--kernel-size", "3"],
        ["--size", "8"],
    ):
        result = CliRunner().invoke(main, ["layers", str(path), *option])
        assert result.exit_code == 1 and "belong to Keras" in result.output
    result = CliRunner().invoke(main, ["layers", "resize", "--explicit-pads", "x.onnx"])
    assert result.exit_code == 1 and "belongs to an ONNX file" in result.output


def test_macs_do_not_depend_on_groups():
    whole, parts = (
        audit_onnx(
            one_node(
                "Conv",
                [1, 4, 5, 5],
                {"w": np.ones((4, 4 // group, 3, 3), np.float32)},
                group=group,
            )
        )[0]
        for group in (1, 4)
    )
    assert whole.macs == math.prod((3, 3, 9, 4, 4)) and parts.macs == whole.macs // 4


def decoder():
    """A model with one node of each kind that sizes are computed by."""
    node = helper.make_node
    weights = {
        "shape": np.array([-1, 2, 4, 4], np.int64),
        "w": np.ones((2, 3, 4, 4), np.float32),
        "b": np.ones(3, np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    nodes = [
        node("Shape", ["x"], ["n"]),
        node("Reshape", ["x", "shape"], ["a"]),
        node("ConvTranspose", ["a", "w", "b"], ["c"], strides=[2, 2], pads=[1] * 4),
        node("Resize", ["c", "", "scales"], ["d"], mode="nearest"),
        node("MaxPool", ["d"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    return make_model(nodes, ["batch", 32], weights)


def test_no_damage_of_a_file_ends_in_a_traceback(tmp_path):
    good, path = decoder().SerializeToString(), tmp_path / "x.onnx"
    assert all(audit.as_predicted for audit in audit_onnx(onnx.load_from_string(good)))
    random = np.random.default_rng(0)
    read = 0
    for _ in range(600):
        damaged = bytearray(good)
        for place in random.integers(0, len(good), random.integers(1, 4)):
            damaged[place] = random.integers(0, 256)
        path.write_bytes(bytes(damaged))
        try:
            audit_onnx(load_onnx(path))
            read += 1
        except ValueError as error:
            assert "not an ONNX model" in str(error)
    assert 100 < read < 600


def test_the_table_of_conflicts_is_what_the_tools_say():
    page = (Path(__file__).parents[3] / "docs" / "conflicts.md").read_text("utf-8")
    program = page.partition("```python\n")[2].partition("```")[0]
    names: dict = {}
    exec(program.rpartition("\nprint(")[0], names)
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) > 10
    for node, sizes, *stated, _ in rows:
        size, taps = map(int, sizes.split(", "))
        assert names["say"](node.strip("|` "), size, taps) == stated, node
