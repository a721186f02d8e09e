"""Compares the values that a layer computes with those that its geometry demands.

A layer can have the right size and still compute values that are shifted by one pixel,
which no shape shows. The check runs the layer on known whole numbers, with one channel
and whole-number weights, so that the sums are exact.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.geometry.arithmetic import AxisGeometry, Finding
from analysis.geometry.keras_layers import is_known_operation, is_shuffle
from gan.files import first_line

MAX_PRODUCTS = 2**25  # takes about a second
TOLERANCE = 1e-3  # float32 interpolation weights on inputs of at most 9
SHIFTS = (-2, -1, 0, 1, 2)
PLAIN: dict[str, Any] = {  # hyper-parameters that move no pixel, set to the simplest
    **{"filters": 1, "groups": 1, "depth_multiplier": 1, "use_bias": False},
    **{"activation": None, "data_format": "channels_last", "dtype": "float32"},
    "trainable": False,
}


def computed_values(layer: Any, axes: Sequence[AxisGeometry]) -> np.ndarray:
    """Runs `known_inputs` through a new one-channel layer of the same class.

    The result has the output's spatial shape. For depth to space, channel p holds p + 1
    times the inputs.

    Raises:
        ValueError: If a layer of this class cannot be made or run.
    """
    inputs = known_inputs(axes)[None, ..., None]
    try:
        if is_known_operation(layer):
            copy = layer
            if is_shuffle(layer):
                inputs = inputs * np.arange(1, layer.block_size**2 + 1)
        else:
            copy = one_channel_copy(layer, axes, inputs.shape)
        return np.asarray(copy(inputs), np.float64)[0, ..., 0]
    except Exception as error:  # a custom layer may raise anything
        raise ValueError(
            f"{type(layer).__name__} did not run: {first_line(error)}"
        ) from error


def one_channel_copy(
    layer: Any, axes: Sequence[AxisGeometry], shape: tuple[int, ...]
) -> Any:
    """A layer of the same class for inputs of `shape`, with `known_kernel`."""
    config = {k: v for k, v in layer.get_config().items() if "_initializer" not in k}
    for key in config:
        unset = key.endswith(("_regularizer", "_constraint"))
        config[key] = None if unset else PLAIN.get(key, config[key])
    copy = type(layer).from_config(config)
    copy.build(shape)
    weights = [np.ones(w.shape, np.float32) for w in copy.weights]
    if weights:  # a separable layer has a second, pointwise one
        weights[0] = known_kernel(axes).reshape(weights[0].shape)
        copy.set_weights(weights)
    return copy


def expected_values(axes: Sequence[AxisGeometry], largest: bool) -> np.ndarray:
    """What a layer should compute from `known_inputs`, from the geometry alone.

    A pooling returns the `largest` value of a window, or its mean.
    """
    inputs = np.pad(known_inputs(axes), [(0, 1)] * len(axes), constant_values=np.nan)
    tables = [_source_table(axis) for axis in axes]
    weights = known_kernel(axes)
    terms, shares = [], []
    for taps in itertools.product(*(range(axis.kernel) for axis in axes)):
        sources = [table[:, tap] for table, tap in zip(tables, taps, strict=True)]
        terms.append(inputs[np.ix_(*sources)] * weights[taps])
        shares.append(np.where(np.isnan(terms[-1]), 0, weights[taps]))
    if axes[0].kind == "bicubic":  # divides by the weights that lie inside the map
        return np.nansum(terms, axis=0) / np.sum(shares, axis=0)
    if axes[0].kind != "pool":
        return np.nansum(terms, axis=0)
    pool = np.nanmax if largest else np.nanmean
    return pool(terms, axis=0)


def value_findings(computed: np.ndarray, expected: np.ndarray) -> list[Finding]:
    """E6 or E7 where computed values of a file's layer are not the expected ones."""
    if computed.shape != expected.shape:
        text = f"predicted {expected.shape} px, computed {computed.shape}"
        return [Finding("E6", "error", f"{text}: trust no number here")]
    shift = shift_between(computed, expected)
    if shift is None:
        text = "the computed values are not those predicted"
        return [Finding("E7", "error", f"{text}: trust no number here")]
    text = f"right size, but the values lie {shift} px from the prediction"
    return [Finding("E7", "error", text)] if any(shift) else []


def shift_between(computed: np.ndarray, expected: np.ndarray) -> tuple[int, ...] | None:
    """How far the computed values lie from the expected ones.

    It is positive if they lie further to the lower right, and None if no shift of up to
    2 px per axis explains them.
    """
    shifts = itertools.product(SHIFTS, repeat=computed.ndim)
    for shift in sorted(shifts, key=lambda s: np.abs(s).sum()):
        pairs = list(zip(shift, computed.shape, strict=True))
        if any(2 * abs(by) >= size for by, size in pairs):
            continue
        there = tuple(slice(max(by, 0), size + min(by, 0)) for by, size in pairs)
        here = tuple(slice(max(-by, 0), size - max(by, 0)) for by, size in pairs)
        if np.allclose(computed[there], expected[here], rtol=0, atol=TOLERANCE):
            return shift
    return None


def known_inputs(axes: Sequence[AxisGeometry]) -> np.ndarray:
    """Random whole numbers 1..9, or a ValueError if the map is too large to run."""
    shape = [axis.input_size for axis in axes]
    products = math.prod(axis.output_size * axis.kernel for axis in axes)
    if max(products, math.prod(shape)) > MAX_PRODUCTS:
        raise ValueError(f"{products} products are too many to run")
    return np.random.default_rng(0).integers(1, 10, shape).astype(np.float32)


def known_kernel(axes: Sequence[AxisGeometry]) -> np.ndarray:
    """Weights 1, 2, ... of a convolution, an interpolation's own, ones elsewhere."""
    if axes[0].kind in ("conv", "transpose", "shuffle"):
        shape = [axis.kernel for axis in axes]
        return np.arange(1, math.prod(shape) + 1, dtype=np.float32).reshape(shape)
    taps = [axis.fixed_taps for axis in axes]
    return np.prod(np.meshgrid(*taps, indexing="ij"), axis=0)


def _source_table(axis: AxisGeometry) -> np.ndarray:
    """Input index of each (output, tap); where a tap meets nothing, that of the NaN."""
    table = np.full((axis.output_size, axis.kernel), axis.input_size)
    for row, pairs in zip(table, axis.terms, strict=True):
        for source, tap in pairs:
            row[tap] = source
    return table
