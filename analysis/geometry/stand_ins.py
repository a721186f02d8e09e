"""Takes the place of layers of a file that are not read, in the JSON of its model.

A `NotRead` has the inputs of the layer, and the output sizes that the layers behind it
state: Keras writes the shapes of its inputs beside each layer.
"""

from collections.abc import Callable, Iterator
from itertools import chain, repeat
from typing import Any

from analysis.geometry.keras_layers import POINTWISE

POINTWISE_NAMES = [kind.__name__ for kind in POINTWISE]


class StandIn(dict[str, Any]):
    """The JSON of a `NotRead`; JSON from a file never has this type."""


def with_stand_ins(
    config: dict[str, Any], is_read: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """The settings of a model with a `StandIn` for each layer that is not read.

    Such a layer stays as it is if the size of its output is not stated.
    """
    layers = config["layers"]
    read = [
        layer if is_read(layer) else _stand_in(layers, index) or layer
        for index, layer in enumerate(layers)
    ]
    return {**config, "layers": read}


def _stand_in(layers: list[dict[str, Any]], index: int) -> StandIn | None:
    layer = layers[index]
    is_functional = "inbound_nodes" in layer
    outputs = (_stated_outputs if is_functional else _next_input)(layers, index)
    if not outputs:
        return None
    name = layer["name"] if is_functional else layer["config"]["name"]
    calls = []
    for call in layer.get("inbound_nodes", ()):
        tensors = [
            {
                "class_name": "__keras_tensor__",
                "config": {"shape": [], "dtype": "float32", "keras_history": history},
            }
            for history, _ in _references(call)
        ]
        calls.append({"args": tensors[:1] if len(tensors) == 1 else [tensors]})
        calls[-1]["kwargs"] = {}
    return StandIn(
        module=None,
        class_name="NotRead",
        registered_name="NotRead",
        config={"name": name, "kind": layer["class_name"], "outputs": outputs},
        name=name,
        inbound_nodes=calls,
    )


def _next_input(layers: list[dict[str, Any]], index: int) -> list[Any]:
    """The output shape of a layer of a Sequential model, in a list, or an empty one."""
    for layer in layers[index + 1 :]:
        if shape := layer.get("build_config", {}).get("input_shape"):
            return [shape]
        if layer["class_name"] not in POINTWISE_NAMES:
            break
    return []


def _stated_outputs(layers: list[dict[str, Any]], index: int) -> list[Any]:
    """The shapes of the outputs of a layer of a functional model, or an empty list."""
    found: dict[int, list[Any]] = {}
    for layer in layers:
        built = layer.get("build_config", {}).get("input_shape") or []
        shapes = built if built and isinstance(built[0], list) else [built]
        for number, call in enumerate(layer["inbound_nodes"]):
            given = chain(shapes if number == 0 else (), repeat(None))
            for ((source, _, output), shape), other in zip(
                _references(call), given, strict=False
            ):
                if source == layers[index]["name"] and (shape or other):
                    found.setdefault(output, []).append(shape or other)
    outputs = [found.get(n, []) for n in range(max(found, default=-1) + 1)]
    known = all(s and s.count(s[0]) == len(s) for s in outputs)
    return [shapes[0] for shapes in outputs] if known else []


def _references(node: Any) -> Iterator[tuple[list[Any], Any]]:
    """The [layer, call, output] of every tensor in a call, and its shape if stated."""
    if isinstance(node, dict) and node.get("class_name") == "__keras_tensor__":
        yield node["config"]["keras_history"], node["config"]["shape"]
    elif isinstance(node, dict):
        yield from chain.from_iterable(map(_references, node.values()))
    elif isinstance(node, list):
        if [type(item) for item in node[:3]] == [str, int, int]:  # Keras 2
            yield node[:3], None
        yield from chain.from_iterable(map(_references, node))
