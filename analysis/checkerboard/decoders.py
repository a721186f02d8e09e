"""Which upsampling of a decoder makes the pattern? A constant-field probe of each.

The maps that enter the upsamplings of one resolution are replaced by larger ones that
repeat their channel means. Whatever the rest of the decoder then draws in the interior
of its output was made by these upsamplings or by later ones, and a period that only
these can make tells the two apart. Each resolution is probed by itself, so that an
earlier pattern that an activation distorts is not taken for one of a later upsampling.

Instance and group normalisation divide by the spread of a map. On a constant map that
is the spread of the pattern alone, so the weakest pattern would look as strong as any.
Therefore they, and means and sums over whole maps, keep their values for the real maps
of the same input. A normalisation that is written in another way is not recognised.

`probe.py` replaces the first map alone and reads what all upsamplings make together.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import keras
import numpy as np

from analysis.checkerboard.frequencies import GridFrequency, grid_frequencies
from analysis.checkerboard.meter import Estimate
from analysis.checkerboard.moments import MID_LEVEL
from analysis.checkerboard.predictions import estimate, value_at
from analysis.geometry.keras_layers import (
    MERGES,
    PADDINGS,
    TRANSPOSED,
    LayerCall,
    propagate,
)
from gan.files import first_line

# Pixels; the first one but the smallest whose interior is free of the border is used.
FIELD_SIZES = (8, 16, 32)
BATCH_SIZE = 16
NUM_CHECKED = 2  # inputs with which the size of the field is chosen
# Neighbouring periods of the interior may differ by rounding, as a share of the range.
ROUNDING = 2e-5
NO_LEVEL = (
    "no layer enlarges a map; of an ONNX file, ConvTranspose, Resize, Upsample and "
    "DepthToSpace are known (tf2onnx writes UpSampling2D as Tile and Reshape: take the "
    ".keras file then)"
)
# Keras' layers and operations that can make one number of a whole map.
REDUCTIONS = "GlobalAveragePooling2D GlobalMaxPooling2D Mean Sum Max Std Var".split()
NUM_DRAWS = 1000  # of the bootstrap
ROUNDING_LEVELS = 255 * ROUNDING  # no smaller pattern is reported, grey levels


@dataclass(frozen=True)
class Level:
    """Upsamplings by one factor at one resolution, which are probed together.

    Attributes:
        names: of the layers or nodes.
        stride: factor by which they enlarge both sides.
        means: by name, the channel means of these maps, float (N, C).
    """

    names: tuple[str, ...]
    stride: int
    means: dict[str, np.ndarray]


@dataclass(frozen=True)
class Upsampling:
    """What is known of one upsampling after the decoder ran on its inputs.

    Attributes:
        stride: factor by which it enlarges both sides; 0 if it is no whole one.
        size: height and width of the maps in front of it, pixels.
        means: the channel means of these maps, float (N, C).
    """

    stride: int
    size: tuple[int, int]
    means: np.ndarray


class Decoder(Protocol):
    """A network from some input to images; maps have the axes (N, H, W, C)."""

    def record(self, inputs: np.ndarray) -> tuple[dict[str, Upsampling], np.ndarray]:
        """Upsamplings by name, and the images, float (N, H, W, C)."""

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


@dataclass(frozen=True)
class Probe:
    """What `probe_levels` found.

    Attributes:
        readings: in the order of the signal.
        refused: by name, why an upsampling was not probed.
        value_range: smallest and largest value of the images.
    """

    readings: list[LevelReading]
    refused: dict[str, str]
    value_range: tuple[float, float]


def probe_levels(
    decoder: Decoder, inputs: np.ndarray, value_range: tuple[float, float]
) -> Probe:
    """Probes the upsamplings of every resolution.

    Args:
        decoder: what is probed.
        inputs: for `decoder.record`, two or more.
        value_range: black and white in its images.

    Raises:
        ValueError: if nothing could be probed; the message is that of the first
            upsampling. Or if the range is none, or images are not finite.
    """
    low, high = value_range
    if not (math.isfinite(low) and math.isfinite(high) and 1e-6 < high - low < 1e9):
        raise ValueError(
            f"--range: received {low:g} {high:g}, expected black below white"
        )
    if len(inputs) < NUM_CHECKED:
        raise ValueError(
            f"received {len(inputs)} inputs, expected {NUM_CHECKED} or more"
        )
    upsamplings, images = decoder.record(inputs)
    if not upsamplings:
        raise ValueError(NO_LEVEL)
    if not np.isfinite(images).all():
        raise ValueError("the images of the decoder are not finite")
    levels, refused = group_levels(upsamplings)
    found = []
    for stage, level in zip(range(len(levels), 0, -1), levels, strict=True):
        try:
            phases = constant_phases(decoder, len(inputs), level)
            found.append(read_level(level, stage, scaled(phases, value_range)))
        except ValueError as error:
            refused |= dict.fromkeys(level.names, str(error))
    if not found:
        name, reason = next(iter(refused.items()))
        raise ValueError(f"{name}: {reason}")
    powers = np.array([reading.pattern_levels.value**2 for reading in found])
    shares = powers / max(powers.sum(), 1e-30)
    readings = [
        replace(reading, share=float(share))
        for reading, share in zip(found, shares, strict=True)
    ]
    return Probe(readings, refused, (float(images.min()), float(images.max())))


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
            text = f"what follows cannot run on maps of {size}x{size} px"
            raise ValueError(
                f"{text} (another map joins them, perhaps): {error}"
            ) from error

    smaller = run(FIELD_SIZES[0], slice(NUM_CHECKED))
    for size in FIELD_SIZES[1:]:
        images = run(size, slice(NUM_CHECKED))
        # What a border adds or takes away cancels in the difference.
        growth = np.subtract(images.shape[1:3], smaller.shape[1:3])
        added = size - FIELD_SIZES[0]
        period = int(growth[0]) // added
        if period < 1 or list(growth) != [period * added] * 2:
            shown = "x".join(map(str, growth))
            raise ValueError(
                f"maps that are {added} px larger make images that are {shown} px "
                "larger, expected a multiple"
            )
        if repeats(images, period):
            starts = range(0, num_inputs, BATCH_SIZE)
            parts = [run(size, slice(start, start + BATCH_SIZE)) for start in starts]
            return middle(np.concatenate(parts), period)
    raise ValueError(
        f"a constant map of {size} px leaves no period in the middle that repeats: the "
        "border reaches it, places are treated differently (align_corners), or noise "
        "is added"
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
        text = "later layers shrink its maps: the period in the image is"
        raise ValueError(f"{text} {period} px, expected a multiple of {level.stride}")
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
    found: Mapping[str, Upsampling],
) -> tuple[list[Level], dict[str, str]]:
    """Puts upsamplings of equal map sizes and strides together.

    Returns:
        The levels, small maps first; by name, why an upsampling has none.
    """
    together: dict[tuple[int, int, int], list[str]] = {}
    refused = {}
    for name, own in found.items():
        if own.stride:
            together.setdefault((*own.size, own.stride), []).append(name)
        else:
            refused[name] = "it does not enlarge height and width by one whole factor"
    levels = [
        Level(tuple(names), stride, {name: found[name].means for name in names})
        for (*_, stride), names in sorted(together.items())
    ]
    return levels, refused


def factor_between(before: Sequence[Any], after: Sequence[Any]) -> int:
    """The whole number by which a map grows; 1: it does not; 0: by another factor."""
    factors = [new / old for old, new in zip(before, after, strict=True)]
    if max(factors) <= 1:
        return 1
    return int(factors[0]) if len(set(factors)) == 1 and factors[0] % 1 == 0 else 0


class KerasDecoder:
    """A functional or Sequential Keras model of one input as a `Decoder`.

    A layer that is called more than once has a number behind its name.
    """

    def __init__(self, model: Any) -> None:
        """Raises ValueError for several inputs, or one of whole numbers."""
        if len(model.inputs) != 1:
            raise ValueError(f"received {len(model.inputs)} inputs, expected one")
        if not str(model.inputs[0].dtype).startswith(("float", "bfloat")):
            raise ValueError(f"the input is {model.inputs[0].dtype}, expected floats")
        self.model = model
        self.inputs = np.zeros(0)
        # By name of the call: mean and variance of a group normalisation, or the
        # result of a mean over whole maps, with a row for each recorded input.
        self.kept: dict[str, list[np.ndarray]] = {}

    def record(self, inputs: np.ndarray) -> tuple[dict[str, Upsampling], np.ndarray]:
        """See `Decoder`."""
        self.inputs = inputs
        kept: dict[str, list[tuple[np.ndarray, ...]]] = {}
        parts: dict[str, list[np.ndarray]] = {}
        facts: dict[str, tuple[int, tuple[int, int]]] = {}

        def visit(name: str, call: LayerCall, values: list[Any]) -> list[Any]:
            outputs = call.run(values, training=False)
            if isinstance(call.layer, keras.layers.GroupNormalization):
                spread = group_spread(call.layer, np.asarray(values[0]))
                kept.setdefault(name, []).append(spread)
            elif reduces(call):
                kept.setdefault(name, []).append((np.asarray(outputs[0]),))
            stride = stride_of(call, values[0].shape, outputs[0].shape)
            if stride != 1:
                size = (int(values[0].shape[1]), int(values[0].shape[2]))
                facts[name] = stride, size
                means = np.asarray(values[0]).mean(axis=(1, 2))
                parts.setdefault(name, []).append(means)
            return outputs

        images = [
            self._run(inputs[start : start + BATCH_SIZE], visit)
            for start in range(0, len(inputs), BATCH_SIZE)
        ]
        self.kept = {
            name: [np.concatenate(same) for same in zip(*batches, strict=True)]
            for name, batches in kept.items()
        }
        found = {
            name: Upsampling(*facts[name], np.concatenate(means))
            for name, means in parts.items()
        }
        return found, np.concatenate(images)

    def run_from(self, rows: slice, fields: dict[str, np.ndarray]) -> np.ndarray:
        """See `Decoder`."""

        def visit(name: str, call: LayerCall, values: list[Any]) -> list[Any]:
            if name in fields:
                values = [np.ascontiguousarray(fields[name], np.float32)]
            if name not in self.kept:
                return call.run(values, training=False)
            kept = [whole[rows] for whole in self.kept[name]]
            if isinstance(call.layer, keras.layers.GroupNormalization):
                return [normalized(call.layer, np.asarray(values[0]), *kept)]
            return kept

        return self._run(self.inputs[rows], visit)

    def _run(self, inputs: np.ndarray, visit: Any) -> np.ndarray:
        """The first output of four axes; `visit` gets the name of each call as well."""
        counts: dict[str, int] = {}

        def numbered(call: LayerCall, values: list[Any]) -> list[Any]:
            counts[call.name] = number = counts.get(call.name, 0) + 1
            name = f"{call.name} ({number})" if number > 1 else call.name
            return list(visit(name, call, values))

        try:
            outputs = propagate(self.model, [inputs], numbered)
        except Exception as error:  # Keras and TensorFlow raise many kinds
            raise ValueError(f"Keras: {first_line(error)}") from error
        return first_images([np.asarray(output) for output in outputs])


def first_images(outputs: Sequence[np.ndarray]) -> np.ndarray:
    """The first output of four axes.

    Raises:
        ValueError: if there is none.
    """
    for output in outputs:
        if output.ndim == 4:
            return output
    shapes = ", ".join(str(output.shape) for output in outputs)
    raise ValueError(f"the outputs have the shapes {shapes}, expected four axes")


def stride_of(call: LayerCall, before: Any, after: Any) -> int:
    """By how much a call enlarges a map; 1: it does not; 0: by no whole factor."""
    layer = call.layer
    if len(before) != 4 or len(after) != 4 or isinstance(layer, MERGES):
        return 1
    if isinstance(layer, TRANSPOSED):
        strides = set(layer.strides)
        return int(strides.pop()) if len(strides) == 1 else 0
    if isinstance(layer, PADDINGS):
        return 1
    return factor_between(before[1:3], after[1:3])


def reduces(call: LayerCall) -> bool:
    """Whether a call makes one number of each map (N, H, W, C)."""
    before, after = call.input_shapes[0], call.output_shapes[0]
    known = type(call.layer).__name__ in REDUCTIONS
    return known and len(before) == 4 and (len(after) == 2 or after[1:3] == (1, 1))


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
