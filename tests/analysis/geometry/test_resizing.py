"""Exact coordinates and weights of resizes, against the frameworks themselves."""

import itertools
import random
import re
from dataclasses import astuple
from fractions import Fraction
from math import floor
from typing import get_args

import keras
import numpy as np
import pytest
import tensorflow as tf

from analysis.geometry.resizing import (
    KEYS,
    SHARPER,
    TABLE_STEPS,
    Coordinates,
    Resize,
    framework_calls,
    same_resizes,
)

WAYS = [("nearest", KEYS), ("bilinear", KEYS), ("bicubic", KEYS), ("bicubic", SHARPER)]
RULES = get_args(Coordinates)
KINDS = [(way, rule, a) for (way, a), rule in itertools.product(WAYS, RULES)]
SHAPES = [((3, 2), (4, 3)), ((1, 4), (7, 2)), ((6, 5), (3, 3))]


class Tabulated(Resize):
    """Rounds the distances of bicubic as the table of TensorFlow does."""

    def coordinate(self, n):
        x = super().coordinate(n)
        if self.interpolation != "bicubic":
            return x
        return floor(x) + Fraction(round((x - floor(x)) * TABLE_STEPS), TABLE_STEPS)


def resizes(shape, *kind):
    """The axes of a resize of `shape`, a pair of (size, factor)."""
    return [Resize(size, size * factor, *kind) for size, factor in shape]


def matrix(axis):
    found = np.zeros((axis.output_size, axis.input_size))
    for n, weights in enumerate(axis.table()):
        found[n, list(weights)] = [float(weight) for weight in weights.values()]
    return found


def computed_by(framework, call, x):
    """What a call printed by `explain` computes from a batch of images of a channel."""
    if framework == "PyTorch":
        import torch

        names = {"Upsample": torch.nn.Upsample}
        names["interpolate"] = torch.nn.functional.interpolate
        images = names["x"] = torch.from_numpy(x[:, None])
        found = eval(call, names)
        return (found(images) if callable(found) else found).numpy()[:, 0]
    if framework == "ONNX":
        return eval(call, {"Resize": lambda **settings: run_node(x, **settings)})
    names = {"UpSampling2D": keras.layers.UpSampling2D, "tf": tf, "x": x[..., None]}
    found = eval(call, names)
    return np.array(found(x[..., None]) if callable(found) else found)[..., 0]


def run_node(x, scales, **settings):
    """What onnxruntime computes for a Resize."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    from onnx import helper

    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], **settings)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "resize",
        [value("x", onnx.TensorProto.FLOAT, [None] * 4)],
        [value("y", onnx.TensorProto.FLOAT, [None] * 4)],
        [helper.make_tensor("scales", onnx.TensorProto.FLOAT, [4], scales)],
    )
    opsets = [helper.make_opsetid("", 19)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = runtime.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": x[:, None]})[0][:, 0]


def check_calls(kind, frameworks):
    """Each call computes its own weights, and is named if these are the resize's."""
    for shape in SHAPES:
        axes = resizes(shape, *kind)
        x = np.eye(axes[0].input_size * axes[1].input_size, dtype=np.float32)
        x = x.reshape(-1, axes[0].input_size, axes[1].input_size)
        exact = [matrix(axis) for axis in axes]
        expected = np.einsum("oh,nhw,pw->nop", exact[0], x, exact[1])
        seen = set()
        named = [
            re.split(" with | or |, but ", line)[1:] for line in same_resizes(axes)
        ]
        for framework, call, computed in framework_calls(axes):
            if framework not in frameworks:
                continue
            rounds = framework in ("Keras", "TensorFlow")
            rounded = [Tabulated(*astuple(a)) if rounds else a for a in computed]
            tables = [matrix(axis) for axis in rounded]
            got = computed_by(framework, call, x)
            own = np.einsum("oh,nhw,pw->nop", tables[0], x, tables[1])
            assert np.allclose(got, own, atol=3e-6), (call, axes)
            for axis, table in zip(computed, tables, strict=True):
                assert np.allclose(matrix(axis), table, atol=1e-3), (call, axis)
            same = np.allclose(got, expected, atol=3e-3 if rounds else 3e-6)
            if framework == "PyTorch" or framework not in seen:
                assert same == any(call in calls for calls in named), (call, axes)
            if same:
                seen.add(framework)


@pytest.mark.parametrize("kind", KINDS)
def test_the_named_calls_compute_the_same_and_the_others_do_not(kind):
    check_calls(kind, {"Keras", "TensorFlow", "ONNX"})


@pytest.mark.parametrize("kind", KINDS)
def test_the_named_calls_of_pytorch_compute_the_same(kind):
    pytest.importorskip("torch")
    check_calls(kind, {"PyTorch"})


def test_align_corners_by_hand_and_half_pixel_is_not_taken_for_it():
    axis = Resize(3, 5, "bilinear", "align-corners")
    half = Fraction(1, 2)
    assert [axis.coordinate(n) for n in range(5)] == [0, half, 1, 3 * half, 2]
    assert axis.table() == [
        {0: 1},
        {0: half, 1: half},
        {1: 1},
        {1: half, 2: half},
        {2: 1},
    ]
    x = np.eye(3, dtype=np.float32)[..., None, None]
    resize = tf.compat.v1.image.resize_bilinear
    got = resize(x, (5, 1), align_corners=True).numpy()[..., 0, 0].T
    other = Resize(3, 5, "bilinear")
    assert [other.coordinate(n) * 5 for n in range(5)] == [-1, 2, 5, 8, 11]
    assert np.allclose(got, matrix(axis))
    assert not np.allclose(got, matrix(other), atol=0.05)


@pytest.mark.parametrize(
    ("size", "factor", "rule"), [(24, 41, "asymmetric"), (59, 7, "align-corners")]
)
def test_single_precision_moves_some_pixels_of_nearest(size, factor, rule):
    """TensorFlow 1 reads a neighbour there, so its call is not named."""
    exact = Resize(size, size * factor, "nearest", rule)
    rounded = Resize(*astuple(exact)[:-1], in_float32=True)
    x = np.eye(size, dtype=np.float32)[..., None, None]
    got = tf.compat.v1.image.resize_nearest_neighbor(
        x, (size * factor, 1), align_corners=rule == "align-corners"
    ).numpy()[..., 0, 0]
    assert np.array_equal(got.T, matrix(rounded))
    assert not np.array_equal(got.T, matrix(exact))
    assert "resize_nearest_neighbor" not in "".join(same_resizes([exact, exact]))


def test_the_geometry_in_a_chain_computes_the_same():
    for (way, a), rule in itertools.product(WAYS, RULES):
        for size, factor in ((1, 2), (2, 3), (7, 2), (5, 4)):
            axis = Resize(size, size * factor, way, rule, a)
            if rule == "align-corners" or a == SHARPER:
                with pytest.raises(ValueError):
                    axis.geometry()
                continue
            geometry = axis.geometry()
            x = [random.Random(1).random() for _ in range(size)]
            assert np.allclose(geometry.apply(x), matrix(axis) @ x, atol=1e-3)
            assert geometry.shift_px == axis.shift_px
            assert geometry.output_size == axis.output_size
    with pytest.raises(ValueError, match="no constant stride"):
        Resize(3, 5).geometry()
