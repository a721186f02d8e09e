"""Which upsampling of a decoder makes the pattern? A constant-field probe of each.

The maps that enter the upsamplings of one resolution are replaced by larger ones that
repeat their channel means. Whatever the rest of the decoder then draws in the interior
of its output was made by these upsamplings or by later ones, and a period that only
these can make tells the two apart. Each resolution is probed by itself, so that an
earlier pattern that an activation distorts is not taken for one of a later upsampling.

Instance and group normalisation divide by the spread of a map. On a constant map that
is the spread of the pattern alone, so the weakest pattern would look as strong as any.
Therefore they keep the mean and the spread of the real maps of the same input.

`probe.py` replaces the first map alone and reads what all upsamplings make together.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np

from analysis.checkerboard.frequencies import GridFrequency, grid_frequencies
from analysis.checkerboard.meter import Estimate
from analysis.checkerboard.moments import MID_LEVEL
from analysis.checkerboard.predictions import estimate, value_at
from analysis.geometry.keras_layers import (
    TRANSPOSED,
    UPSAMPLINGS,
    LayerCall,
    is_shuffle,
    propagate,
)

# Pixels; the first one but the smallest whose interior is free of the border is used.
FIELD_SIZES = (8, 16, 32)
BATCH_SIZE = 16
NUM_CHECKED = 2  # inputs with which the size of the field is chosen
# Neighbouring periods of the interior may differ by rounding, as a share of the range.
ROUNDING = 2e-5
NO_LEVEL = (
    "no layer is known to enlarge a map: of Keras Conv2DTranspose, UpSampling2D and "
    "depth_to_space are, of ONNX ConvTranspose, Resize, Upsample and DepthToSpace; "
    "tf2onnx writes UpSampling2D as Tile and Reshape, so take the .keras file then"
)
NUM_DRAWS = 1000  # of the bootstrap
ROUNDING_LEVELS = 255 * ROUNDING  # no smaller pattern is reported, grey levels


@dataclass(frozen=True)
class Level:
    """The upsamplings of one resolution, which are probed together.

    Attributes:
        names: of the layers or nodes.
        stride: factor by which they enlarge both sides.
        size: height and width of the maps in front of them, pixels.
        means: by name, the channel means of these maps, float (N, C).
    """

    names: tuple[str, ...]
    stride: int
    size: tuple[int, int]
    means: dict[str, np.ndarray]


class Decoder(Protocol):
    """A network from some input to images; maps have the axes (N, H, W, C)."""

    def record(self, inputs: np.ndarray) -> tuple[list[Level], np.ndarray]:
        """Levels in the order of the signal, and the images float (N, H, W, C)."""

    def run_from(self, rows: slice, fields: dict[str, np.ndarray]) -> np.ndarray:
        """Images where the maps in front of some upsamplings are replaced.

        Args:
            rows: which of the recorded inputs, at most BATCH_SIZE.
            fields: by name of the upsampling, the maps of these inputs.
        """


@dataclass(frozen=True)
class LevelReading:
    """What the upsamplings of one resolution draw on constant maps.

    Attributes:
        names: of the layers or nodes.
        stage: 1 for the last resolution.
        stride: factor by which they enlarge both sides.
        period: of the pattern, pixels of the image.
        pattern_levels: root mean square over pixels and inputs, grey levels.
        share: of the power of all patterns, 0 to 1.
        frequency: where the imaging gain is largest.
        imaging_gain_percent: there; None if all inputs give the same mean level.
    """

    names: tuple[str, ...]
    stage: int
    stride: int
    period: int
    pattern_levels: Estimate
    share: float
    frequency: GridFrequency
    imaging_gain_percent: Estimate | None

    @property
    def found(self) -> bool:
        """Whether there is a pattern beyond rounding."""
        return self.pattern_levels.value > ROUNDING_LEVELS


def probe_levels(
    decoder: Decoder, inputs: np.ndarray, value_range: tuple[float, float]
) -> list[LevelReading]:
    """Probes the upsamplings of every resolution.

    Args:
        decoder: what is probed.
        inputs: for `decoder.record`, two or more.
        value_range: black and white in its images.

    Returns:
        The readings in the order of the signal.

    Raises:
        ValueError: if there is no upsampling, or the decoder cannot run on constant
            maps, or the border reaches every pixel of the largest one.
    """
    if len(inputs) < NUM_CHECKED:
        raise ValueError(f"received {len(inputs)} inputs, expected {NUM_CHECKED}")
    levels, images = decoder.record(inputs)
    if not levels:
        raise ValueError(NO_LEVEL)
    if not np.isfinite(images).all():
        raise ValueError("the decoder made images that are not finite")
    found = []
    for stage, level in zip(range(len(levels), 0, -1), levels, strict=True):
        phases = constant_phases(decoder, len(inputs), level)
        found.append(read_level(level, stage, scaled(phases, value_range)))
    powers = np.array([reading.pattern_levels.value**2 for reading in found])
    shares = powers / max(powers.sum(), 1e-30)
    return [
        LevelReading(**(vars(reading) | {"share": float(share)}))
        for reading, share in zip(found, shares, strict=True)
    ]


def scaled(values: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """Brings values to grey levels about middle grey."""
    low, high = value_range
    return MID_LEVEL * (2 * (values - low) / (high - low) - 1)


def constant_phases(decoder: Decoder, num_inputs: int, level: Level) -> np.ndarray:
    """One period of the image where the maps of a level are constant.

    Returns:
        float64 (N, period, period, C).

    Raises:
        ValueError: if no size of the maps leaves an interior that repeats.
    """

    def run(size: int, part: slice) -> np.ndarray:
        fields = {
            name: np.broadcast_to(
                means[part, None, None], (len(means[part]), size, size, means.shape[1])
            )
            for name, means in level.means.items()
        }
        try:
            return decoder.run_from(part, fields).astype(np.float64)
        except ValueError as error:
            text = f"{level.names[0]}: what follows cannot run on maps of {size}x{size}"
            raise ValueError(f"{text} px: {error}") from error

    smaller = run(FIELD_SIZES[0], slice(NUM_CHECKED))
    for size in FIELD_SIZES[1:]:
        images = run(size, slice(NUM_CHECKED))
        # What a border adds or takes away cancels in the difference.
        growth = np.subtract(images.shape[1:3], smaller.shape[1:3])
        period = int(growth[0]) // (size - FIELD_SIZES[0])
        if list(growth) != [period * (size - FIELD_SIZES[0])] * 2:
            text = f"a field {size - FIELD_SIZES[0]} px larger gives images {growth} px"
            raise ValueError(f"{level.names[0]}: {text} larger, expected one factor")
        if repeats(images, period):
            starts = range(0, num_inputs, BATCH_SIZE)
            parts = [run(size, slice(start, start + BATCH_SIZE)) for start in starts]
            return middle(np.concatenate(parts), period)
    raise ValueError(
        f"{level.names[0]}: the border reaches every pixel of a field of {size} px"
    )


def middle(images: np.ndarray, period: int, shift: tuple[int, int] = (0, 0)) -> Any:
    """The period nearest to the middle, or one that is `shift` periods away."""
    first = [
        (side // 2 // period + step) * period
        for side, step in zip(images.shape[1:3], shift, strict=True)
    ]
    rows, columns = (slice(start, start + period) for start in first)
    return images[:, rows, columns]


def repeats(images: np.ndarray, period: int) -> bool:
    """Whether the period in the middle equals those above and left of it."""
    if min(images.shape[1:3]) < 3 * period:
        return False
    scale = max(float(np.ptp(images)), float(np.abs(images).max()), 1e-30)
    here = middle(images, period)
    there = (middle(images, period, shift) for shift in ((-1, 0), (0, -1)))
    return all(np.abs(here - other).max() <= ROUNDING * scale for other in there)


def read_level(level: Level, stage: int, phases: np.ndarray) -> LevelReading:
    """Reads one period in grey levels (N, P, P, C) at the frequencies of a level.

    Raises:
        ValueError: if the period is no multiple of the stride.
    """
    period = phases.shape[1]
    later, rest = divmod(period, level.stride)
    if rest or not later:
        text = f"makes images with the period {period}, expected multiples of"
        raise ValueError(f"{level.names[0]}: {text} {level.stride}")
    waves = np.fft.fft2(phases, axes=(1, 2), norm="forward")
    table = np.moveaxis(waves, 0, 2)  # (P, P, N, C)
    strides = (level.stride, later) if later > 1 else (level.stride,)
    frequencies = grid_frequencies(strides)
    own = [f for f in frequencies if f.stage == len(strides)]
    # Parseval: the mean square of the pattern over the pixels of a period.
    powers = np.zeros(len(phases))
    gains: list[tuple[GridFrequency, Estimate | None]] = []
    for frequency in own:
        lines = value_at(table, frequency)
        powers += frequency.multiplicity * np.square(np.abs(lines)).mean(axis=1)
        try:
            found = estimate(table[0, 0].real, lines, frequency)
            gains.append((frequency, found.imaging_gain_percent))
        except ValueError:  # all inputs have one mean level
            gains.append((frequency, None))
    strongest = max(gains, key=lambda gain: gain[1].value if gain[1] else 0.0)
    # A few inputs often have most of the power, so the interval is that of a bootstrap.
    drawn = np.random.default_rng(0).choice(powers, (NUM_DRAWS, len(powers)))
    edges = np.quantile(drawn.mean(axis=1), (0.025, 0.975))
    pattern = Estimate(*(math.sqrt(power) for power in (powers.mean(), *edges)))
    return LevelReading(
        level.names, stage, level.stride, period, pattern, 0.0, *strongest
    )


def group_levels(
    found: Mapping[str, tuple[int, tuple[int, int], np.ndarray]],
) -> list[Level]:
    """Puts upsamplings of equal map sizes together.

    Args:
        found: by name, in the order of the signal, the stride, the size of the map in
            front, and its channel means.

    Raises:
        ValueError: if upsamplings of one size have other strides.
    """
    sizes: dict[tuple[int, int], list[str]] = {}
    for name, (_, size, _) in found.items():
        sizes.setdefault(size, []).append(name)
    levels = []
    for size, names in sorted(sizes.items()):
        strides = {found[name][0] for name in names}
        if len(strides) > 1:
            text = f"{' and '.join(names)} enlarge maps of one size by {strides}"
            raise ValueError(f"{text}, expected one factor")
        means = {name: found[name][2] for name in names}
        levels.append(Level(tuple(names), strides.pop(), size, means))
    return levels


def factor_between(name: str, before: Sequence[Any], after: Sequence[Any]) -> int:
    """The whole number by which a map grows, 1 if it does not grow.

    Raises:
        ValueError: for other factors, or different ones for height and width.
    """
    factors = [new / old for old, new in zip(before, after, strict=True)]
    if max(factors) <= 1:
        return 1
    if len(set(factors)) > 1 or factors[0] % 1:
        shown = " and ".join(f"{factor:g}" for factor in factors)
        raise ValueError(
            f"{name}: enlarges height and width by {shown}, expected one whole factor"
        )
    return int(factors[0])


class KerasDecoder:
    """A functional or Sequential Keras model of one input as a `Decoder`."""

    def __init__(self, model: Any) -> None:
        """Raises ValueError for a model with several inputs."""
        if len(model.inputs) != 1:
            raise ValueError(f"received {len(model.inputs)} inputs, expected one")
        self.model = model
        self.inputs = np.zeros(0)
        # Mean and variance (N, 1, 1, groups, 1) by name of the group normalisation.
        self.spreads: dict[str, list[tuple[Any, Any]]] = {}

    def record(self, inputs: np.ndarray) -> tuple[list[Level], np.ndarray]:
        """See `Decoder`."""
        self.inputs, self.spreads = inputs, {}
        parts: dict[str, list[np.ndarray]] = {}
        facts: dict[str, tuple[int, tuple[int, int]]] = {}

        def visit(call: LayerCall, values: list[Any]) -> list[Any]:
            outputs = call.run(values, training=False)
            if isinstance(call.layer, keras.layers.GroupNormalization):
                spread = group_spread(call.layer, np.asarray(values[0]))
                self.spreads.setdefault(call.name, []).append(spread)
            if enlarges(call):
                before, after = values[0].shape[1:3], outputs[0].shape[1:3]
                factor = factor_between(call.name, before, after)
                if factor > 1:
                    facts[call.name] = factor, (int(before[0]), int(before[1]))
                    means = np.asarray(values[0]).mean(axis=(1, 2))
                    parts.setdefault(call.name, []).append(means)
            return outputs

        images = [
            self._run(inputs[start : start + BATCH_SIZE], visit)
            for start in range(0, len(inputs), BATCH_SIZE)
        ]
        found = {
            name: (*facts[name], np.concatenate(means)) for name, means in parts.items()
        }
        return group_levels(found), np.concatenate(images)

    def run_from(self, rows: slice, fields: dict[str, np.ndarray]) -> np.ndarray:
        """See `Decoder`."""

        def visit(call: LayerCall, values: list[Any]) -> list[Any]:
            if call.name in fields:
                values = [np.ascontiguousarray(fields[call.name], np.float32)]
            if call.name in self.spreads:
                each = zip(*self.spreads[call.name], strict=True)
                mean, variance = (np.concatenate(parts)[rows] for parts in each)
                return [normalized(call.layer, np.asarray(values[0]), mean, variance)]
            return call.run(values, training=False)

        return self._run(self.inputs[rows], visit)

    def _run(self, inputs: np.ndarray, visit: Any) -> np.ndarray:
        try:
            images = np.asarray(propagate(self.model, [inputs], visit)[0])
        except Exception as error:  # Keras and TensorFlow raise many kinds
            raise ValueError(f"the model cannot run: {error}") from error
        if images.ndim != 4:
            raise ValueError(f"the output has the shape {images.shape}, expected maps")
        return images


def in_groups(layer: Any, maps: np.ndarray) -> np.ndarray:
    """Maps (N, H, W, C) as (N, H, W, groups, channels of a group)."""
    groups = maps.shape[3] if layer.groups == -1 else layer.groups
    return maps.reshape(*maps.shape[:3], groups, -1)


def group_spread(layer: Any, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each group of maps (N, H, W, C).

    Raises:
        ValueError: for a layer that normalises other axes.
    """
    if maps.ndim != 4 or layer.axis not in (-1, 3):
        raise ValueError(f"{layer.name}: normalises other axes than channels")
    grouped, axes = in_groups(layer, maps), (1, 2, 4)
    return grouped.mean(axes, keepdims=True), grouped.var(axes, keepdims=True)


def normalized(layer: Any, maps: np.ndarray, mean: Any, variance: Any) -> np.ndarray:
    """What a group normalisation makes of maps, with a given mean and variance."""
    grouped = (in_groups(layer, maps) - mean) / np.sqrt(variance + layer.epsilon)
    found = grouped.reshape(maps.shape)
    found = found * np.asarray(layer.gamma) if layer.scale else found
    return found + np.asarray(layer.beta) if layer.center else found


def enlarges(call: LayerCall) -> bool:
    """Whether a layer can enlarge a map (N, H, W, C)."""
    shapes = (*call.input_shapes, *call.output_shapes)
    kinds = (*TRANSPOSED, *UPSAMPLINGS)
    known = isinstance(call.layer, kinds) or is_shuffle(call.layer)
    return known and all(len(shape) == 4 for shape in shapes)
