"""Runs a layer on known numbers and compares each value with its geometry.

The judge of `analysis.geometry.audit`: sizes can be right while the values are shifted
by one pixel, which no shape shows. One channel, whole-number weights: sums are exact.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.geometry.arithmetic import INTERPOLATIONS, AxisPlan
from analysis.geometry.keras_layers import MAX_POOLS, is_shuffle

MAX_TERMS = 2**25  # products to sum: a second or so, not a minute
TOLERANCE = 1e-3  # float32 interpolation weights on inputs of at most 9
SHIFTS = (-2, -1, 0, 1, 2)
PLAIN: dict[str, Any] = {  # hyper-parameters that move no pixel, set to the simplest
    "filters": 1,
    "groups": 1,
    "depth_multiplier": 1,
    "use_bias": False,
    "activation": None,
    "data_format": "channels_last",
    "dtype": "float32",
    "trainable": False,
}


def measure(layer: Any, axes: Sequence[AxisPlan]) -> np.ndarray:
    """Runs one channel of known numbers through a new layer of the same class.

    Args:
        layer: a spatial Keras layer; its own weights stay untouched.
        axes: its plan, one for each spatial axis. For depth to space, channel p holds
            p + 1 times the numbers.

    Returns:
        float64 array of the output's spatial shape.

    Raises:
        ValueError: if a layer of this class cannot be made or run.
    """
    inputs = known_inputs(axes)
    if is_shuffle(layer):
        channels = inputs[None, ..., None] * np.arange(1, layer.block_size**2 + 1)
        return np.asarray(layer(channels), np.float64)[0, ..., 0]
    config = layer.get_config()
    config = {k: v for k, v in config.items() if "_initializer" not in k}
    config = {
        k: None if k.endswith(("_regularizer", "_constraint")) else v
        for k, v in config.items()
    }
    config |= {key: value for key, value in PLAIN.items() if key in config}
    try:
        copy = type(layer).from_config(config)
        copy.build((1, *inputs.shape, 1))
        weights = [np.ones(w.shape, np.float32) for w in copy.weights]
        if weights:  # a separable layer has a second, pointwise one
            weights[0] = known_kernel(axes).reshape(weights[0].shape)
            copy.set_weights(weights)
        outputs = np.asarray(copy(inputs[None, ..., None]))
    except Exception as error:  # whatever a stranger's layer raises
        raise ValueError(f"{type(layer).__name__} did not run: {error}") from error
    return outputs[0, ..., 0].astype(np.float64)


def expect(layer: Any, axes: Sequence[AxisPlan]) -> np.ndarray:
    """What `measure` should return, from the plans alone."""
    inputs = np.pad(known_inputs(axes), [(0, 1)] * len(axes), constant_values=np.nan)
    tables = [_source_table(axis) for axis in axes]
    weights = known_kernel(axes)
    terms, shares = [], []
    for taps in itertools.product(*(range(axis.kernel) for axis in axes)):
        rows = [table[:, tap] for table, tap in zip(tables, taps, strict=True)]
        terms.append(inputs[np.ix_(*rows)] * weights[taps])
        shares.append(np.where(np.isnan(terms[-1]), 0, weights[taps]))
    if axes[0].kind == "bicubic":  # weighs what lies inside the map
        return np.nansum(terms, axis=0) / np.sum(shares, axis=0)
    if axes[0].kind != "pool":
        return np.nansum(terms, axis=0)
    pool = np.nanmax if isinstance(layer, MAX_POOLS) else np.nanmean
    return pool(terms, axis=0)


def shift_between(measured: np.ndarray, expected: np.ndarray) -> tuple[int, ...] | None:
    """How far the measured values lie from the expected ones.

    Returns:
        Pixels per axis, all 0 if equal, positive if measured values lie further to the
        lower right; None if no shift of up to 2 px explains them.
    """
    rank = measured.ndim
    for shift in sorted(
        itertools.product(SHIFTS, repeat=rank), key=lambda s: np.abs(s).sum()
    ):
        if any(
            2 * abs(by) >= size for by, size in zip(shift, measured.shape, strict=True)
        ):
            continue
        pairs = list(zip(shift, measured.shape, strict=True))
        there = tuple(slice(max(by, 0), size + min(by, 0)) for by, size in pairs)
        here = tuple(slice(max(-by, 0), size - max(by, 0)) for by, size in pairs)
        if np.allclose(measured[there], expected[here], rtol=0, atol=TOLERANCE):
            return shift
    return None


def known_inputs(axes: Sequence[AxisPlan]) -> np.ndarray:
    """Whole numbers 1..9 that repeat nowhere nearby, float32.

    Raises:
        ValueError: if the map is too large to probe.
    """
    shape = [axis.input_size for axis in axes]
    terms = math.prod(axis.output_size * axis.kernel for axis in axes)
    if max(terms, math.prod(shape)) > MAX_TERMS:
        raise ValueError(f"{terms} products are too many to run")
    numbers = np.random.default_rng(0).integers(1, 10, shape)
    return numbers.astype(np.float32)


def known_kernel(axes: Sequence[AxisPlan]) -> np.ndarray:
    """Distinct whole weights 1, 2, ...; interpolations their own, the rest ones."""
    shape = [axis.kernel for axis in axes]
    kind = axes[0].kind
    if kind in INTERPOLATIONS:
        taps = [axis.fixed_taps for axis in axes]
        return np.prod(np.meshgrid(*taps, indexing="ij"), axis=0)
    if kind in ("conv", "transpose", "shuffle"):
        numbers = np.arange(1, math.prod(shape) + 1)
        return numbers.reshape(shape).astype(np.float32)
    return np.ones(shape, np.float32)


def _source_table(axis: AxisPlan) -> np.ndarray:
    """Input index of each (output, tap); the appended NaN where a tap meets nothing."""
    table = np.full((axis.output_size, axis.kernel), axis.input_size)
    for row, reads in zip(table, axis.all_reads, strict=True):
        for source, tap in reads:
            row[tap] = source
    return table
