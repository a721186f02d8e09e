"""Walks the calls of a Keras model in the order of the signal, nested models inlined.

The one place that reads Keras' node lists; `analysis.geometry.audit` folds shapes over
them and `analysis.checkerboard.probe` folds images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Call:
    """One call of one layer: a shared layer has several.

    Attributes:
        name: of the layer, with the names of the nested models in front, "outer/inner".
        layer: the Keras layer, or another operation (`x + y`).
        input_shapes: of the tensors it was built with, batch axis first.
        output_shapes: of the tensors it returned, batch axis first.
        node: Keras' record of the call.
    """

    name: str
    layer: Any
    input_shapes: tuple[Shape, ...]
    output_shapes: tuple[Shape, ...]
    node: Any

    def run(self, values: Sequence[Any], **options: Any) -> list[Any]:
        """Calls the layer again, on other tensors.

        Args:
            values: one tensor for each tensor of the recorded call.
            **options: further keyword arguments, given to layers only.

        Returns:
            The output tensors.
        """
        inputs = {id(old): new for old, new in zip(self.tensors, values, strict=True)}
        args, kwargs = self.node.arguments.fill_in(inputs)
        if isinstance(self.layer, keras.Layer):
            kwargs |= options
        return keras.tree.flatten(self.layer(*args, **kwargs))

    @property
    def tensors(self) -> list[Any]:
        """The symbolic inputs of the recorded call."""
        return self.node.input_tensors


Visit = Callable[[Call, list[Any]], Sequence[Any]]


def functional_graph(model: Any) -> Any | None:
    """The functional graph of a model, or None if it has none (subclassed, unbuilt)."""
    graph = getattr(model, "_functional", model)  # Sequential keeps one inside
    return graph if hasattr(graph, "_nodes_by_depth") else None


def fold(
    model: Any, inputs: Sequence[Any], visit: Visit, prefix: str = ""
) -> list[Any]:
    """Carries values of any kind through a functional graph, one visit a call.

    Args:
        model: functional or built Sequential.
        inputs: one value for each input of the model.
        visit: (call, values of its inputs) -> values of its outputs. Calls of nested
            models are entered, not visited.
        prefix: in front of every name.

    Returns:
        The values of the model's outputs.

    Raises:
        ValueError: if the model has no graph.
    """
    graph = functional_graph(model)
    if graph is None:
        raise ValueError(
            f"model {model.name!r}: received {type(model).__name__} without a graph of "
            "layers, expected a functional or a built Sequential model"
        )
    values = {id(t): v for t, v in zip(graph.inputs, inputs, strict=True)}
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if node.is_input:
                continue
            received = [values[id(t)] for t in node.input_tensors]
            name = prefix + node.operation.name
            outputs: Sequence[Any]
            if functional_graph(node.operation) is not None:
                outputs = fold(node.operation, received, visit, f"{name}/")
            else:
                outputs = visit(_call(name, node), received)
            for tensor, value in zip(node.output_tensors, outputs, strict=True):
                values[id(tensor)] = value
    return [values[id(t)] for t in graph.outputs]


def _call(name: str, node: Any) -> Call:
    """What Keras recorded of one call."""
    return Call(
        name,
        node.operation,
        tuple(tuple(t.shape) for t in node.input_tensors),
        tuple(tuple(t.shape) for t in node.output_tensors),
        node,
    )
