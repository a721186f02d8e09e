"""Constant-field probe: the generator's own layers without image content or border.

The feature map that enters the convolutions is replaced by a larger map that repeats
its channel means. Then only the upsampling can cause differences between the pixels of
the interior, which repeat after the product of the strides. `predictions.py` reads
gains and fixed patterns from them. The model is only called, not changed.
"""

from typing import Any

import keras
import numpy as np

from analysis.checkerboard.kernels import subpixel_kernel
from analysis.geometry.keras_layers import LayerCall, is_shuffle, propagate

FIELD_SIZES = (8, 16, 32)  # pixels; the first whose interior is free of the border
BATCH_SIZE = 32


def probe(generator: Any, latents: np.ndarray) -> np.ndarray:
    """Runs the generator's layers on constant fields.

    Args:
        generator: Functional or Sequential model, from latents to images.
        latents: float32 (N, latent_dim); each gives one constant per channel.

    Returns:
        float64 (N, period_height, period_width, channels), one period of each output.
        Pixel (r, c) lies at a row that is r modulo the period, and so on.

    Raises:
        ValueError: If the model has no graph of layers, no layer that turns a vector
            into a map or a layer that needs its own input size, or if the border
            reaches every pixel of the largest field.
    """
    for size in FIELD_SIZES:
        period, (top, left), (height, width) = clean_interior(generator, size)
        if height >= period[0] and width >= period[1]:
            break
    else:
        raise ValueError(f"the border reaches every pixel of a field of {size} px")
    rows, columns = slice(top, top + period[0]), slice(left, left + period[1])
    outputs = [
        run_on_fields(generator, latents[start : start + BATCH_SIZE], size)
        for start in range(0, len(latents), BATCH_SIZE)
    ]
    phases = np.concatenate([images[:, rows, columns] for images in outputs])
    return np.roll(phases, (top % period[0], left % period[1]), axis=(1, 2))


def clean_interior(
    generator: Any, size: int
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Finds the output pixels that depend neither on the border nor on the padding.

    Returns:
        The period, first row and column, and height and width of the interior, pixels.
    """
    latents = np.zeros((1, generator.input_shape[-1]), np.float32)
    marked = run_on_fields(generator, latents, size, mark_border=True)
    finite = np.isfinite(marked).all(axis=(0, 3))
    sides = [np.flatnonzero(finite.any(axis=axis)) for axis in (1, 0)]
    first = [int(side[0]) if len(side) else 0 for side in sides]
    return (
        (marked.shape[1] // size, marked.shape[2] // size),
        (first[0], first[1]),
        (len(sides[0]), len(sides[1])),
    )


def run_on_fields(
    generator: Any, latents: np.ndarray, size: int, *, mark_border: bool = False
) -> np.ndarray:
    """The output for constant fields of `size` pixels, one for each latent.

    With `mark_border` the outermost pixels of the field are NaN, and with them every
    output that depends on the border.
    """
    replaced = False

    def visit(call: LayerCall, values: list[Any]) -> list[Any]:
        nonlocal replaced
        outputs = call.run(values, training=False)
        if not replaced and len(values[0].shape) != 4 and len(outputs[0].shape) == 4:
            replaced = True
            means = np.mean(outputs[0], axis=(1, 2), keepdims=True)
            field = np.tile(means, (1, size, size, 1))
            if mark_border:
                field[:, [0, -1]] = field[:, :, [0, -1]] = np.nan
            outputs = [keras.ops.convert_to_tensor(field)]
        return outputs

    try:
        images = np.asarray(propagate(generator, [latents], visit)[0], np.float64)
    except Exception as error:
        raise ValueError(f"the probe cannot run this model: {error}") from error
    if not replaced or images.ndim != 4:
        raise ValueError("no layer turns a vector into a map (height, width, channels)")
    return images


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
