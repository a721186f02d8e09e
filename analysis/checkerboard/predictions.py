"""What geometry, weights and a probe say of a generator before any image is made.

They predict the imaging gain and the fixed pattern that `meter.py` measures, in the
same units. Each knows more of the generator than the one before:

- geometry: all taps of a learned kernel are equal. Where windows overlap unevenly,
  there is a pattern.
- weights: the real kernels, fed with the mean activations that were recorded in front
  of them; every other operation is replaced by its mean slope. This is exact for a
  linear generator.
- probe: the real layers on constant fields (see `probe.py`).

Each gives for every latent the mean level M and the line L(a) at each grid frequency a.
The fixed pattern is the mean of L(a) over latents, and the imaging gain the size of the
regression of L(a) on M: the limit of the measured gain for content of frequency 0.
None of them knows how content, border and non-linearity mix; only samples show that.
For trained generators, weights and probe give the order of the imaging gains and miss
their size by a factor of up to 5, geometry gives neither, and no fixed pattern is
predicted well (docs/method.md, "Predicted and measured").

The probe sees the images, where an activation behind the pattern of one upsampling
makes harmonics at the frequencies of later ones. The weights attribute each frequency
to the upsampling whose kernel makes it, and to no other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import scipy.signal

from analysis.checkerboard.frequencies import GridFrequency, grid_frequencies
from analysis.checkerboard.kernels import Stage, chain_lines, subpixel_kernel
from analysis.checkerboard.meter import Estimate, fit_mean, fit_regression
from analysis.checkerboard.moments import MID_LEVEL
from analysis.checkerboard.probe import probe
from analysis.geometry.arithmetic import INTERPOLATIONS
from analysis.geometry.keras_layers import (
    LayerCall,
    axis_geometries,
    is_shuffle,
    propagate,
)

NUM_LATENTS = 512
BATCH_SIZE = 64
TINY_POWER = 1e-12  # squared grey levels; below it, all latents give one level
STEP = 0.01  # of the difference quotient that gives an activation's slope
POINTWISE = (
    keras.layers.BatchNormalization,
    keras.layers.LeakyReLU,
    keras.layers.ReLU,
    keras.layers.Activation,
)


@dataclass(frozen=True)
class Predicted:
    """What is predicted at one grid frequency, with 95 % intervals over latents.

    Attributes:
        imaging_gain_percent: see `meter.py`; in percent.
        fixed_pattern_levels: root mean square, grey levels.
    """

    imaging_gain_percent: Estimate
    fixed_pattern_levels: Estimate


@dataclass(frozen=True)
class Step:
    """An operation on maps as a stage, and what it received.

    Attributes:
        stage: zero insertion and a convolution.
        means: (N, in), weighted means of the maps in front of it.
        learned: whether the kernel was learned.
    """

    stage: Stage
    means: np.ndarray
    learned: bool


def predict(
    generator: Any,
    strides: Sequence[int],
    num_latents: int = NUM_LATENTS,
    seed: int = 0,
) -> dict[str, list[Predicted]]:
    """Predicts a generator's imaging gains and fixed patterns in three ways.

    Args:
        generator: Functional or Sequential model, from latents to images in [-1, 1].
        strides: of the upsamplings, first to last.
        num_latents: number of random latents.
        seed: of the latents.

    Returns:
        By predictor, "geometry", "weights" or "probe", one prediction for each of
        `grid_frequencies(strides)`. A predictor that cannot run is missing.
    """
    found = {}
    try:
        latents = random_latents(generator, num_latents, seed)
        steps, outputs = record_steps(generator, latents)
        found["geometry"] = predict_by_geometry(steps, outputs, strides)
        found["weights"] = predict_by_weights(steps, strides)
    except ValueError:
        pass  # an operation that is no stage: the probe may run it all the same
    try:
        found["probe"] = predict_by_probe(generator, strides, num_latents, seed)
    except ValueError:
        pass
    return found


def predict_by_probe(
    generator: Any,
    strides: Sequence[int],
    num_latents: int = NUM_LATENTS,
    seed: int = 0,
) -> list[Predicted]:
    """Predicts from the real layers on constant fields; arguments as for `predict`.

    Raises:
        ValueError: as `probe`, or if the model enlarges maps by other factors.
    """
    phases = probe(generator, random_latents(generator, num_latents, seed))
    if phases.shape[1:3] != (math.prod(strides),) * 2:
        raise ValueError(
            f"the maps grow by {phases.shape[1:3]}, expected the product of {strides}"
        )
    waves = np.fft.fft2(MID_LEVEL * phases, axes=(1, 2), norm="forward")
    table = np.moveaxis(waves, 0, 2)  # (S, S, N, C)
    return [
        estimate(table[0, 0].real, value_at(table, frequency), frequency)
        for frequency in grid_frequencies(tuple(strides))
    ]


def predict_by_weights(
    steps: Sequence[Step], strides: Sequence[int]
) -> list[Predicted]:
    """Predicts from the kernels and the mean activations in front of each upsampling.

    A pattern of stage k is what upsampling k makes of a constant, so it follows from
    the activations in front of that upsampling.
    """
    tables = []
    for start in reversed(enlarging_steps(steps, strides)):
        stages = [step.stage for step in steps[start:]]
        table = MID_LEVEL * chain_lines(stages, steps[start].means.T)
        tables.append(table.swapaxes(2, 3))  # (S, S, N, C), S of these stages alone
    return [
        estimate(
            tables[frequency.stage - 1][0, 0].real,
            value_at(tables[frequency.stage - 1], frequency),
            frequency,
        )
        for frequency in grid_frequencies(tuple(strides))
    ]


def predict_by_geometry(
    steps: Sequence[Step], outputs: np.ndarray, strides: Sequence[int]
) -> list[Predicted]:
    """Predicts from kernels of equal taps, whose lines are a share of the mean.

    Args:
        steps: of the whole generator.
        outputs: (N, C), mean of each image in [-1, 1]. A black image has the mean -1
            and so a pattern: the layers know no other 0 than middle grey.
        strides: of the upsamplings, first to last.
    """
    stages = [
        Stage(
            step.stage.strides,
            np.ones((*step.stage.kernel.shape[:2], 1, 1))
            if step.learned
            else step.stage.kernel[:, :, :1, :1],
        )
        for step in steps[enlarging_steps(steps, strides)[0] :]
        if step.stage.kernel.shape[:2] != (1, 1)
    ]
    table = chain_lines(stages, np.ones(1))[..., 0]
    levels = MID_LEVEL * outputs
    return [
        estimate(levels, value_at(table, frequency) / table[0, 0] * levels, frequency)
        for frequency in grid_frequencies(tuple(strides))
    ]


def estimate(
    levels: np.ndarray, lines: np.ndarray, frequency: GridFrequency
) -> Predicted:
    """Reads a table of lines as `meter.py` reads images.

    Args:
        levels: (N, C), mean level of each latent, grey levels above middle grey.
        lines: complex (N, C), its line at `frequency`, grey levels.
        frequency: where.

    Raises:
        ValueError: if all latents have the same mean level, so that there is no gain.
    """
    squares = levels**2 / MID_LEVEL  # the meter explains by squares as well
    explaining = np.concatenate([levels, squares], axis=1)
    explaining = explaining - explaining.mean(axis=0)
    power = np.square(explaining[:, : levels.shape[1]]).sum(axis=1).mean()
    if power < TINY_POWER:
        raise ValueError("all latents give the same mean level")
    gain = fit_regression(
        np.einsum("nk,nl->nkl", explaining, explaining),
        np.einsum("nk,nc->nkc", explaining, lines - lines.mean(axis=0)),
        len(levels),
        frequency.is_real,
    )
    fixed = fit_mean(lines, np.ones(len(lines)), frequency)
    return Predicted(gain.estimate(100 / math.sqrt(power)), fixed.estimate())


def value_at(table: np.ndarray, frequency: GridFrequency) -> np.ndarray:
    """The entry of a table (S, S, ...) whose bin (a, b) lies at (a/S, b/S)."""
    places = (frequency.row, frequency.column)
    row, column = (
        int(f * side) % side for f, side in zip(places, table.shape[:2], strict=True)
    )
    return table[row, column]


def random_latents(generator: Any, num_latents: int, seed: int) -> np.ndarray:
    """Standard normal latents, float32 (num_latents, latent_dim)."""
    shape = num_latents, generator.input_shape[-1]
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def enlarging_steps(steps: Sequence[Step], strides: Sequence[int]) -> list[int]:
    """Indices of the steps that enlarge maps.

    Raises:
        ValueError: if their strides are not the expected ones.
    """
    found = [i for i, step in enumerate(steps) if max(step.stage.strides) > 1]
    received = [steps[i].stage.strides for i in found]
    if received != [(s, s) for s in strides]:
        raise ValueError(f"the strides are {received}, expected {list(strides)}")
    return found


def record_steps(generator: Any, latents: np.ndarray) -> tuple[list[Step], np.ndarray]:
    """Runs the generator and records every operation on a map as a stage.

    Returns:
        The steps in the order of the signal, slopes averaged over batches; the mean of
        each image, (N, C).

    Raises:
        ValueError: for an operation that is no stage.
    """
    shape = generator.output_shape[1:3]
    batches: list[list[Step]] = []

    def visit(call: LayerCall, values: list[Any]) -> list[Any]:
        outputs = call.run(values, training=False)
        if len(values[0].shape) == 4:
            maps = np.asarray(values[0], np.float64)
            # The taps of depth to space stand for those of the convolution before it.
            own = getattr(call.layer, "kernel", None) is not None
            learned = is_shuffle(call.layer) or (own and call.layer.trainable)
            means = windowed_means(maps, shape)
            batches[-1].append(Step(as_stage(call, maps), means, learned))
        return outputs

    outputs = []
    for start in range(0, len(latents), BATCH_SIZE):
        batches.append([])
        images = propagate(generator, [latents[start : start + BATCH_SIZE]], visit)[0]
        outputs.append(windowed_means(np.asarray(images, np.float64), shape))
    steps = [
        Step(
            Stage(
                same[0].stage.strides,
                np.mean([step.stage.kernel for step in same], axis=0),
            ),
            np.concatenate([step.means for step in same]),
            same[0].learned,
        )
        for same in zip(*batches, strict=True)
    ]
    return steps, np.concatenate(outputs)


def as_stage(call: LayerCall, maps: np.ndarray) -> Stage:
    """An operation on maps (N, H, W, C) as zero insertion and a convolution."""
    layer = call.layer
    identity = np.eye(maps.shape[-1])
    if isinstance(layer, keras.layers.Conv2DTranspose):
        return Stage(tuple(layer.strides), np.asarray(layer.kernel, np.float64))
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        if layer.strides == (1, 1) and layer.depth_multiplier == 1:
            kernel = np.asarray(layer.kernel, np.float64)[::-1, ::-1]
            return Stage((1, 1), kernel * identity)
    elif isinstance(layer, keras.layers.Conv2D) and layer.strides == (1, 1):
        kernel = np.asarray(layer.kernel, np.float64)
        return Stage((1, 1), kernel[::-1, ::-1].swapaxes(2, 3))
    if isinstance(layer, keras.layers.UpSampling2D):
        axes = axis_geometries(layer, maps.shape[1:3])
        if layer.interpolation in INTERPOLATIONS:
            taps = np.outer(axes[0].fixed_taps, axes[1].fixed_taps)
            return Stage(layer.size, taps[..., None, None] * identity)
    if is_shuffle(layer):
        b = layer.block_size
        return Stage((b, b), subpixel_kernel(identity[None, None], b))
    if isinstance(layer, POINTWISE):
        up, down = (
            np.asarray(call.run([maps + sign * STEP], training=False)[0], np.float64)
            for sign in (1, -1)
        )
        slopes = ((up - down) / (2 * STEP)).mean(axis=(0, 1, 2))
        return Stage((1, 1), (slopes * identity)[None, None])
    raise ValueError(f"{call.name}: {type(layer).__name__} is not predicted")


def windowed_means(maps: np.ndarray, image_shape: tuple[int, int]) -> np.ndarray:
    """Means of maps (N, H, W, C) under the Hann window of the images: (N, C).

    The meter's transforms have that window, so a constant must be weighted by it, too.
    """
    weights = [
        scipy.signal.get_window("hann", whole).reshape(side, -1).mean(axis=1)
        for side, whole in zip(maps.shape[1:3], image_shape, strict=True)
    ]
    sums = np.einsum("nhwc,h,w->nc", maps, *weights, optimize=True)
    return sums / (weights[0].sum() * weights[1].sum())
