"""Constant-field probe: a generator's line strength without image content or border.

The probe replaces the feature map that enters the convolutions by a larger map that
repeats its channel means, and runs the generator's own layers on it. Then only the
upsampling can cause differences between the pixels of the interior. The probe thus
measures, through the real layers, what `analysis.checkerboard.kernels` predicts for
linear ones. The model is only called, not changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from analysis.checkerboard.kernels import (
    Strides,
    causing_stages,
    imbalance,
    subpixel_kernel,
)
from analysis.geometry.keras_layers import LayerCall, is_shuffle, propagate

GREY_LEVELS = 127.5  # in one unit of the [-1, 1] scale
FLOOR_DB = -200.0  # reported for an exact zero
Margins = tuple[tuple[int, int], tuple[int, int]]  # ((top, bottom), (left, right)), px


@dataclass(frozen=True)
class ProbeResult:
    """The spectral lines of a generator on constant fields.

    Attributes:
        phases: (N, S, S, channels) float64, mean of the output at each position modulo
            the total stride S (height, width), in units of the images.
        linear: The same in front of the final activation.
        margins_px: ((top, bottom), (left, right)) that are cut off before averaging.
        activation: Name of that final activation layer; "" if there is none.
    """

    phases: np.ndarray
    linear: np.ndarray
    margins_px: Margins
    activation: str

    @property
    def strides(self) -> tuple[int, int]:
        """Total strides S: bin (a, b) of a table lies at (a/S, b/S)."""
        return self.phases.shape[1], self.phases.shape[2]

    @property
    def lines_db(self) -> np.ndarray:
        """(S, S) power of each line relative to DC, before the final activation, dB.

        Mean over fields and channels. DC itself is 0, and so is a line as strong as it.
        """
        power = np.mean(np.abs(line_table(self.linear)) ** 2, axis=(0, 3))
        tiny = 10 ** (FLOOR_DB / 10)
        return 10 * np.log10(np.maximum(power / max(power[0, 0], 1e-300), tiny))

    @property
    def amplitudes_grey(self) -> np.ndarray:
        """(S, S) root mean square amplitude |c| of each line in grey levels (1/255)."""
        power = np.mean(np.abs(line_table(self.phases)) ** 2, axis=(0, 3))
        return GREY_LEVELS * np.sqrt(power)


def line_table(phases: np.ndarray) -> np.ndarray:
    """DFT over the phases of (N, S, S, channels); the DC bin is the mean."""
    return np.fft.fft2(phases, axes=(1, 2), norm="forward")


def measure_lines(
    generator: Any,
    upsamplers: Sequence[tuple[str, Strides]],
    num_fields: int = 16,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Measures a generator's lines and assigns them to the layers that cause them.

    Args:
        generator: Functional or Sequential model, from latents to images.
        upsamplers: Name and strides of each enlarging layer, first to last.
        num_fields: Number of random latents.
        seed: Seed of the latents.

    Returns:
        One object per layer: `layer`; `line_db`, the power of all its lines relative to
        that of the mean, before a final activation; `line_grey`, their root mean square
        in the images, grey levels; `imbalance` of the kernel (see `learned_kernel`), or
        None.

    Raises:
        ValueError: As `probe`, or if other layers enlarge the map as well.
    """
    if not upsamplers:
        raise ValueError("no layer is known to enlarge a 2-D map: no lines to name")
    shape = (num_fields, generator.input_shape[-1])
    latents = np.random.default_rng(seed).standard_normal(shape)
    result = probe(generator, latents.astype(np.float32))
    table = causing_stages([strides for _, strides in upsamplers])
    if table.shape != result.strides:
        raise ValueError(f"the map grows by {result.strides}, not by {table.shape}")
    found = []
    for index, (name, strides) in enumerate(upsamplers):
        own = table == index
        power = np.sum(10 ** (result.lines_db[own] / 10))
        kernel = learned_kernel(generator, name)
        layer = {
            "layer": name,
            "line_db": round(float(10 * np.log10(power)), 2),
            "line_grey": float(np.linalg.norm(result.amplitudes_grey[own])),
            "imbalance": None if kernel is None else imbalance(kernel, strides),
        }
        found.append(layer)
    return found


def learned_kernel(generator: Any, name: str) -> np.ndarray | None:
    """The kernel of an enlarging operation as Conv2DTranspose keeps it, or None.

    For depth to space it is the kernel of the convolution in front of it.
    Interpolations have none.
    """
    found: list[np.ndarray] = []

    def visit(call: LayerCall, before: list[Any]) -> list[Any]:
        kernel = getattr(call.layer, "kernel", None)
        if call.name == name and is_shuffle(call.layer) and before[0] is not None:
            kernel = subpixel_kernel(np.asarray(before[0]), call.layer.block_size)
        if call.name == name and kernel is not None:
            found.append(np.asarray(kernel))
        return [kernel] * len(call.output_shapes)

    propagate(generator, [None] * len(generator.inputs), visit)
    return found[0] if found else None


def probe(
    generator: Any, latents: np.ndarray, size: int = 24, batch_size: int = 16
) -> ProbeResult:
    """Runs the generator's layers on constant fields.

    Args:
        generator: Functional or Sequential model, from latents to images.
        latents: (N, latent_dim) float32; each gives one constant per channel.
        size: Height and width of the field that replaces the first spatial map, pixels.
        batch_size: Number of fields at a time.

    Returns:
        The phase tables of the N fields.

    Raises:
        ValueError: If the model has no graph of layers, no layer that turns a vector
            into a map or a layer that needs its own input size, or if the border
            reaches every pixel.
    """
    marked, _, _ = _run(generator, latents[:1], size, mark_border=True)
    strides = (marked.shape[1] // size, marked.shape[2] // size)
    margins = _clean_margins(marked, strides)
    phases: list[np.ndarray] = []
    linear: list[np.ndarray] = []
    for start in range(0, len(latents), batch_size):
        batch = latents[start : start + batch_size]
        outputs, before, activation = _run(generator, batch, size)
        phases.append(_phase_means(outputs, strides, margins))
        linear.append(_phase_means(before, strides, margins))
    return ProbeResult(
        np.concatenate(phases), np.concatenate(linear), margins, activation
    )


def _run(
    generator: Any, latents: np.ndarray, size: int, mark_border: bool = False
) -> tuple[np.ndarray, np.ndarray, str]:
    """Output, input of the final activation, and that activation's name.

    With `mark_border`, the outermost pixels of the field are NaN: an output that stays
    finite does not depend on them, nor on the padding outside.
    """
    replaced, last = "", (latents, latents, "")

    def visit(call: LayerCall, values: list[Any]) -> list[Any]:
        nonlocal replaced, last
        outputs = call.run(values, training=False)
        if not replaced and len(values[0].shape) != 4 and len(outputs[0].shape) == 4:
            replaced = call.name
            means = np.mean(outputs[0], axis=(1, 2), keepdims=True)
            field = np.tile(means, (1, size, size, 1))
            if mark_border:
                field[:, [0, -1]] = field[:, :, [0, -1]] = np.nan
            outputs = [keras.ops.convert_to_tensor(field)]
        final = isinstance(call.layer, keras.layers.Activation)
        name = call.name if final else ""
        last = (outputs[0], values[0] if final else outputs[0], name)
        return outputs

    try:
        propagate(generator, [latents], visit)
    except Exception as error:
        raise ValueError(f"the probe cannot run this model: {error}") from error
    if not replaced or len(last[0].shape) != 4:
        raise ValueError("no layer turns a vector into a map (height, width, channels)")
    images, before, name = last
    return np.asarray(images, float), np.asarray(before, float), name


def _clean_margins(marked: np.ndarray, strides: tuple[int, int]) -> Margins:
    """Pixels to cut off each side so that the rest does not depend on the border."""
    finite = np.isfinite(marked).all(axis=(0, 3))
    margins = []
    for axis, stride in enumerate(strides):
        clean = np.flatnonzero(finite.any(axis=1 - axis))
        if len(clean) < max(stride, 1):
            raise ValueError(
                f"no clean interior in {finite.shape} px: give the probe a larger field"
            )
        margins.append((int(clean[0]), finite.shape[axis] - 1 - int(clean[-1])))
    return margins[0], margins[1]


def _phase_means(
    images: np.ndarray, strides: tuple[int, int], margins: Margins
) -> np.ndarray:
    """Means of the interior by (row mod stride, column mod stride)."""
    height, width = strides
    means = np.empty((len(images), height, width, images.shape[3]))
    (top, bottom), (left, right) = margins
    rows = np.arange(top, images.shape[1] - bottom)
    columns = np.arange(left, images.shape[2] - right)
    for row in range(height):
        for column in range(width):
            here = np.ix_(
                rows[rows % height == row], columns[columns % width == column]
            )
            means[:, row, column] = images[:, *here].mean(axis=(1, 2))
    return means
