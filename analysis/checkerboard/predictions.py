"""What geometry, weights and a probe say of a generator's lines, before any sample.

Three predictions of the amplitudes that `analysis.checkerboard.meter` measures, in the
same unit, grey levels, each knowing more of the generator than the one before:

- geometry: kernels of equal taps. Where windows overlap unevenly, there are lines.
- weights: the real kernels on recorded mean activations; what is not linear is
  replaced by its mean slope. Exact for a linear generator.
- probe: the real layers on constant fields (`analysis.checkerboard.probe`).

None sees how content, border and non-linearity mix; samples alone tell that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import scipy.signal

from analysis.checkerboard.kernels import (
    Stage,
    Strides,
    causing_stages,
    chain_lines,
    subpixel_kernel,
)
from analysis.checkerboard.probe import GREY_LEVELS, measure_lines
from analysis.geometry.arithmetic import INTERPOLATIONS
from analysis.geometry.keras_layers import (
    LayerCall,
    axis_geometries,
    is_shuffle,
    propagate,
)

NUM_LATENTS = 64
STEP = 0.01  # of the difference quotient that gives an activation's slope
Amplitudes = dict[int, float]  # by layer, 1 the last upsampling


@dataclass(frozen=True)
class Prediction:
    """Line amplitudes of one generator.

    Attributes:
        amplitudes: by evidence, "geometry", "weights" or "probe", and layer: root mean
            square over latents, grey levels. What could not be predicted is missing.
        share_of_mean: geometry's, relative to a map's mean, which needs no weights.
    """

    amplitudes: dict[str, Amplitudes]
    share_of_mean: Amplitudes


@dataclass(frozen=True)
class Step:
    """A stage as it ran: its map's weighted mean for each latent, (N, in)."""

    name: str
    stage: Stage
    means: np.ndarray
    learned: bool


def predict_lines(
    generator: Any, upsamplers: Sequence[tuple[str, Strides]], seed: int = 0
) -> Prediction:
    """Predicts a generator's lines from all three kinds of evidence.

    Args:
        generator: from latents to images in [-1, 1].
        upsamplers: name and strides of each enlarging layer, first to last.
        seed: of the latents.
    """
    draws = np.random.default_rng(seed).standard_normal
    latents = draws((NUM_LATENTS, generator.input_shape[-1])).astype(np.float32)
    amplitudes, shares = {}, {}
    try:
        steps = record_steps(generator, latents)
        names = [name for name, _ in upsamplers]
        starts = [i for i, step in enumerate(steps) if step.name in names]
        mean, amplitudes["weights"] = from_weights(steps, starts)
        shares = from_geometry(steps[starts[0] :])
        amplitudes["geometry"] = {k: v * mean for k, v in shares.items()}
    except ValueError:
        pass  # an operation that is no stage: the probe may run it all the same
    try:
        lines = measure_lines(generator, upsamplers, NUM_LATENTS, seed)
        found = [line["line_grey"] for line in reversed(lines)]
        amplitudes["probe"] = dict(enumerate(found, start=1))
    except ValueError:
        pass
    return Prediction(amplitudes, shares)


def record_steps(generator: Any, latents: np.ndarray) -> list[Step]:
    """Runs the generator and takes down every operation on a map as a stage.

    Raises:
        ValueError: for one that is no stage.
    """
    steps: list[Step] = []
    shape = generator.output_shape[1:3]

    def visit(call: LayerCall, values: list[Any]) -> list[Any]:
        outputs = call.run(values, training=False)
        if len(values[0].shape) == 4:
            maps = np.asarray(values[0], np.float64)
            # The taps of depth to space stand for those of the convolution before it.
            own = getattr(call.layer, "kernel", None) is not None
            learned = is_shuffle(call.layer) or (own and call.layer.trainable)
            means = windowed_means(maps, shape)
            steps.append(Step(call.name, as_stage(call, maps), means, learned))
        return outputs

    propagate(generator, [latents], visit)
    return steps


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
    if isinstance(
        layer,
        keras.layers.BatchNormalization
        | keras.layers.LeakyReLU
        | keras.layers.ReLU
        | keras.layers.Activation,
    ):
        up, down = (
            np.asarray(call.run([maps + sign * STEP], training=False)[0], np.float64)
            for sign in (1, -1)
        )
        slopes = ((up - down) / (2 * STEP)).mean(axis=(0, 1, 2))
        return Stage((1, 1), (slopes * identity)[None, None])
    raise ValueError(f"{call.name}: {type(layer).__name__} is not predicted")


def windowed_means(maps: np.ndarray, image_shape: tuple[int, int]) -> np.ndarray:
    """Means of maps (N, H, W, C) as the spectrum of the images weighs them: (N, C).

    A line's transform is a mean under the Hann window, so a constant must be, too.
    """
    weights = [
        scipy.signal.get_window("hann", whole).reshape(side, -1).mean(axis=1)
        for side, whole in zip(maps.shape[1:3], image_shape, strict=True)
    ]
    sums = np.einsum("nhwc,h,w->nc", maps, *weights, optimize=True)
    return sums / (weights[0].sum() * weights[1].sum())


def from_weights(
    steps: Sequence[Step], starts: Sequence[int]
) -> tuple[float, Amplitudes]:
    """The mean, in grey levels, that the lines stand beside, and their amplitudes.

    Args:
        steps: of the whole generator.
        starts: indices of the upsamplings in `steps`.
    """
    amplitudes, mean = {}, 0.0
    for layer, start in enumerate(reversed(starts), start=1):
        stages = [step.stage for step in steps[start:]]
        tables = chain_lines(stages, steps[start].means.T)
        power = np.mean(np.abs(tables) ** 2, axis=(2, 3))
        # What this upsampling adds: bins that a constant before it does not fill.
        own = causing_stages([stage.strides for stage in stages]) == 0
        amplitudes[layer] = GREY_LEVELS * float(np.sqrt(power[own].sum()))
        mean = mean or GREY_LEVELS * float(np.sqrt(power[0, 0]))
    return mean, amplitudes


def from_geometry(steps: Sequence[Step]) -> Amplitudes:
    """Lines of equal taps relative to the mean: two 5-tap stages, 0.286 and 0.082."""
    stages = [
        Stage(
            step.stage.strides,
            np.ones((*step.stage.kernel.shape[:2], 1, 1))
            if step.learned
            else step.stage.kernel[:, :, :1, :1],
        )
        for step in steps
        if step.stage.kernel.shape[:2] != (1, 1)
    ]
    power = np.abs(chain_lines(stages, np.ones(1))[..., 0]) ** 2
    table = causing_stages([stage.strides for stage in stages])
    enlarging = [i for i, stage in enumerate(stages) if max(stage.strides) > 1]
    return {
        layer: float(np.sqrt(power[table == index].sum() / power[0, 0]))
        for layer, index in enumerate(reversed(enlarging), start=1)
    }
