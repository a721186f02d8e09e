import dataclasses
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from analysis.geometry import arithmetic, keras_layers, values
from analysis.geometry.audit import audit_model, audit_summary
from config.schema import ModelConfig
from gan.models import build_discriminator, build_generator


def by_name(audits):
    return {audit.name: audit for audit in audits}


def codes(audit):
    return [finding.code for finding in audit.findings]


def errors(audits):
    return [f for r in audits for f in r.findings if f.level == "error"]


def pads(audit):
    return [(axis.pad_before, axis.pad_after) for axis in audit.axes]


def assert_predicted(model):
    """Asserts that every layer was predicted as Keras built and computed it."""
    audits = audit_model(model)
    assert [r.name for r in audits if not r.checked] == []
    assert errors(audits) == []
    for audit in audits:
        assert audit.predicted_shape[1:] == audit.output_shape[1:]
    return by_name(audits)


def one_layer(layer, *shape):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layer(inputs))


def test_the_generators_pads_shift_and_cost():
    audits = assert_predicted(build_generator(ModelConfig()))
    stages = [audits[n] for n in ("stage1_conv", "stage2_upsample", "stage3_upsample")]
    assert [pads(r) for r in stages] == [[(2, 2)] * 2, [(1, 2)] * 2, [(1, 2)] * 2]
    assert [r.macs for r in stages] == [10_035_200, 5_017_600, 313_600]
    assert audits["base_dense"].macs == 627_200
    # Half a pixel in each doubling, the first one doubled: 2 * 0.5 + 0.5.
    height, _ = stages[-1].chain_by_axis
    assert arithmetic.chain_shift(height) == 1.5
    assert arithmetic.chain_output_field(height) == 29


def test_padding_by_input_size_is_reported_only_where_it_differs():
    audits = assert_predicted(build_generator(ModelConfig()))
    assert "I3" in codes(audits["stage2_upsample"])
    assert "I3" not in codes(audits["stage3_upsample"])
    text = next(f.text for f in audits["stage2_upsample"].findings if f.code == "I3")
    assert "crop (1, 2) follows from the output size 14" in text
    assert "it would be (2, 2) plus 1 of output padding" in text
    assert "1 px to the upper left" in text


def test_no_rule_of_same_padding_is_reported_for_a_valid_layer():
    layer = layers.Conv2DTranspose(1, 3, 3, padding="valid")
    (audit,) = audit_model(one_layer(layer, 7, 7, 1))
    assert set(codes(audit)) == {"I1", "I2"}


def test_the_all_ones_line_is_the_transform_of_the_overlap():
    audits = assert_predicted(build_generator(ModelConfig()))
    text = next(f.text for f in audits["stage3_upsample"].findings if f.code == "I1")
    assert "line at 1/2 cycles per pixel with 20 % of the mean" in text  # (3-2)/(3+2)
    even = audit_model(one_layer(layers.Conv2DTranspose(1, 6, 3), 4, 4, 1))
    (text,) = [f.text for f in even[0].findings if f.code == "I1"]
    assert text.endswith("a constant input gives no spectral line")


@pytest.mark.parametrize("upsample", ["resize-nearest", "resize-bilinear"])
def test_resize_generators_break_no_rule_of_the_doublings(upsample):
    audits = assert_predicted(build_generator(ModelConfig(upsample=upsample)))
    for name in ("stage2_upsample_resize", "stage2_upsample_conv"):
        assert set(codes(audits[name])) <= {"I2"}


def test_the_discriminator():
    audits = assert_predicted(build_discriminator(ModelConfig(minibatch_stddev=0)))
    assert pads(audits["stage1_conv"]) == [(1, 2)] * 2


def test_a_wrong_crop_is_caught_by_the_values(monkeypatch):
    right = keras_layers.arithmetic.conv_transpose_axis

    def wrong(*args):
        axis = right(*args)
        return dataclasses.replace(
            axis, pad_before=axis.pad_before + 1, pad_after=axis.pad_after - 1
        )

    monkeypatch.setattr(keras_layers.arithmetic, "conv_transpose_axis", wrong)
    found = errors(audit_model(build_generator(ModelConfig())))
    assert [f.code for f in found] == ["E7"] * 3
    assert all("(1, 1) px from the prediction" in f.text for f in found)


def test_a_wrong_size_is_caught_by_the_shape(monkeypatch):
    monkeypatch.setattr(
        keras_layers.arithmetic,
        "resize_axis",
        lambda i, f, kind: arithmetic.pad_axis(i, 0, 1),
    )
    model = one_layer(layers.UpSampling2D(2), 4, 4, 1)
    assert [f.code for f in errors(audit_model(model))] == ["E6"]


class Shifted(layers.Conv2DTranspose):
    """The right size, every value one row too low: PyTorch's crop."""

    def call(self, inputs):
        return keras.ops.roll(super().call(inputs), 1, axis=1)


class Scaled(layers.Conv2D):
    """Normalises its kernel: neither wrong nor predictable."""

    def call(self, inputs):
        return 0.5 * super().call(inputs)


def test_a_layer_that_computes_shifted_values_is_an_error():
    layer = Shifted(2, 5, 2, padding="same")
    (audit,) = audit_model(one_layer(layer, 7, 7, 3))
    (found,) = errors([audit])
    assert found.code == "E7"
    assert "(1, 0)" in found.text


def test_a_custom_layer_with_its_own_arithmetic_is_not_guessed():
    (audit,) = audit_model(one_layer(Scaled(2, 3), 7, 7, 3))
    assert not audit.checked
    assert "arithmetic of its own" in audit.reason
    assert errors([audit]) == []


class Mystery(layers.Layer):
    def __init__(self):
        super().__init__()
        self.inner = layers.Conv2D(3, 3, padding="same", name="inner")

    def call(self, inputs):
        return self.inner(inputs)[:, ::-1]


def test_an_unknown_layer_is_not_checked_and_its_parts_are_found():
    inputs = keras.Input((8, 8, 2))
    model = keras.Model(inputs, layers.ReLU()(Mystery()(inputs)))
    outer, inner, relu = audit_model(model)
    assert (outer.checked, outer.reason) == (False, "a custom layer")
    assert inner.name.endswith("/inner")
    assert inner.checked
    assert relu.checked
    assert relu.chain is None  # unknown behind a layer that is not known


@pytest.mark.parametrize("kernel", [2, 4, 6])
def test_an_infeasible_layer_is_flagged_without_running_it(kernel):
    layer = layers.Conv2DTranspose(1, kernel, 2, padding="same", output_padding=0)
    (audit,) = audit_model(one_layer(layer, 7, 7, 1))
    assert "E1" in codes(audit)
    assert audit.predicted_shape == (None, 12, 12, 1)


@pytest.mark.reported
def test_a_layer_that_cannot_run_does_not_count_as_predicted():
    layer = layers.Conv2DTranspose(1, 4, 2, padding="same", output_padding=0)
    audits = audit_model(one_layer(layer, 7, 7, 1))
    assert (audits[0].checked, audits[0].reason) == (False, "it cannot run")
    summary = audit_summary("m", audits)
    assert (summary["num_as_predicted"], summary["num_errors"]) == (0, 1)


def test_a_layer_with_an_error_does_not_count_as_predicted():
    audits = audit_model(one_layer(Shifted(2, 5, 2, padding="same"), 7, 7, 3))
    assert audits[0].checked
    assert audit_summary("m", audits)["num_as_predicted"] == 0


@pytest.mark.reported
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(
    ("strides", "dilation"),
    [(2, (3, 1)), (2, 2), (3, 2), (2, (1, 4)), ((1, 2), (2, 1)), ((3, 2), (2, 3))],
)
def test_depthwise_layers_with_stride_and_dilation(strides, dilation, padding):
    """Keras runs them with the padding of the input size, which the values confirm."""
    options = {"strides": strides, "dilation_rate": dilation, "padding": padding}
    for layer in (
        layers.DepthwiseConv2D(3, depth_multiplier=2, **options),
        layers.SeparableConv2D(5, (3, 2), **options),
        layers.DepthwiseConv2D(3, data_format="channels_first", **options),
    ):
        shape = (4, 14, 13) if layer.data_format == "channels_first" else (14, 13, 4)
        (audit,) = assert_predicted(one_layer(layer, *shape)).values()
        assert audit_summary("m", [audit])["num_as_predicted"] == 1


def test_the_pads_of_a_depthwise_layer_with_stride_and_dilation(monkeypatch):
    layer = layers.DepthwiseConv2D(3, 2, dilation_rate=(3, 1), padding="same")
    model = one_layer(layer, 14, 14, 8)
    (audit,) = audit_model(model)
    assert (audit.output_shape, pads(audit)) == ((None, 7, 7, 8), [(2, 3), (0, 1)])
    right = keras_layers.arithmetic.conv_axis

    def moved(*args):
        axis = right(*args)
        return dataclasses.replace(axis, pad_before=axis.pad_before + 1)

    monkeypatch.setattr(keras_layers.arithmetic, "conv_axis", moved)
    (audit,) = audit_model(model)
    assert "E7" in codes(audit)


def test_depthwise_layers_of_one_dimension():
    for kind, padding in itertools.product(
        (layers.DepthwiseConv1D, layers.SeparableConv1D), ("same", "valid")
    ):
        options = {"strides": 2, "dilation_rate": 3, "padding": padding}
        width = {} if kind is layers.DepthwiseConv1D else {"filters": 5}
        layer = kind(kernel_size=3, **width, **options)
        assert_predicted(one_layer(layer, 15, 4))


def test_unequal_strides_of_a_depthwise_layer_are_checked_where_they_run():
    """It depends on the processor whether TensorFlow has a kernel for them."""
    model = one_layer(layers.DepthwiseConv2D(3, (1, 2), padding="same"), 8, 8, 1)
    try:
        model(np.zeros((1, 8, 8, 1), np.float32))
    except tf.errors.InvalidArgumentError:
        (audit,) = audit_model(model)
        assert not audit.checked
        assert "did not run" in audit.reason
    else:
        assert_predicted(model)


def test_a_layer_that_does_not_run_is_not_checked():
    class Refuses(layers.Conv2D):
        def call(self, inputs):
            raise tf.errors.InvalidArgumentError(None, None, "no such kernel")

        def compute_output_spec(self, inputs):
            return keras.KerasTensor(self.compute_output_shape(inputs.shape))

    (audit,) = audit_model(one_layer(Refuses(1, 3, padding="same"), 8, 8, 1))
    assert not audit.checked
    assert "did not run" in audit.reason


@pytest.mark.reported
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_zeros_of_a_dilated_transposed_layer_are_listed(padding):
    layer = layers.Conv2DTranspose(1, 2, padding=padding, dilation_rate=(1, 5))
    (audit,) = audit_model(one_layer(layer, 6, 2, 1))
    (text,) = [f.text for f in audit.findings if f.code == "W10"]
    zeros = {"same": "2 of 2 positions (0, 1)", "valid": "3 of 7 positions (2, 3, 4)"}
    assert text.startswith(f"width: {zeros[padding]} are always zero")


def test_no_chain_is_followed_through_a_change_of_size():
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(2, 3, padding="same")(inputs)
    x = layers.Concatenate(axis=1)([x, x])
    up = layers.Conv2DTranspose(1, 4, 2, padding="same")
    audits = audit_model(keras.Model(inputs, up(x)))
    assert audits[-1].output_shape == (None, 32, 16, 1)
    assert (audits[-1].checked, audits[-1].chain) == (True, None)


def test_a_size_that_is_not_fixed_is_not_guessed():
    (audit,) = audit_model(one_layer(layers.Conv2D(2, 3), None, None, 3))
    assert (audit.checked, audit.reason) == (False, "its input size is not fixed")


def spatial_layers():
    """Layers of every known kind in 1, 2 and 3 dimensions, with odd parameters."""
    for dims, shape in ((1, (9, 2)), (2, (9, 6, 2)), (3, (5, 6, 4, 2))):
        kernel, stride = (3, 2, 4)[:dims], (2, 3, 1)[:dims]
        for padding in ("same", "valid"):
            conv = getattr(layers, f"Conv{dims}D")
            yield conv(4, kernel, stride, padding=padding, groups=2), shape
            yield conv(4, kernel, dilation_rate=2 - (dims == 3), padding=padding), shape
            transposed = getattr(layers, f"Conv{dims}DTranspose")
            yield transposed(3, kernel, stride, padding=padding), shape
            for pool in ("MaxPooling", "AveragePooling"):
                yield getattr(layers, f"{pool}{dims}D")(2, 1, padding=padding), shape
                yield getattr(layers, f"{pool}{dims}D")(3, 2, padding=padding), shape
        yield getattr(layers, f"UpSampling{dims}D")(2), shape
        yield getattr(layers, f"ZeroPadding{dims}D")(2), shape
        yield getattr(layers, f"Cropping{dims}D")(1), shape
        yield getattr(layers, f"GlobalMaxPooling{dims}D")(keepdims=True), shape
    yield layers.Conv1D(2, 3, padding="causal", dilation_rate=2), (9, 2)
    yield layers.Conv2DTranspose(2, 5, 3, padding="same", output_padding=1), (4, 5, 2)
    yield layers.Conv2DTranspose(2, (5, 1), (3, 1), padding="valid"), (4, 5, 2)
    yield layers.DepthwiseConv1D(3, 2, depth_multiplier=2), (9, 2)
    yield layers.DepthwiseConv2D((3, 5), 2, padding="same"), (9, 6, 2)
    yield layers.SeparableConv1D(4, 3, padding="same"), (9, 2)
    yield layers.SeparableConv2D(4, 3, 2, depth_multiplier=2), (9, 6, 2)
    yield layers.UpSampling2D((3, 2), interpolation="bilinear"), (5, 6, 2)
    yield layers.UpSampling2D((3, 2), interpolation="bicubic"), (5, 6, 2)
    yield layers.ZeroPadding2D(((0, 1), (2, 3))), (9, 6, 2)
    yield layers.Cropping2D(((0, 1), (2, 0))), (9, 6, 2)
    yield layers.Resizing(10, 18), (5, 6, 2)


@pytest.mark.parametrize(("layer", "shape"), spatial_layers())
def test_every_known_layer_is_predicted_value_by_value(layer, shape):
    (audit,) = assert_predicted(one_layer(layer, *shape)).values()
    assert audit.params == layer.count_params()


def test_depth_to_space_is_checked_value_by_value(monkeypatch):
    """Channel 2 r + c is row r, column c of the block; any other order is found."""
    inputs = keras.Input((3, 4, 8))
    model = keras.Model(inputs, keras.ops.depth_to_space(inputs, 2))
    (audit,) = audit_model(model)
    assert audit.checked and audit.predicted_shape == (None, 6, 8, 2)
    assert [axis.kind for axis in audit.axes] == ["shuffle", "shuffle"]
    assert [axis.taps_by_phase() for axis in audit.axes] == [(1, 1), (1, 1)]
    right = values.known_kernel
    monkeypatch.setattr(values, "known_kernel", lambda axes: right(axes).T)
    (audit,) = audit_model(model)
    assert [finding.code for finding in audit.findings] == ["E7", "I2"]


def test_reflected_borders_are_checked_value_by_value(monkeypatch):
    inputs = keras.Input((4, 5, 2))

    def audit_pad(*sides, mode="reflect"):
        sides = sides if len(sides) > 1 else sides[0]
        return audit_model(keras.Model(inputs, keras.ops.pad(inputs, sides, mode)))[0]

    audit = audit_pad((0, 0), (1, 2), (3, 0), (0, 0))
    assert audit.checked and not audit.findings and audit.chain is not None
    assert audit.predicted_shape == (None, 7, 8, 2)
    other = audit_pad((0, 0), (1, 2), (3, 0), (1, 1))
    assert other.reason == "it pads other axes than the spatial ones"
    # A single pair is for each axis; Keras keeps a number as such a pair.
    assert audit_pad(1).reason == other.reason
    assert audit_pad(0).predicted_shape == (None, 4, 5, 2)
    negative = audit_pad((0, 0), (-1, 0), (1, 1), (0, 0))
    assert negative.reason == "it reflects a negative number of pixels"
    assert [f.code for f in audit_pad((0, 0), (4, 0), (0, 0), (0, 0)).findings] == [
        "E4"
    ]
    flat = keras.ops.pad(layers.Flatten()(inputs), [(0, 0), (0, 0)], mode="reflect")
    assert not audit_model(keras.Model(inputs, flat))[-1].checked
    # What a constant pads with is an argument of the call, which is not read.
    assert not audit_pad((0, 0), (1, 2), (3, 0), (0, 0), mode="constant").checked
    tanh = layers.Conv2D(1, 1, activation="tanh")(inputs)
    framed = keras.ops.pad(tanh, [(0, 0), (1, 1), (1, 1), (0, 0)], "reflect")
    last = audit_model(keras.Model(inputs, framed), (6, 7, 1))[-1]
    assert last.checked and not last.findings  # no W8: the range stays that of tanh
    true = arithmetic.pad_axis
    monkeypatch.setattr(arithmetic, "pad_axis", lambda *a: true(*a[:3], "edge"))
    wrong = audit_pad((0, 0), (1, 2), (3, 0), (0, 0))
    assert [finding.code for finding in wrong.findings] == ["E7"]


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (layers.UpSampling2D(2, interpolation="lanczos3"), "lanczos3 interpolation"),
        (layers.Resizing(7, 4), "no enlargement by whole factors"),
        (layers.Resizing(10, 12, interpolation="area"), "area interpolation"),
        (layers.Resizing(10, 12, antialias=True), "antialias"),
        (layers.Resizing(10, 12, pad_to_aspect_ratio=True), "pad_to_aspect_ratio"),
    ],
)
def test_interpolations_without_a_geometry_are_checked_for_size_only(layer, why):
    (audit,) = audit_model(one_layer(layer, 5, 6, 2))
    assert audit.predicted_shape == audit.output_shape
    assert not audit.checked
    assert audit.reason == f"only its size is predicted: {why}"


def test_parameters_are_counted_once():
    """Neither again at each call of a shared layer, nor again inside a wrapper."""
    inputs = keras.Input((8, 8, 3))
    shared = layers.Conv2D(3, 1)
    wrapped = layers.SpectralNormalization(layers.Conv2D(4, 3))
    model = keras.Model(inputs, wrapped(shared(shared(inputs))))
    audits = audit_model(model)
    assert audit_summary("m", audits)["params"] == model.count_params()
    assert [audit.checked for audit in audits] == [True, True, False, True]


def test_a_recurrent_layer_is_not_checked():
    inputs = keras.Input((8, 3))
    audits = audit_model(keras.Model(inputs, layers.LSTM(4)(inputs)))
    assert not any(audit.checked for audit in audits)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.UpSampling2D(2**18), (8, 8, 1)),
        (layers.Conv2DTranspose(1, 1, 2**18), (8, 8, 1)),
        (layers.MaxPooling2D(3), (2**18, 2**18, 1)),
        (layers.Conv2D(1, 100), (2000, 2000, 1)),
    ],
)
def test_an_absurd_size_is_not_worked_through(layer, shape):
    (audit,) = audit_model(one_layer(layer, *shape))
    assert not audit.checked
    assert "more than" in audit.reason or "too many" in audit.reason


def test_a_u_net_with_skips():
    inputs = x = keras.Input((32, 24, 3))
    skips = []
    for width in (8, 16):
        x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    for width, skip in zip((16, 8), reversed(skips), strict=True):
        x = layers.Conv2DTranspose(width, 2, 2)(x)
        x = layers.Concatenate(name=f"join{width}")([x, skip])
        x = layers.Conv2D(width, 3, padding="same")(x)
    audits = assert_predicted(keras.Model(inputs, layers.Conv2D(1, 1)(x)))
    assert audits["join16"].output_shape == (None, 16, 12, 32)
    assert audits["join8"].chain is None  # branches that differ meet here


def test_no_chain_is_followed_through_a_global_pooling():
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(4, 3, 2, padding="same")(inputs)
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    audits = audit_model(keras.Model(inputs, layers.Conv2D(2, 1)(x)))
    last = audit_summary("m", audits)["layers"][-1]
    assert (last["checked"], last["total_shift_px"]) == (True, [])


def test_an_autoencoder_in_one_dimension_and_one_in_three():
    line = keras.Sequential(
        [
            keras.Input((64, 1)),
            layers.Conv1D(8, 5, 2, padding="same"),
            layers.BatchNormalization(),
            layers.UpSampling1D(2),
            layers.Conv1DTranspose(1, 7, 2, padding="same"),
        ]
    )
    assert_predicted(line)
    volume = keras.Sequential(
        [
            keras.Input((8, 9, 10, 1)),
            layers.Conv3D(4, (3, 1, 2), (2, 1, 1)),
            layers.AveragePooling3D((1, 3, 1), padding="same"),
            layers.Conv3DTranspose(2, (2, 3, 5), (2, 3, 1), padding="same"),
        ]
    )
    assert_predicted(volume)


def test_nested_models_and_shared_layers_are_named_by_call():
    block = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(3, 3, padding="same", name="conv")],
        name="block",
    )
    inputs = keras.Input((8, 8, 3))
    shared = layers.Conv2D(3, 1, name="shared")
    x = layers.Add(name="add")([shared(inputs), shared(block(inputs))])
    audits = audit_model(keras.Model(inputs, block(x)))
    assert sorted(r.name for r in audits) == [
        "add",
        "block/conv",
        "block/conv",
        "shared",
        "shared",
    ]
    assert all(r.checked for r in audits)
    assert errors(audits) == []


def test_channels_first_is_read_and_measured_as_channels_last():
    options = {"padding": "same", "data_format": "channels_first"}
    inputs = keras.Input((3, 10, 14))
    x = layers.Conv2D(4, (3, 5), 2, name="down", **options)(inputs)
    x = layers.Conv2DTranspose(2, 5, 2, name="up", **options)(x)
    x = layers.GlobalAveragePooling2D(data_format="channels_first")(x)
    audits = assert_predicted(keras.Model(inputs, x))
    assert audits["down"].output_shape == (None, 4, 5, 7)
    assert audits["up"].output_shape == (None, 2, 10, 14)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.up = layers.Conv2DTranspose(2, 5, 2, padding="same", name="up")
        self.head = keras.Sequential([layers.Conv2D(1, 3, name="conv")], name="head")

    def call(self, inputs):
        return self.head(self.up(inputs))


def test_a_subclassed_model_is_listed_once_it_was_called():
    model = Subclassed()
    assert all("call the model" in r.reason for r in audit_model(model))
    model(np.zeros((1, 7, 7, 3), np.float32))
    audits = by_name(audit_model(model))
    assert audits["up"].output_shape == (1, 14, 14, 2)
    assert audits["up"].checked
    assert audits["head/conv"].checked


def test_the_final_size_and_range_are_compared_with_the_images():
    generator = build_generator(ModelConfig(), image_size=32)
    assert "W7" in codes(audit_model(generator, (28, 28, 1))[-1])
    assert "W7" not in codes(audit_model(generator, (32, 32, 1))[-1])
    sigmoid = one_layer(layers.Activation("sigmoid"), 28, 28, 1)
    assert codes(audit_model(sigmoid, (28, 28, 1))[-1]) == ["W8"]
    assert codes(audit_model(sigmoid, (28, 28, None))[-1]) == ["W8"]


@pytest.mark.reported
@pytest.mark.parametrize(
    ("shape", "images", "expected"),
    [
        ((None, None, 3), (64, 64, None), []),
        ((None, None, 3), (64, 64, 1), ["W7"]),
        ((32, None, 3), (64, 64, None), ["W7"]),
        ((64, 64, 3), (64, 64, 3), []),
    ],
)
def test_a_size_that_is_only_unknown_is_not_called_wrong(shape, images, expected):
    (audit,) = audit_model(one_layer(layers.Activation("tanh"), *shape), images)
    assert codes(audit) == expected


def tanh_layer(name):
    return layers.Conv2D(1, 1, activation="tanh", name=name)


@pytest.mark.reported
def test_the_range_of_every_output_is_judged():
    inputs = keras.Input((8, 8, 2))
    head = keras.Sequential([keras.Input((8, 8, 2)), tanh_layer("conv")], name="head")
    outputs = {
        "good": layers.Reshape((8, 8, 1))(head(inputs)),
        "bad": layers.Conv2D(1, 1, activation="sigmoid", name="bad")(inputs),
        "scaled": layers.Rescaling(0.5, name="scaled")(tanh_layer("before")(inputs)),
        "operation": keras.ops.tanh(layers.Conv2D(1, 1, name="linear")(inputs)),
        "wrapped": layers.TimeDistributed(layers.Conv1D(1, 1, activation="tanh"))(
            inputs
        ),
        "custom": Mystery()(inputs),
        "relu": layers.ReLU(name="relu")(inputs),
    }
    audits = audit_model(keras.Model(inputs, outputs), (8, 8, 1))
    found = {
        audit.name: finding.text.split(" has ")[1].split(":")[0]
        for audit in audits
        for finding in audit.findings
        if finding.code == "W8"
    }
    assert found == {
        "bad": "activation sigmoid",
        "scaled": "no activation",
        "relu": "activation ReLU",
    }


def test_the_range_of_a_nested_head_is_not_that_of_the_layer_listed_last():
    """The output ends in tanh, a second head that is listed later does not."""
    body = keras.Sequential(
        [keras.Input((4, 4, 2)), layers.Conv2D(2, 3, padding="same")], name="body"
    )
    head = keras.Sequential([keras.Input((4, 4, 2)), tanh_layer("out")], name="head")
    model = keras.Sequential([keras.Input((4, 4, 2)), body, head])
    audits = audit_model(model, (4, 4, 1))
    assert not {"W7", "W8"} & {code for audit in audits for code in codes(audit)}
    swapped = keras.Sequential(
        [keras.Input((4, 4, 2)), layers.Conv2D(2, 1, activation="tanh"), body]
    )
    assert codes(audit_model(swapped, (4, 4, 2))[-1]) == ["W8"]


def test_a_branch_that_was_rearranged_does_not_start_at_the_first_map():
    """Attention between two reshapes can move any pixel anywhere."""
    inputs = keras.Input((8, 8, 4))
    tokens = layers.Reshape((64, 4))(inputs)
    joined = layers.Add()([inputs, layers.Reshape((8, 8, 4))(tokens)])
    for name, maps, is_known in (("first", inputs, True), ("joined", joined, False)):
        outputs = layers.Conv2DTranspose(1, 4, 2, "same")(maps)
        audits = audit_model(keras.Model(inputs, outputs, name=name))
        assert any(f.code == "I2" for f in audits[-1].findings) == is_known
