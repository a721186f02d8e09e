"""Mean power spectrum of a set of images, streamed in constant memory.

It knows arrays, not runs; `analysis.checkerboard.meter` compares two spectra taken
here. Powers are in squared grey levels (1/255 of the range), spectra are halves as
`rfft2` returns them: (height, width // 2 + 1).

Related meters: Durall et al. 2020 (arXiv:2003.01826) average logarithms over rings,
which lowers the self-conjugate bins, where checkerboards are, by 3 dB against others,
and their rings omit the corner (1/2, 1/2). Karras et al. 2021 (arXiv:2106.12423)
average power under a Kaiser window and smooth the picture. Here power is averaged, dB
come last, and a periodic Hann window keeps a line within one bin of its place.
"""

import itertools
import math
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft

from analysis.checkerboard.layout import Layout, Protocol, make_layout

FLOOR = 1e-12  # of every power, so that a perfect notch has a logarithm
MAX_ROWS = 16384  # cached for resampling; image i is added to row i % MAX_ROWS
CHUNK_VALUES = 1 << 18  # one megabyte of float32: a chunk stays in the cache


@dataclass(frozen=True, eq=False)
class Spectrum:
    """What is kept of a set of images.

    Attributes:
        layout: shape, window and bins.
        num_images: how many there were.
        power: (H, W // 2 + 1), mean of |F|^2 / sum(w^2) over images and channels; white
            noise of standard deviation 1 gives 1.
        power_error: its standard error.
        mean_transform: complex (C, H, W // 2 + 1), mean of F.
        pixels: (2, height, width), mean and mean square of each pixel, uncropped.
        laplacian: (2, height - 2, width - 2), the same of the Laplacian.
        rows: float32 (min(N, MAX_ROWS), num_cells + 1), sums of the images' powers in
            `layout.cells`; the last column counts the images of a row.
    """

    layout: Layout
    num_images: int
    power: np.ndarray
    power_error: np.ndarray
    mean_transform: np.ndarray
    pixels: np.ndarray
    laplacian: np.ndarray
    rows: np.ndarray


def grey_levels(images: np.ndarray) -> np.ndarray:
    """Brings uint8, or floats in [-1, 1], to float32 grey levels 0..255."""
    if images.dtype == np.uint8:
        return images.astype(np.float32)
    return (images.astype(np.float32) + 1) * np.float32(127.5)


def mean_level(images: np.ndarray) -> float:
    """Mean grey level of all pixels of all images."""
    mean = float(images.mean(dtype=np.float64))
    return mean if images.dtype == np.uint8 else (mean + 1) * 127.5


def measure(
    images: np.ndarray | Iterable[np.ndarray],
    *,
    level: float,
    protocol: Protocol | None = None,
) -> Spectrum:
    """Takes the mean power spectrum and its companions in one pass over the images.

    Args:
        images: (N, H, W) or (N, H, W, C), uint8 or floats in [-1, 1]; an array, a
            memmap, or an iterable of such chunks of any length.
        level: grey level taken off all images: the mean of the *real* set for all sets.
        protocol: window, strides, crop.

    Raises:
        ValueError: for no images, several sizes, or values that are not finite.
    """
    chunks = _chunks([images] if isinstance(images, np.ndarray) else images)
    first = next(chunks, None)
    if first is None:
        raise ValueError("received no images")
    layout = make_layout(first.shape[1], first.shape[2], protocol or Protocol())
    rows = np.zeros((MAX_ROWS, len(layout.cells) + 1), np.float32)
    totals: list[Any] = [0.0] * 5
    count, num_threads = 0, os.cpu_count() or 1
    chunks = itertools.chain([first], chunks)
    with ThreadPoolExecutor(num_threads) as pool:
        while batch := list(itertools.islice(chunks, num_threads)):
            if any(chunk.shape[1:] != first.shape[1:] for chunk in batch):
                raise ValueError(f"received several sizes, first {first.shape[1:]}")
            for sums, cells in pool.map(lambda c: _sums(c, level, layout), batch):
                totals = [a + b for a, b in zip(totals, sums, strict=True)]
                places = np.arange(count, count + len(cells)) % MAX_ROWS
                rows[places, :-1] += cells
                rows[places, -1] += 1
                count += len(cells)
    power, squares, transform, pixels, laplacian = (total / count for total in totals)
    if not np.isfinite(power).all():
        raise ValueError("received values that are not finite")
    error = np.sqrt(np.maximum(squares - power**2, 0) / count)
    power = np.maximum(power, FLOOR)
    return Spectrum(
        layout, count, power, error, transform, pixels, laplacian, rows[:count]
    )


def _chunks(arrays: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Cuts arrays of images into chunks (n, H, W, C) that stay in the cache."""
    for array in arrays:
        array = array[..., np.newaxis] if array.ndim == 3 else array
        size = max(1, min(MAX_ROWS, CHUNK_VALUES // math.prod(array.shape[1:])))
        for start in range(0, len(array), size):
            yield array[start : start + size]


def _sums(
    chunk: np.ndarray, level: float, layout: Layout
) -> tuple[list[np.ndarray], np.ndarray]:
    """Sums over one chunk, in float64, and each image's powers in the cells.

    Transforms run in float32: their rounding is 1e-7 of an image's own amplitude, far
    below its power in any bin.
    """
    values = np.moveaxis(grey_levels(chunk), 3, 1)  # (n, C, height, width)
    height, width = layout.shape
    top, left = (values.shape[2] - height) // 2, (values.shape[3] - width) // 2
    inner = values[:, :, top : top + height, left : left + width]
    window = layout.window.astype(np.float32)
    transform = scipy.fft.rfft2((inner - np.float32(level)) * window)
    power = (transform.real**2 + transform.imag**2).mean(axis=1)
    power /= np.float32((layout.window**2).sum())
    laplacian = 4 * values[..., 1:-1, 1:-1]
    laplacian -= values[..., 2:, 1:-1] + values[..., :-2, 1:-1]
    laplacian -= values[..., 1:-1, 2:] + values[..., 1:-1, :-2]
    sums = [
        power.sum(axis=0, dtype=np.float64),
        np.square(power, dtype=np.float64).sum(axis=0),
        transform.sum(axis=0, dtype=np.complex128),
        _moments(values),
        _moments(laplacian),
    ]
    return sums, power.reshape(len(power), -1)[:, layout.cells]


def _moments(values: np.ndarray) -> np.ndarray:
    """Sums over images of values and of their squares, mean over channels."""
    powers = values.sum(axis=0, dtype=np.float64), np.square(values, dtype=np.float64)
    return np.stack([powers[0].mean(axis=0), powers[1].sum(axis=0).mean(axis=0)])
