import importlib
import json
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from analysis.geometry import model_files
from analysis.geometry.audit import audit_model
from analysis.geometry.model_files import (
    ALLOWED,
    MAX_CONFIG_BYTES,
    ModelFileError,
    read_architecture,
)


def small_model():
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(7 * 7 * 2, activation="relu", kernel_regularizer="l2"),
            layers.Reshape((7, 7, 2)),
            layers.Conv2DTranspose(1, 5, 2, padding="same", activation="tanh"),
        ]
    )


def write_zip(path, config, **others):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", config)
        for name, text in others.items():
            archive.writestr(name, text)
    return path


def with_layer(module, class_name, config, **more):
    """The JSON of a model with one layer replaced by another."""
    model = json.loads(small_model().to_json())
    evil = {"module": module, "class_name": class_name, "config": config, **more}
    model["config"]["layers"].append({"registered_name": None, **evil})
    return model


def test_a_keras_file_and_its_json_give_the_same_audit(tmp_path):
    model = small_model()
    model.compile("adam", "mse")
    model.save(tmp_path / "m.keras")
    (tmp_path / "m.json").write_text(model.to_json())
    expected = [audit.output_shape for audit in audit_model(model)]
    for name in ("m.keras", "m.json"):
        audits = audit_model(read_architecture(tmp_path / name))
        assert [audit.output_shape for audit in audits] == expected
        assert all(audit.checked for audit in audits)


@pytest.mark.parametrize(
    "name",
    [
        "MobileNet",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("EfficientNetB0", "ResNet50", "DenseNet121", "InceptionV3")
        ),
    ],
)
def test_a_published_architecture_is_read(tmp_path, name):
    model = getattr(keras.applications, name)(weights=None, input_shape=(96, 96, 3))
    (tmp_path / "m.json").write_text(model.to_json())
    read = read_architecture(tmp_path / "m.json")
    assert read.count_params() == model.count_params()
    assert all(audit.checked for audit in audit_model(read))


HOSTILE = {
    "Lambda": ("keras.layers", "Lambda", {"function": {"class_name": "__lambda__"}}),
    "TFSMLayer": ("keras.layers", "TFSMLayer", {"filepath": "/tmp"}),
    "TorchModuleWrapper": ("keras.layers", "TorchModuleWrapper", {"module": ""}),
    "StringLookup": ("keras.layers", "StringLookup", {"vocabulary": "/etc/passwd"}),
    "system": ("os", "system", {}),
    "enable_unsafe_deserialization": (
        *("keras.config", "enable_unsafe_deserialization", {}),
    ),
    "get_file": ("keras.utils", "get_file", {"origin": "file:///etc/passwd"}),
    "MyLayer": ("my_package.layers", "MyLayer", {}),
    "Conv2D": ("keras.src.layers.convolutional.conv2d", "Conv2D", {}),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("form", ["json", "keras"])
def test_a_class_that_is_not_listed_is_refused_by_name(tmp_path, name, form):
    text = json.dumps(with_layer(*HOSTILE[name]))
    path = tmp_path / f"m.{form}"
    if form == "json":
        path.write_text(text)
    else:
        write_zip(path, text)
    with pytest.raises(ModelFileError, match=name) as caught:
        read_architecture(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "activation",
    [
        "os.system",
        {"module": "os", "class_name": "function", "config": "system"},
        {"module": "builtins", "class_name": "function", "config": "system"},
        {"module": "os", "config": "system", "registered_name": "system"},
        {"class_name": "__lambda__", "config": {"value": "4wAAAA=="}},
    ],
)
def test_a_function_as_activation_is_refused_and_not_run(tmp_path, activation):
    config = {"units": 3, "activation": activation}
    path = tmp_path / "m.json"
    path.write_text(json.dumps(with_layer("keras.layers", "Dense", config)))
    with pytest.raises(ModelFileError, match="not allowed"):
        read_architecture(path)


def test_a_name_registered_by_this_process_is_not_reached(tmp_path):
    ran = []

    @keras.saving.register_keras_serializable("hostile")
    class Registered(layers.Layer):
        def __init__(self, **kwargs):
            ran.append(kwargs)
            super().__init__()

    for key in ("hostile>Registered", "Dense"):
        path = tmp_path / "m.json"
        node = with_layer("keras.layers", "Registered", {}, registered_name=key)
        path.write_text(json.dumps(node))
        with pytest.raises(ModelFileError, match="Registered"):
            read_architecture(path)
        node = with_layer("keras.layers", "ReLU", {}, registered_name=key)
        path.write_text(json.dumps(node))
        with pytest.raises(ModelFileError, match=key):
            read_architecture(path)
    assert ran == []


KERAS_2 = Path(__file__).parent / "keras2"  # `to_json` of tf_keras 2.21 and older


@pytest.mark.reported
@pytest.mark.parametrize(
    ("name", "params", "shape"),
    [
        ("generator", 41_685, (28, 28, 1)),  # BatchNormalization(axis=[3]), alpha
        ("unet", 271, (16, 16, 3)),  # depthwise and separable layers with groups
        ("nested", 84, (8, 8, 3)),  # calls of a nested model, counted from 1
        ("version_2_15", 804, (14, 14, 4)),
        ("version_2_2", 80, (18, 18, 8)),  # no modules, no input layer
    ],
)
@pytest.mark.parametrize("form", ["json", "keras"])
def test_models_of_keras_2_are_read(tmp_path, name, params, shape, form):
    path = KERAS_2 / f"{name}.json"
    if form == "keras":  # tf.keras 2.15 names the module of the model here
        text = path.read_text()
        engine = '{"module": "keras.src.engine.functional", "class_name": "Functional"'
        text = text.replace('{"class_name": "Functional"', engine)
        path = write_zip(tmp_path / "m.keras", text)
    model = read_architecture(path)
    assert (model.count_params(), model.output_shape) == (params, (None, *shape))
    audits = audit_model(model)
    assert audits and all(audit.as_predicted for audit in audits)


def test_a_saved_model_states_its_layers_or_says_what_to_do(tmp_path):
    audits = audit_model(read_architecture(KERAS_2 / "saved_model"))  # tf_keras 2.21
    assert [audit.type for audit in audits] == [
        "Conv2D",
        "Conv2DTranspose",
        "Concatenate",
    ]
    assert all(audit.as_predicted for audit in audits)
    metadata = (KERAS_2 / "saved_model" / "keras_metadata.pb").read_bytes()
    own = metadata.replace(b'"class_name": "Functional"', b'"class_name": "Own"')
    for number, content in enumerate((own, metadata[:900], b"", None)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "saved_model.pb").touch()
        if content is not None:
            (folder / "keras_metadata.pb").write_bytes(content)
        with pytest.raises(ModelFileError, match="SavedModel|not a Keras") as caught:
            read_architecture(folder)
        assert "\n" not in str(caught.value)


def test_each_call_of_a_nested_model_of_keras_2_is_found():
    """Counted from 0, the third call would get the second one's output twice."""
    model = read_architecture(KERAS_2 / "nested.json")
    block, add = model.get_layer("block"), model.layers[-1]
    outputs = [node.output_tensors[0] for node in block._inbound_nodes[-3:]]
    inputs = [node.input_tensors[0] for node in block._inbound_nodes[-3:]]
    assert inputs[2] is outputs[1]
    assert add._inbound_nodes[0].input_tensors == [outputs[0], outputs[2]]


def edited_keras_2(tmp_path, name, edit):
    model = json.loads((KERAS_2 / f"{name}.json").read_text())
    edit(model["config"])
    path = tmp_path / "m.json"
    path.write_text(json.dumps(model))
    return path


def test_groups_that_mean_something_are_not_dropped(tmp_path):
    def edit(config):
        config["layers"][1]["config"]["groups"] = 2

    path = edited_keras_2(tmp_path, "version_2_15", edit)
    with pytest.raises(ModelFileError) as caught:
        read_architecture(path)
    reason = "Conv2DTranspose: Unrecognized keyword arguments passed to Conv2DTranspose"
    assert f"{reason}: {{'groups': 2}}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_operation_of_tf_keras_2_is_not_checked_and_the_rest_is(tmp_path):
    def edit(config):  # the operations at the end have no stated size
        del config["layers"][4:]
        config["output_layers"] = [["conv2d_6", 0, 0]]

    path = edited_keras_2(tmp_path, "ops", edit)
    audits = audit_model(read_architecture(path))
    assert [(a.type, a.checked) for a in audits] == [
        ("Conv2D", True),
        ("TFOpLambda", False),
        ("Conv2D", True),
    ]
    assert audits[1].output_shape == (None, 16, 16, 3)
    assert "not read from the file" in audits[1].reason
    with pytest.raises(ModelFileError, match="put a layer behind it"):
        read_architecture(KERAS_2 / "ops.json")


class Unknown(layers.Layer):
    """A layer of the user's own, which no reader of a file has."""

    def __init__(self, num_outputs=1, **options):
        super().__init__(**options)
        self.num_outputs = num_outputs

    def call(self, inputs, other=None):
        x = inputs[:, ::2] if other is None else inputs + other
        return x if self.num_outputs == 1 else [x] * self.num_outputs

    def get_config(self):
        return {**super().get_config(), "num_outputs": self.num_outputs}


def unknown_inside():
    """Models with a layer of the user's own somewhere in the middle."""
    inputs = keras.Input((8, 8, 3))
    conv = layers.Conv2D(3, 3, padding="same")
    yield keras.Model(inputs, layers.Conv2D(2, 1)(Unknown()(conv(inputs))))
    a, b = Unknown(2)(inputs)
    yield keras.Model(inputs, layers.Concatenate()([conv(b), a]))
    joined = Unknown()(conv(inputs), other=layers.ReLU()(inputs))
    yield keras.Model(inputs, layers.Flatten()(joined))
    yield keras.Sequential([inputs, Unknown(), layers.ReLU(), layers.Conv2D(2, 1)])
    nested = keras.Sequential([inputs, Unknown(), layers.Conv2D(2, 1)])
    yield keras.Sequential([inputs, conv, nested, layers.ReLU()])
    shared = Unknown()
    yield keras.Model(
        inputs, layers.Add()([conv(shared(inputs)), shared(conv(inputs))])
    )


@pytest.mark.reported
def test_a_layer_that_is_not_listed_is_not_checked_and_the_rest_is(tmp_path):
    for model in unknown_inside():
        path = tmp_path / "m.keras"
        model.save(path)
        read = audit_model(read_architecture(path))
        for audit, mine in zip(read, audit_model(model), strict=True):
            shapes = audit.name, audit.type, audit.input_shape, audit.output_shape
            expected = mine.name, mine.type, mine.input_shape, mine.output_shape
            assert shapes == expected
            assert audit.as_predicted == (audit.type != "Unknown")


def test_a_layer_that_is_not_listed_is_refused_where_its_size_is_not_stated(tmp_path):
    inputs = keras.Input((8, 8, 3))
    path = tmp_path / "m.keras"
    keras.Model(inputs, Unknown()(inputs)).save(path)
    with pytest.raises(ModelFileError, match="'Unknown'.*put a layer behind it"):
        read_architecture(path)


@pytest.mark.parametrize("name", ["Lambda", "TFSMLayer", "system", "get_file"])
def test_a_hostile_layer_is_refused_in_the_middle_too(tmp_path, name):
    """Here its output size is stated."""
    model = with_layer(*HOSTILE[name])
    last = model["config"]["layers"].pop()
    model["config"]["layers"].insert(3, last)
    path = tmp_path / "m.json"
    path.write_text(json.dumps(model))
    with pytest.raises(ModelFileError, match=f"'{name}'.*is not allowed: "):
        read_architecture(path)


def test_operations_of_keras_are_read(tmp_path):
    inputs = keras.Input((8, 8, 6))
    x = keras.ops.concatenate([inputs[..., :3], inputs[:, ::-1, :, 3:]], axis=-1)
    x = keras.ops.reshape(layers.Conv2D(4, 3)(x), (-1, 12, 12))
    model = keras.Model(inputs, keras.ops.tanh(x))
    (tmp_path / "m.json").write_text(model.to_json())
    assert read_architecture(tmp_path / "m.json").output_shape == (None, 12, 12)


def test_every_name_that_is_listed_exists():
    for module, names in ALLOWED.items():
        for name in names:
            assert hasattr(importlib.import_module(module), name), (module, name)


@pytest.mark.reported
def test_a_file_of_weights_is_not_taken_for_a_model(tmp_path):
    path = tmp_path / "only.weights.h5"
    small_model().save_weights(path)
    with pytest.raises(ModelFileError, match="without the layers of a model: build"):
        read_architecture(path)


@pytest.mark.reported
def test_a_model_in_an_hdf5_file_is_read_as_from_json(tmp_path):
    """As Keras 3 writes it, and as Keras 2 did; a class that is not allowed is not."""
    model = small_model()
    model.save(tmp_path / "three.h5")
    old = json.loads(model.to_json())
    del old["module"]
    old["config"]["layers"][2]["config"]["name"] = "an é"
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file.attrs["model_config"] = json.dumps(old)
        file["weights"] = np.zeros(1000)
    expected = [(a.type, a.output_shape, a.checked) for a in audit_model(model)]
    for name in ("three.h5", "two.h5"):
        audits = audit_model(read_architecture(tmp_path / name))
        assert [(a.type, a.output_shape, a.checked) for a in audits] == expected
    old["class_name"] = "Evil"
    text = json.dumps(old)
    with h5py.File(tmp_path / "evil.h5", "w") as file:
        file.attrs["model_config"] = text * 40
    with pytest.raises(ModelFileError, match="without the layers of a model"):
        read_architecture(tmp_path / "evil.h5")


@pytest.mark.reported
def test_no_message_names_the_module_none(tmp_path):
    model = json.loads(small_model().to_json())
    for layer in model["config"]["layers"]:
        del layer["module"]
    model["config"]["layers"][2] = {"class_name": "Mine", "config": {"name": "mine"}}
    path = tmp_path / "m.json"
    path.write_text(json.dumps(model))
    assert [a.checked for a in audit_model(read_architecture(path))] == [1, 0, 1]
    model["config"]["layers"].append(model["config"]["layers"].pop(2))
    path.write_text(json.dumps(model))
    with pytest.raises(ModelFileError, match="m.json: 'Mine' is not allowed"):
        read_architecture(path)


def test_too_many_parameters_are_refused_before_they_are_allocated(tmp_path):
    model = json.loads(small_model().to_json())
    model["config"]["layers"][1]["config"]["units"] = 2**20
    model["config"]["layers"][2]["config"]["target_shape"] = [2**20]
    model["config"]["layers"][3] = with_layer(
        "keras.layers", "Dense", {"units": 2**10, "name": "wide"}
    )["config"]["layers"][-1]
    path = tmp_path / "m.json"
    path.write_text(json.dumps(model))
    with pytest.raises(ModelFileError, match="parameters are too many"):
        read_architecture(path)


def test_bombs_are_refused(tmp_path):
    zeros = " " * (MAX_CONFIG_BYTES + 2)
    path = write_zip(tmp_path / "zip.keras", zeros + "{}")
    assert path.stat().st_size < 20_000
    with pytest.raises(ModelFileError, match="exceeds"):
        read_architecture(path)
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(ModelFileError, match="not a Keras architecture"):
        read_architecture(path)
    path.write_text(
        json.dumps(with_layer("keras.layers", "UpSampling2D", {"size": 2**30}))
    )
    with pytest.raises(ModelFileError, match="out of range"):
        read_architecture(path)


def test_other_formats_are_refused_in_one_line(tmp_path):
    (tmp_path / "m.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
    (tmp_path / "saved").mkdir()
    (tmp_path / "empty.keras").write_bytes(b"")
    (tmp_path / "cut.keras").write_bytes(b"PK\x03\x04" + bytes(40))
    write_zip(tmp_path / "list.keras", "[1, 2]")
    write_zip(tmp_path / "model.keras", json.dumps({"class_name": "MyModel"}))
    with zipfile.ZipFile(tmp_path / "none.keras", "w") as archive:
        archive.writestr("other.json", "{}")
    for name, words in {
        "m.h5": "HDF5",
        "saved": "folder",
        "empty.keras": "not a Keras architecture",
        "cut.keras": "not a Keras architecture",
        "list.keras": "expected one of Functional or Sequential",
        "model.keras": "'MyModel'",
        "none.keras": "without one config.json",
    }.items():
        with pytest.raises(ModelFileError, match=words) as caught:
            read_architecture(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(OSError):
        read_architecture(tmp_path / "absent.keras")


def test_weights_in_the_file_are_never_touched(tmp_path):
    path = write_zip(tmp_path / "m.keras", small_model().to_json())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model.weights.h5", b"not HDF5 at all")
        archive.writestr("../../escape.txt", "no")
    assert read_architecture(path).output_shape == (None, 14, 14, 1)
    assert not (tmp_path.parent.parent / "escape.txt").exists()


@pytest.mark.parametrize("name", ["small", "unknown", "nested", "ops", "version_2_2"])
def test_random_damage_never_raises_anything_else(tmp_path, name):
    models = {"small": small_model, "unknown": lambda: list(unknown_inside())[1]}
    if name in models:
        text = models[name]().to_json()
    else:
        text = (KERAS_2 / f"{name}.json").read_text()
    random = np.random.default_rng(0)
    path = tmp_path / "m.json"
    for _ in range(30):
        damaged = bytearray(text, "ascii")
        for place in random.integers(0, len(text), 4):
            damaged[place] = int(random.integers(32, 127))
        path.write_bytes(damaged)
        try:
            audit_model(read_architecture(path))
        except ModelFileError as error:
            assert "\n" not in str(error)


def test_sizes_that_a_file_leaves_open_can_be_given(tmp_path):
    """With channels first and last; an inner model keeps its own open sizes."""
    inner = keras.Sequential([keras.Input((None, None, 4)), layers.Conv2D(4, 3)])
    images = keras.Input((None, None, 3))
    x = layers.Conv2DTranspose(4, 5, 2, "same")(images)
    keras.Model(images, inner(x)).save(tmp_path / "open.keras")
    audits = audit_model(read_architecture(tmp_path / "open.keras"))
    assert not audits[0].checked and "not fixed" in audits[0].reason
    audits = audit_model(read_architecture(tmp_path / "open.keras", 7))
    assert audits[0].as_predicted and audits[0].output_shape == (None, 14, 14, 4)
    old = {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 3, None]}}
    odd = {"config": {"layers": [old, "odd", {"config": 3}, {}]}}
    model_files._fix_inputs(odd, 9)
    assert old["config"]["batch_input_shape"] == [None, 3, 9]
    model_files._fix_inputs({"config": []}, 9)
