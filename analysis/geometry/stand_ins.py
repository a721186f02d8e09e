"""Takes the place of layers of a file that are not read, in the JSON of its model.

A `NotRead` has the inputs of the layer, and the output sizes that the layers behind it
state: Keras writes the shapes of its inputs beside each layer.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from typing import Any

from analysis.geometry.keras_layers import POINTWISE

Json = dict[str, Any]
POINTWISE_NAMES = [kind.__name__ for kind in POINTWISE]


class StandIn(Json):
    """The JSON of a `NotRead`; JSON from a file never has this type."""


def with_stand_ins(config: Json, is_read: Callable[[Json], bool]) -> Json:
    """The settings of a model with a `StandIn` for each layer that is not read.

    Such a layer stays as it is if the size of its output is not stated.
    """
    layers = config["layers"]
    if all(map(is_read, layers)):
        return config
    functional = all("inbound_nodes" in layer for layer in layers)
    outputs = _stated_outputs(layers) if functional else _next_inputs(layers)
    replaced = []
    for layer in layers:
        name = layer.get("name") or layer["config"].get("name")
        if not is_read(layer) and outputs.get(name):
            layer = _stand_in(layer, name, outputs[name])
        replaced.append(layer)
    return {**config, "layers": replaced}


def _stand_in(layer: Json, name: str, outputs: list[Any]) -> StandIn:
    calls = []
    for call in layer.get("inbound_nodes", ()):
        tensors = [
            {
                "class_name": "__keras_tensor__",
                "config": {"shape": [], "dtype": "float32", "keras_history": history},
            }
            for history, _ in _references(call)
        ]
        args: list[Any] = tensors if len(tensors) == 1 else [tensors]
        calls.append({"args": args, "kwargs": {}})
    return StandIn(
        module=None,
        class_name="NotRead",
        registered_name="NotRead",
        config={"name": name, "kind": layer["class_name"], "outputs": outputs},
        name=name,
        inbound_nodes=calls,
    )


def _next_inputs(layers: list[Json]) -> dict[str, list[Any]]:
    """For each layer of a Sequential model, the shape of its output, if stated."""
    found: dict[str, list[Any]] = {}
    shape = None
    for layer in reversed(layers):
        found[layer["config"].get("name")] = [shape] if shape else []
        stated = layer.get("build_config", {}).get("input_shape")
        if stated or layer["class_name"] not in POINTWISE_NAMES:
            shape = stated
    return found


def _stated_outputs(layers: list[Json]) -> dict[str, list[Any]]:
    """For each layer of a functional model, the shapes of its outputs, if stated."""
    found: defaultdict[str, defaultdict[int, list[Any]]]
    found = defaultdict(lambda: defaultdict(list))
    for layer in layers:
        built = layer.get("build_config", {}).get("input_shape") or []
        shapes = built if built and isinstance(built[0], list) else [built]
        for call in layer["inbound_nodes"]:
            stated = chain(shapes, repeat(None))
            for ((source, _, output), own), other in zip(
                _references(call), stated, strict=False
            ):
                if own or other:
                    found[source][output].append(own or other)
            shapes = []  # what was built is the first call
    return {
        name: [shapes[0] for _, shapes in sorted(outputs.items())]
        for name, outputs in found.items()
        if sorted(outputs) == list(range(len(outputs)))
        and all(shapes.count(shapes[0]) == len(shapes) for shapes in outputs.values())
    }


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
