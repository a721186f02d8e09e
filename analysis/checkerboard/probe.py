"""Constant-field probe: a generator's line strength, free of content and border.

The feature map that enters the convolutions is replaced by its channel means, spread
over a larger map; the generator's own layers then run on it. Whatever is not constant
in the clean interior was put there by the upsampling alone: what
`analysis.checkerboard.kernels` predicts for linear layers is measured here through the
real ones. The model is only called, not changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from analysis.checkerboard.kernels import Strides, culprits, imbalance, subpixel_kernel
from analysis.geometry.keras_layers import LayerCall, is_shuffle, propagate

GREY_LEVELS = 127.5  # in one unit of the [-1, 1] scale
FLOOR_DB = -200.0  # stands for an exact zero
Margins = tuple[tuple[int, int], tuple[int, int]]  # ((top, bottom), (left, right)), px


@dataclass(frozen=True)
class ProbeResult:
    """Lines of a generator on constant fields.

    Attributes:
        phases: (N, S, S, channels) float64, mean of the output at each position modulo
            the cumulated stride S (height, width), in units of the images.
        linear: the same in front of the final activation.
        margins_px: ((top, bottom), (left, right)) cut off before averaging.
        activation: name of that final activation layer; "" if there is none.
    """

    phases: np.ndarray
    linear: np.ndarray
    margins_px: tuple[tuple[int, int], tuple[int, int]]
    activation: str

    @property
    def strides(self) -> tuple[int, int]:
        """Cumulated strides: bin (a, b) of a table lies at (a/S, b/S)."""
        return self.phases.shape[1], self.phases.shape[2]

    @property
    def lines_db(self) -> np.ndarray:
        """(S, S) power of each line relative to DC, before the final activation, dB.

        Mean over fields and channels; DC itself is 0. A line as strong as DC is 0.
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
    """Line strength of a generator by the layer that causes it.

    Args:
        generator: as for `probe`.
        upsamplers: name and strides of each enlarging layer, first to last.
        num_fields: random latents.
        seed: of the latents.

    Returns:
        One object a layer: `layer`; `line_db`, the power of all its lines relative to
        the mean's, before a final activation; `line_grey`, their root mean square in
        the images, grey levels; `imbalance` of the kernel (see `learned_kernel`), or
        None.

    Raises:
        ValueError: as `probe`, or if other layers enlarge the map as well.
    """
    if not upsamplers:
        raise ValueError("no layer is known to enlarge a 2-D map: no lines to name")
    draws = np.random.default_rng(seed)
    latents = draws.standard_normal((num_fields, generator.input_shape[-1]))
    result = probe(generator, latents.astype(np.float32))
    table = culprits([strides for _, strides in upsamplers])
    if table.shape != result.strides:
        raise ValueError(f"the map grows by {result.strides}, not by {table.shape}")
    found = []
    for index, (name, strides) in enumerate(upsamplers):
        power = np.sum(10 ** (result.lines_db[table == index] / 10))
        kernel = learned_kernel(generator, name)
        eta = None if kernel is None else imbalance(kernel, strides)
        found.append(
            {
                "layer": name,
                "line_db": round(float(10 * np.log10(power)), 2),
                "line_grey": float(
                    np.linalg.norm(result.amplitudes_grey[table == index])
                ),
                "imbalance": eta,
            }
        )
    return found


def learned_kernel(generator: Any, name: str) -> np.ndarray | None:
    """The kernel of an enlarging operation as Conv2DTranspose keeps it, or None.

    Of depth to space it is that of the convolution in front of it. Interpolations have
    none.
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
        generator: functional or Sequential, from latents to images.
        latents: (N, latent_dim) float32; each gives one constant per channel.
        size: height and width of the field that replaces the first spatial map.
        batch_size: fields at a time.

    Returns:
        The phase tables of the N fields.

    Raises:
        ValueError: if the model has no graph, no spatial map that follows from a
            vector, layers that need their own size, or too few clean pixels.
    """
    ringed, _, _ = _run(generator, latents[:1], size, ring=True)
    strides = (ringed.shape[1] // size, ringed.shape[2] // size)
    margins = _clean_margins(ringed, strides)
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
    generator: Any, latents: np.ndarray, size: int, ring: bool = False
) -> tuple[np.ndarray, np.ndarray, str]:
    """Output, input of the final activation, and that activation's name.

    With `ring`, the outermost cells of the field are NaN: what stays finite at the
    output was touched by no border.
    """
    replaced, last = "", (latents, latents, "")

    def visit(call: LayerCall, values: list[Any]) -> list[Any]:
        nonlocal replaced, last
        outputs = call.run(values, training=False)
        if not replaced and len(values[0].shape) != 4 and len(outputs[0].shape) == 4:
            replaced = call.name
            means = np.mean(outputs[0], axis=(1, 2), keepdims=True)
            field = np.tile(means, (1, size, size, 1))
            if ring:
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


def _clean_margins(ringed: np.ndarray, strides: tuple[int, int]) -> Margins:
    """Pixels to cut off each side so that what remains is finite."""
    finite = np.isfinite(ringed).all(axis=(0, 3))
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
    """Means of the clean interior by (row mod stride, column mod stride)."""
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
