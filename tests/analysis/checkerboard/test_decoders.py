"""The upsampling that was given uneven taps is the one that the probe names."""

import json
import warnings

import keras
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper

from analysis.__main__ import main
from analysis.checkerboard.decoders import (
    KerasDecoder,
    group_spread,
    normalized,
    probe_levels,
)
from analysis.checkerboard.onnx_decoder import OnnxDecoder

FLOAT = onnx.TensorProto.FLOAT
WEAK = 0.05  # unevenness of the other upsamplings, as a share of the planted one's
NUM_DECODERS = 100


class Builder:
    """An ONNX decoder that is put together node by node."""

    def __init__(self, rng, num_channels, side=4):
        self.rng, self.nodes, self.weights = rng, [], []
        self.num_channels, self.tensor, self.levels = num_channels, "z", []
        self.input = helper.make_tensor_value_info(
            "z", FLOAT, [None, num_channels, side, side]
        )

    def add(self, kind, *weights, **attributes):
        name = f"{kind}{len(self.nodes)}"
        names = []
        for index, weight in enumerate(weights):
            names.append(f"{name}_{index}" if weight is not None else "")
            if weight is not None:
                tensor = numpy_helper.from_array(weight, names[-1])
                self.weights.append(tensor)
        inputs = [self.tensor, *names]
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        self.tensor = name
        return name

    def convolve(self, filters):
        shape = filters, self.num_channels, 3, 3
        kernel = self.rng.normal(0, (9 * self.num_channels) ** -0.5, shape)
        self.add("Conv", kernel.astype(np.float32), pads=[1] * 4)
        self.num_channels = filters

    def upsample(self, unevenness):
        """Doubles the map; 0: with equal phases, 1: with phases of independent taps."""
        taps = int(self.rng.choice([2, 4, 5]))
        shape = self.num_channels, self.num_channels, taps, taps
        kernel = self.rng.normal(0, self.num_channels**-0.5 / taps, shape)
        phases = [kernel[:, :, r::2, c::2].sum((2, 3)) for r in (0, 1) for c in (0, 1)]
        mean = np.mean(phases, axis=0)
        for index, phase in enumerate(phases):
            own = kernel[:, :, index // 2 :: 2, index % 2 :: 2]
            own += (1 - unevenness) * (mean - phase)[..., None, None] / own[0, 0].size
        total = taps - 2
        pads = [total // 2, total // 2, total - total // 2, total - total // 2]
        self.levels.append(
            self.add(
                "ConvTranspose", kernel.astype(np.float32), strides=[2, 2], pads=pads
            )
        )

    def resize(self):
        scales = np.array([1, 1, 2, 2], np.float32)
        mode = str(self.rng.choice(["nearest", "linear"]))
        self.levels.append(self.add("Resize", None, scales, mode=mode))

    def activate(self):
        if self.rng.random() < 0.5:
            ones = np.ones(self.num_channels, np.float32)
            self.add("InstanceNormalization", ones, 0.3 * ones)
        self.add(str(self.rng.choice(["Relu", "LeakyRelu", "Elu", "Tanh"])))

    def model(self):
        output = helper.make_tensor_value_info(self.tensor, FLOAT, None)
        graph = helper.make_graph(
            self.nodes, "decoder", [self.input], [output], self.weights
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10
        )


def random_decoder(seed):
    """A decoder of two to four levels, and the name of the uneven upsampling."""
    rng = np.random.default_rng(seed)
    builder = Builder(rng, int(rng.integers(4, 9)))
    count = int(rng.integers(2, 5))
    planted = int(rng.integers(count))
    builder.convolve(int(rng.integers(4, 9)))
    for level in range(count):
        builder.activate()
        if level == planted:
            builder.upsample(1.0)
        elif rng.random() < 0.5:
            builder.upsample(WEAK)
        else:
            builder.resize()
        builder.activate()
        builder.convolve(int(rng.integers(4, 9)))
    builder.activate()
    builder.convolve(3)
    builder.add("Tanh")
    return builder.model(), builder.levels[planted]


def probed(model, num_inputs=16):
    decoder = OnnxDecoder(model)
    shape = (num_inputs, *decoder.input_shape(4))
    inputs = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return probe_levels(decoder, inputs, (-1, 1)).readings


def worst(readings):
    return max(readings, key=lambda reading: reading.pattern_levels.value)


def num_right(seeds):
    cases = [random_decoder(seed) for seed in seeds]
    return sum(worst(probed(model)).names == (name,) for model, name in cases)


def test_the_uneven_upsampling_is_named():
    assert num_right(range(10)) >= 9


@pytest.mark.slow  # about a minute; on 2026-11-27 it was 98
def test_the_uneven_upsampling_is_named_in_95_of_100_random_decoders():
    assert num_right(range(NUM_DECODERS)) >= 95


@pytest.mark.slow  # about a minute; on 2026-11-27 it was 83
def test_normalised_constant_maps_would_fool_the_probe(monkeypatch):
    """The negative control: normalisation by the pattern's own spread."""
    monkeypatch.setattr(OnnxDecoder, "_keep_spread", lambda *_: None)
    assert num_right(range(NUM_DECODERS)) < 90


def hand_worked(factor, *, as_reductions=False, norm=False):
    """One channel, doubled by the taps 1, 1, 1 and `factor`, then shown as it is."""
    builder = Builder(np.random.default_rng(0), 1)
    if norm:
        add_norm(builder, as_reductions)
        builder.add("Elu")  # normalised maps have the mean 0, which has no pattern
    kernel = np.array([[[[1, 1], [1, factor]]]], np.float32)
    builder.levels.append(builder.add("ConvTranspose", kernel, strides=[2, 2]))
    if norm:
        add_norm(builder, as_reductions)
    return builder.model()


def add_norm(builder, as_reductions):
    if not as_reductions:
        ones = np.ones(1, np.float32)
        builder.add("InstanceNormalization", ones, 0 * ones, epsilon=1e-3)
        return
    source, name = builder.tensor, f"norm{len(builder.nodes)}"
    axes = {"axes": [2, 3], "keepdims": 1}
    for kind, inputs, output, options in (
        ("ReduceMean", [source], "mean", axes),
        ("Sub", [source, "mean"], "centred", {}),
        ("Mul", ["centred", "centred"], "square", {}),
        ("ReduceMean", ["square"], "variance", axes),
        ("Add", ["variance", "epsilon"], "sum", {}),
        ("Sqrt", ["sum"], "deviation", {}),
        ("Div", ["centred", "deviation"], "out", {}),
    ):
        inputs = [i if i == source else name + i for i in inputs]
        builder.nodes.append(helper.make_node(kind, inputs, [name + output], **options))
    epsilon = numpy_helper.from_array(np.float32([1e-3]), f"{name}epsilon")
    builder.weights.append(epsilon)
    builder.tensor = f"{name}out"


def test_a_pattern_worked_out_by_hand():
    """The phases of a map of mean m are m, m, m and 1.5 m."""
    inputs = np.random.default_rng(0).standard_normal((9, 1, 4, 4))
    decoder = OnnxDecoder(hand_worked(1.5))
    (reading,) = probe_levels(decoder, inputs.astype(np.float32), (0, 1)).readings
    means = inputs.mean(axis=(1, 2, 3))
    expected = 255 * np.sqrt((means**2).mean()) * 0.5 * np.sqrt(3) / 4
    assert reading.pattern_levels.value == pytest.approx(expected, rel=1e-5)
    assert reading.pattern_levels.low < expected < reading.pattern_levels.high
    found = reading.stage, reading.stride, reading.period, reading.share
    assert found == (1, 2, 2, 1)
    even = probed(hand_worked(1.0))[0]
    assert not even.found and even.pattern_levels.value < 1e-3


def test_both_ways_to_write_a_normalisation_read_the_same():
    numbers = [
        probed(hand_worked(1.5, norm=True, as_reductions=way))[0].pattern_levels.value
        for way in (False, True)
    ]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-4) and numbers[0] > 0.01


def test_a_kept_spread_is_that_of_the_layer():
    maps = np.random.default_rng(0).normal(1, 2, (3, 5, 5, 6)).astype(np.float32)
    for groups in (2, -1):
        layer = keras.layers.GroupNormalization(groups)
        layer.build(maps.shape)
        layer.gamma.assign(np.arange(6) + 1.0)
        layer.beta.assign(np.arange(6) - 3.0)
        got = normalized(layer, maps, *group_spread(layer, maps))
        np.testing.assert_allclose(got, layer(maps), atol=1e-4)


def small_generator():
    layers = keras.layers
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(3 * 16),
            layers.Reshape((4, 4, 3)),
            layers.Conv2DTranspose(4, 5, 2, padding="same"),
            layers.LeakyReLU(),
            layers.Conv2DTranspose(1, 4, 2, padding="same", activation="tanh"),
        ]
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same model as a .keras and an .onnx file."""
    pytest.importorskip("tf2onnx")
    folder, model = tmp_path_factory.mktemp("files"), small_generator()
    model.save(folder / "g.keras")
    model(np.zeros((1, 6), np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.export(folder / "g.onnx", format="onnx", verbose=False)
    return folder


def probe(*args):
    return CliRunner().invoke(main, ["probe", *map(str, args)])


def test_a_keras_file_and_its_onnx_file_read_the_same(files):
    keras_file, onnx_file = (
        json.loads(probe(files / f, "--json").stdout)["upsamplings"]
        for f in ("g.keras", "g.onnx")
    )
    assert [row["period"] for row in keras_file] == [4, 2]
    for a, b in zip(keras_file, onnx_file, strict=True):
        assert a["found"] and (a["period"], a["stride"]) == (b["period"], b["stride"])
        ours, theirs = (x["pattern_levels"]["value"] for x in (a, b))
        assert ours == pytest.approx(theirs, rel=1e-3)


def test_growth_that_no_known_node_makes_is_told(tmp_path):
    builder = Builder(np.random.default_rng(0), 3)
    builder.upsample(1)
    onnx.save(builder.model(), tmp_path / "known.onnx")
    for _ in "columns", "rows":
        builder.add("Unsqueeze", np.array([4]))
        builder.add("Tile", np.array([1, 1, 1, 1, 2]))
        builder.add("Reshape", np.array([0, 0, 0, -1]))
        builder.add("Transpose", perm=[0, 1, 3, 2])
    onnx.save(builder.model(), tmp_path / "repeated.onnx")
    text = probe(tmp_path / "repeated.onnx").stdout
    assert "on, and the layers above make 2 of it" in text
    assert "grow" not in probe(tmp_path / "known.onnx").stdout


def test_a_resize_with_uneven_neighbours_is_not_blamed(tmp_path):
    builder = Builder(np.random.default_rng(0), 3)
    builder.upsample(1)
    builder.resize()
    builder.convolve(3)
    first, second = probed(builder.model())
    assert first.found and first.share == pytest.approx(1) and not second.found


def test_the_sentence_names_the_largest_row(files):
    rows = json.loads(probe(files / "g.keras", "--json").stdout)["upsamplings"]
    most = max(rows, key=lambda row: row["pattern_levels"]["value"])
    sentence = f"{most['share']:.0%} of the power of these patterns comes from"
    assert f"{sentence} {most['names'][0]}" in probe(files / "g.keras").stdout
    assert sum(row["share"] for row in rows) == pytest.approx(1)


def test_inputs_from_a_file_take_the_place_of_random_ones(files, tmp_path):
    inputs = np.random.default_rng(7).standard_normal((64, 6)).astype(np.float32)
    np.save(tmp_path / "z.npy", inputs)
    args = files / "g.keras", "--json"
    given = probe(*args, "--input", tmp_path / "z.npy").stdout
    assert given == probe(*args, "--seed", 7).stdout != probe(*args).stdout
    np.save(tmp_path / "z.npy", inputs[:, 0])
    result = probe(*args, "--input", tmp_path / "z.npy")
    assert result.exit_code == 1
    assert "received (64,), expected (N, 6)" in result.stderr


def keras_model(*stack, shape=(4, 4, 3)):
    keras.utils.set_random_seed(3)
    return keras.Sequential([keras.Input(shape), *stack])


def read_keras(model, num_inputs=8):
    random = np.random.default_rng(0)
    inputs = random.standard_normal((num_inputs, *model.input_shape[1:]))
    return probe_levels(KerasDecoder(model), inputs.astype(np.float32), (-1, 1))


def transposed(name, filters=3, taps=4, strides=2, padding="same"):
    return keras.layers.Conv2DTranspose(filters, taps, strides, padding, name=name)


def test_a_layer_that_is_called_twice_is_two_upsamplings():
    shared = transposed("shared")
    model = keras_model(shared, shared)
    rows = read_keras(model).readings
    apart = keras_model(transposed("a"), transposed("b"))
    for layer in apart.layers:
        layer.set_weights(shared.get_weights())
    expected = read_keras(apart).readings
    assert [row.names for row in rows] == [("shared",), ("shared (2)",)]
    for row, other in zip(rows, expected, strict=True):
        assert row.pattern_levels == other.pattern_levels and row.stage == other.stage


def test_a_layer_of_stride_1_that_enlarges_is_no_upsampling():
    """As at the beginning of the DCGAN paper's generator: 1x1 to 4x4."""
    head = transposed("head", 8, 4, 1, "valid")
    found = read_keras(keras_model(head, transposed("up"), shape=(1, 1, 5)))
    assert [(row.names, row.period) for row in found.readings] == [(("up",), 2)]


def test_valid_padding_has_the_stride_of_the_layer():
    found = read_keras(keras_model(transposed("up", padding="valid")))
    assert [(row.stride, row.period) for row in found.readings] == [(2, 2)]


def test_a_wrapped_layer_is_probed():
    wrapped = keras.layers.SpectralNormalization(transposed("inner"), name="wrapped")
    (row,) = read_keras(keras_model(wrapped)).readings
    assert row.names == ("wrapped",) and row.found


def divide_by_spread(maps):
    """Instance normalisation by means over whole maps; `Mean` is Keras' operation."""
    mean = keras.ops.mean(maps, (1, 2), keepdims=True)
    square = keras.ops.mean(keras.ops.square(maps - mean), (1, 2), keepdims=True)
    return (maps - mean) / keras.ops.sqrt(square + 1e-3)


@pytest.mark.parametrize("way", ["layer", "operations"])
def test_a_weak_pattern_stays_weak_behind_a_normalisation(way):
    inputs = keras.Input((4, 4, 3))
    up = transposed("up", taps=2)
    maps = keras.layers.ReLU()(keras.layers.Conv2D(3, 3, padding="same")(inputs))
    norm = keras.layers.GroupNormalization(-1)
    outputs = norm(up(maps)) if way == "layer" else divide_by_spread(up(maps))
    model = keras.Model(inputs, outputs)
    even = np.ones((2, 2, 3, 3), np.float32)
    even[0, 0] *= 1.0001
    up.kernel.assign(even)
    (row,) = read_keras(model).readings
    assert row.found and row.pattern_levels.value < 0.1


def test_what_cannot_be_probed_leaves_the_rest():
    inputs = keras.Input((4, 4, 3))
    maps = transposed("first")(inputs)
    small = keras.layers.AveragePooling2D(2)(transposed("second")(maps))
    found = read_keras(keras.Model(inputs, small))
    assert [row.names for row in found.readings] == [("first",)]
    assert "later layers shrink its maps" in found.refused["second"]


def test_images_of_another_range_get_a_note(tmp_path):
    scale = keras.layers.Rescaling(127.5, 127.5)
    model = keras_model(transposed("up"), keras.layers.Activation("tanh"), scale)
    model.save(tmp_path / "m.keras")
    assert "--range states another range" in probe(tmp_path / "m.keras").stdout
    result = probe(tmp_path / "m.keras", "--range", 0, 255)
    assert result.exit_code == 0 and "note:" not in result.stdout


@pytest.mark.parametrize("values", [("1", "1"), ("1", "0"), ("nan", "1"), ("0", "inf")])
def test_a_range_that_is_none_gets_one_line(files, values):
    result = probe(files / "g.keras", "--range", *values)
    assert result.exit_code == 1 and "expected black below white" in result.stderr


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (np.zeros((4, 6), np.float32), ""),
        (np.zeros((4, 6), complex), "received 4 inputs of type complex128"),
        (np.full((4, 6), np.nan), "values that are not finite"),
        (np.zeros((1, 6)), "received 1 inputs"),
    ],
)
def test_any_file_of_inputs_gets_a_result_or_one_line(files, tmp_path, inputs, said):
    np.save(tmp_path / "z.npy", inputs)
    result = probe(files / "g.keras", "--input", tmp_path / "z.npy")
    assert result.exit_code == bool(said) and said in result.stderr
    assert said or "none of the upsamplings above makes" in result.stdout


def no_upsampling(folder):
    builder = Builder(np.random.default_rng(0), 3)
    builder.convolve(3)
    onnx.save(builder.model(), folder / "m.onnx")


def two_inputs(folder):
    builder = Builder(np.random.default_rng(0), 3)
    builder.upsample(1)
    model = builder.model()
    model.graph.input.append(helper.make_tensor_value_info("label", FLOAT, [None, 1]))
    onnx.save(model, folder / "m.onnx")


def lost_weights(folder):
    builder = Builder(np.random.default_rng(0), 64)
    builder.upsample(1)
    options = {"save_as_external_data": True, "size_threshold": 0, "location": "w"}
    onnx.save(builder.model(), folder / "m.onnx", **options)
    (folder / "w").unlink()


def no_model(folder):
    (folder / "m.onnx").write_text("hello")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (no_upsampling, "no layer enlarges a map"),
        (two_inputs, "received the inputs z, label, expected one input"),
        (lost_weights, "its weights: "),
        (no_model, "not an ONNX model"),
    ],
)
def test_what_cannot_be_probed_gets_one_line(make, said, tmp_path):
    make(tmp_path)
    result = probe(tmp_path / "m.onnx")
    assert result.exit_code == 1 and said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_keras_file_that_runs_code_is_refused(tmp_path):
    inputs = keras.Input((6,))
    outputs = keras.layers.Lambda(lambda x: x)(keras.layers.Dense(4)(inputs))
    keras.Model(inputs, outputs).save(tmp_path / "m.keras")
    result = probe(tmp_path / "m.keras")
    assert result.exit_code == 1 and "Lambda" in result.stderr
