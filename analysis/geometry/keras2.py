"""Rewrites the architecture in a file of Keras 2, as JSON, into that of Keras 3.

Keras 3 reads most of what Keras 2 wrote. What it refuses is written anew here: classes
without a module, settings that only Keras 2 had, the input shape inside a first layer,
and the numbers of the calls of a nested model, which began at 1.
"""

import re
from typing import Any

from keras import layers

ENGINE = re.compile(r"(tf_)?keras\.(src\.)?engine\.")
SEQUENCES = ("__tuple__", "TensorShape")  # in a SavedModel
FUNCTIONAL = "keras.src.models.functional"
HOMES = {
    "initializer": "keras.initializers",
    "regularizer": "keras.regularizers",
    "constraint": "keras.constraints",
}


def modernize(node: Any, key: str = "") -> Any:
    """A copy of `node`, the JSON value of `key`, as Keras 3 would have written it."""
    if isinstance(node, list):
        return [modernize(item, key) for item in node]
    if not isinstance(node, dict):
        return node
    name, config = node.get("class_name"), node.get("config")
    if name in SEQUENCES and isinstance(node.get("items"), list):
        return [modernize(item, key) for item in node["items"]]
    if isinstance(name, str) and isinstance(config, dict | list):
        node = _object(node, name, config, key.rpartition("_")[2])
    return {k: modernize(value, k) for k, value in node.items()}


def _object(node: dict[str, Any], name: str, config: Any, role: str) -> dict[str, Any]:
    """One object in the form of Keras 3, its parts still in that of Keras 2."""
    old = "module" not in node
    if name == "Sequential":
        if isinstance(config, list):
            config = {"name": "sequential", "layers": config}
        shape = _get(config, "layers", 0, "config", "batch_input_shape")
        if shape and _get(config, "layers", 0, "class_name") != "InputLayer":
            first = {"class_name": "InputLayer", "config": {"batch_shape": shape}}
            config = {**config, "layers": [first, *config["layers"]]}
        return {"module": "keras", **node, "config": config}
    if name in ("Functional", "Model") and (old or ENGINE.match(str(node["module"]))):
        names = {"module": FUNCTIONAL, "class_name": "Functional"}
        config = _calls_from_zero(config)
        return {**node, **names, "registered_name": "Functional", "config": config}
    if name == "Policy":
        return {"module": "keras", "class_name": "DTypePolicy", "config": config}
    if old and role in HOMES:
        config = {k: v for k, v in config.items() if k != "dtype"}
        return {**node, "module": HOMES[role], "config": config}
    if old and hasattr(layers, name):
        node = {**node, "module": "keras.layers"}
    if node.get("module") == "keras.layers":
        return {**node, "config": _settings(name, config)}
    return node


def _settings(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a layer without those that Keras 2 wrote and did not use."""
    unused = {"time_major", "input_length"}
    if name != "InputLayer":
        unused.add("batch_input_shape")
    if re.match("Separable|Depthwise|.*Transpose$", name) and config.get("groups") == 1:
        unused.add("groups")
    if name.startswith("Separable"):
        unused |= {f"kernel_{role}" for role in HOMES}
    axis = config.get("axis")
    if name == "BatchNormalization" and isinstance(axis, list) and len(axis) == 1:
        config = {**config, "axis": axis[0]}
    if name == "LeakyReLU" and "alpha" in config:
        config = {**config, "negative_slope": config["alpha"]}
        unused.add("alpha")
    return {k: v for k, v in config.items() if k not in unused}


def _calls_from_zero(config: dict[str, Any]) -> dict[str, Any]:
    """A functional model whose nested models count their calls from 0.

    In Keras 2 a model with an input layer had a first call, of its own, when it was
    made. References there are lists: [name, call, output, keyword arguments].
    """
    nested = {
        layer["name"]
        for layer in config["layers"]
        if _get(layer, "config", "layers", 0, "class_name") == "InputLayer"
        and isinstance(_get(layer, "inbound_nodes", 0), list)
    }

    def shifted(node: Any) -> Any:
        if isinstance(node, dict):
            return {k: shifted(value) for k, value in node.items()}
        if not isinstance(node, list):
            return node
        if len(node) > 2 and isinstance(node[0], str) and node[0] in nested:
            node = [node[0], max(node[1] - 1, 0), *node[2:]]
        return [shifted(item) for item in node]

    calls = [
        {**layer, "inbound_nodes": shifted(layer["inbound_nodes"])}
        for layer in config["layers"]
    ]
    return {
        **config,
        "layers": calls,
        "output_layers": shifted(config["output_layers"]),
    }


def _get(node: Any, *path: str | int) -> Any:
    """The value at the end of a path into JSON, or None if there is none."""
    for step in path:
        try:
            node = node[step]
        except (KeyError, IndexError, TypeError):
            return None
    return node
