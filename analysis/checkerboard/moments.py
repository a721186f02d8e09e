"""What is kept of a set of images: sums that say how X(f + a) depends on X(f).

For each grid frequency a, the transform of an image around a is explained by the
transforms of the same image, and of its smoothed square, at the low frequencies:
"imaging". Means over all images are taken off before, so that what is the same in every
image is kept apart. Images are added up in at most NUM_GROUPS groups, from which the
spread of every reading follows. Memory does not grow with the number of images.
"""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy.fft
import scipy.ndimage

from analysis.checkerboard.frequencies import Layout, make_layout

NUM_GROUPS = 512  # image i belongs to group i % NUM_GROUPS
CHUNK_VALUES = 1 << 18  # one megabyte of float32 stays in the cache of a processor
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601
MID_LEVEL = 127.5
SMOOTHING_PX = 4  # a mean over 4x4 pixels has no response at multiples of 1/4


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over a set of images.

    Shapes: G groups, A grid frequencies, C channels, K = 2 C explaining transforms.

    Attributes:
        layout: shape of the images and their grid frequencies.
        num_images: number of images.
        mean_image: float64 (height, width, C), grey levels.
        power: float64 (height, width), mean squared size of the transform over images
            and channels, squared grey levels; the mean grey level is taken off.
        contrast_levels: root mean square of the images about their mean, grey levels.
        counts: (G,), number of images in a group.
        gram: complex (A, G, K, K), sums of conj(Z) Z over the low frequencies.
        cross: complex (A, G, K, C), sums of conj(Z(f)) X(f + a).
        power_near: (A, G), sums of |X(f + a)|^2 over channels.
        lines: complex (A, G, C), sums of X(a), the mean not taken off.
        ring_powers: (A, G, 2, P), sums of the power in a bin and, as a mean, in its
            ring; P is 1 for grey images, 2 (luminance, chroma) for colour.
    """

    layout: Layout
    num_images: int
    mean_image: np.ndarray
    power: np.ndarray
    contrast_levels: float
    counts: np.ndarray
    gram: np.ndarray
    cross: np.ndarray
    power_near: np.ndarray
    lines: np.ndarray
    ring_powers: np.ndarray

    @property
    def num_channels(self) -> int:
        """Number of channels."""
        return self.mean_image.shape[2]


def grey_levels(images: np.ndarray) -> np.ndarray:
    """Brings uint8, or floats in [-1, 1], to float32 grey levels 0..255."""
    if images.dtype == np.uint8:
        return images.astype(np.float32)
    return (images.astype(np.float32) + 1) * np.float32(MID_LEVEL)


def levels_by_channel(images: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Grey levels of the part of the images that is read: (n, C, height, width)."""
    inside = np.moveaxis(images[:, : shape[0], : shape[1]], 3, 1)
    return grey_levels(np.ascontiguousarray(inside))


def squares(levels: np.ndarray) -> np.ndarray:
    """Squared distance of smoothed images from middle grey, scaled to 0..127.5.

    Without smoothing, the square of a pattern added to an image would explain it.

    Args:
        levels: (n, C, height, width).
    """
    size = 1, 1, SMOOTHING_PX, SMOOTHING_PX
    smooth = scipy.ndimage.uniform_filter(levels, size)
    smooth -= np.float32(MID_LEVEL)
    smooth *= smooth
    smooth /= np.float32(MID_LEVEL)
    return smooth


@dataclass(frozen=True, eq=False)
class Band:
    """All grid frequencies around which the same number of bins is read.

    Attributes:
        frequencies: their indices into `Layout.frequencies`.
        low: flat indices of the low frequencies (B,).
        high: flat indices of their copies (frequencies, B).
    """

    frequencies: np.ndarray
    low: np.ndarray
    high: np.ndarray


def make_bands(layout: Layout) -> list[Band]:
    """Groups the grid frequencies by `Layout.radii`."""
    radii, bands = np.array(layout.radii), []
    for radius in np.unique(radii):
        frequencies = np.flatnonzero(radii == radius)
        high = np.array([layout.band(radius, layout.centers[k]) for k in frequencies])
        bands.append(Band(frequencies, layout.band(radius), high))
    return bands


def measure_moments(images: np.ndarray, strides: tuple[int, ...]) -> Moments:
    """Adds up a set of images in two passes: their mean, then everything else.

    Args:
        images: (N, H, W) or (N, H, W, C), uint8 or floats in [-1, 1]; a memmap is read
            in pieces.
        strides: of the upsamplings, first to last.

    Raises:
        ValueError: for no images, images too small, or values that are not finite.
    """
    images = images[..., np.newaxis] if images.ndim == 3 else images
    if not len(images):
        raise ValueError("received no images")
    layout = make_layout(images.shape[1], images.shape[2], strides)
    bands = make_bands(layout)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        add = partial(add_images, images, layout)
        means = sum(pool.map(add, chunks(images)), np.zeros(())) / len(images)
        if not np.isfinite(means).all():
            raise ValueError("received values that are not finite")
        measure = partial(measure_images, images, layout, bands, means)
        sums: list[np.ndarray] = []
        for chunk, found in zip(
            chunks(images), pool.map(measure, chunks(images)), strict=True
        ):
            if not sums:
                sums = [zeros_for(v, min(len(images), NUM_GROUPS)) for v in found[:-1]]
                sums.append(np.zeros_like(found[-1]))
            # A chunk has each group once, in order.
            first = chunk.start % NUM_GROUPS
            own = slice(first, first + chunk.stop - chunk.start)
            for total, values in zip(sums[:-1], found[:-1], strict=True):
                total[own] += values
            sums[-1] += found[-1]
    return in_order(sums, means, len(images), layout, bands)


def zeros_for(values: np.ndarray, num_groups: int) -> np.ndarray:
    """Zeros for sums of `values` (n, ...) in double precision."""
    dtype = np.result_type(values, np.float64)
    return np.zeros((num_groups, *values.shape[1:]), dtype)


def chunks(images: np.ndarray) -> Iterator[slice]:
    """Cuts a set into pieces that stay in the cache, with each group at most once."""
    size = max(1, min(NUM_GROUPS, CHUNK_VALUES // math.prod(images.shape[1:])))
    size = math.ceil(NUM_GROUPS / math.ceil(NUM_GROUPS / size))
    for start in range(0, len(images), NUM_GROUPS):
        stop = min(start + NUM_GROUPS, len(images))
        for first in range(start, stop, size):
            yield slice(first, min(first + size, stop))


def add_images(images: np.ndarray, layout: Layout, chunk: slice) -> np.ndarray:
    """Sums of the images of a chunk, then of their squares.

    Returns:
        float64 (2 C, height, width), the squares in the second half.
    """
    levels = levels_by_channel(images[chunk], layout.shape)
    both = levels, squares(levels)
    return np.concatenate([values.sum(axis=0, dtype=np.float64) for values in both])


def measure_images(
    images: np.ndarray,
    layout: Layout,
    bands: list[Band],
    means: np.ndarray,
    chunk: slice,
) -> list[np.ndarray]:
    """Takes the products of each image of a chunk, and the sum of their spectra.

    Args:
        images: the whole set.
        layout: of the set.
        bands: its grid frequencies by radius.
        means: float64 (2 C, height, width), of the images and of their squares.
        chunk: which images.

    Returns:
        For each image: gram (bands, K, K); cross (K, C, A) in the order of the bands;
        power_near (A,) in that order; lines (C, A); power in a bin and in its ring
        (2, P, A); then the sum of the spectra (bins,).
    """
    levels = levels_by_channel(images[chunk], layout.shape)
    num_images, channels = levels.shape[:2]
    values = np.concatenate([levels, squares(levels)], axis=1)
    values -= means.astype(np.float32)
    values *= layout.window
    explaining = scipy.fft.fft2(values).reshape(num_images, 2 * channels, -1)
    explained = explaining[:, :channels]
    powers = separate_powers(explained)  # (n, P, bins)
    spectra = squared_size(explained).sum(axis=1)
    gram, cross, near = [], [], []
    for band in bands:
        low = explaining[:, :, band.low]
        conjugate = low.conj()
        gram.append(conjugate @ low.swapaxes(1, 2))
        high = explained[:, :, band.high]  # (n, C, frequencies, B)
        flat = high.reshape(num_images, -1, high.shape[3])
        products = conjugate @ flat.swapaxes(1, 2)
        cross.append(products.reshape(num_images, 2 * channels, *high.shape[1:3]))
        near.append(spectra[:, band.high].sum(axis=2))
    rings = np.stack([powers[:, :, r].mean(axis=2) for r in layout.rings], axis=2)
    return [
        np.stack(gram, axis=1),
        np.concatenate(cross, axis=3),
        np.concatenate(near, axis=1),
        explained[:, :, layout.centers],
        np.stack([powers[:, :, layout.centers], rings], axis=1),
        spectra.sum(axis=0, dtype=np.float64),
    ]


def in_order(
    sums: list[np.ndarray],
    means: np.ndarray,
    num_images: int,
    layout: Layout,
    bands: list[Band],
) -> Moments:
    """Brings the sums of `measure_images` to the order and form of `Moments`."""
    gram, cross, near, lines, ring_powers, spectrum = sums
    counts = np.bincount(np.arange(num_images) % NUM_GROUPS)
    channels = len(means) // 2
    mean = means[:channels]
    members = [band.frequencies for band in bands]
    order = np.argsort(np.concatenate(members))
    band_of = np.repeat(np.arange(len(members)), [len(own) for own in members])
    steady = np.abs(scipy.fft.fft2((mean - mean.mean()) * layout.window)) ** 2
    at_centers = scipy.fft.fft2(mean * layout.window).reshape(channels, -1)
    at_centers = at_centers[:, layout.centers]  # (C, A)
    varying = spectrum.reshape(layout.shape) / channels / num_images
    # Parseval: the window spreads each wave over several bins.
    spread = np.square(layout.window, dtype=np.float64).sum() * layout.window.size
    return Moments(
        layout=layout,
        num_images=num_images,
        mean_image=np.moveaxis(mean, 0, 2),
        power=varying + steady.mean(axis=0),
        contrast_levels=math.sqrt(varying.sum() / spread),
        counts=counts,
        gram=gram.swapaxes(0, 1)[band_of[order]],
        cross=np.moveaxis(cross, 3, 0)[order],
        power_near=near.T[order],
        lines=np.moveaxis(lines + counts[:, None, None] * at_centers, 2, 0),
        ring_powers=np.moveaxis(ring_powers, 3, 0),
    )


def squared_size(values: np.ndarray) -> np.ndarray:
    """Squared absolute values, without the root that `abs` takes."""
    return np.square(values.real) + np.square(values.imag)


def separate_powers(transforms: np.ndarray) -> np.ndarray:
    """Power of grey images, or of luminance and chroma: (n, C, ·) to (n, P, ·)."""
    if transforms.shape[1] == 1:
        return squared_size(transforms)
    # As real numbers, since a product of real and complex arrays is slow.
    luminance = LUMA @ transforms.view(np.float32)
    chroma = (transforms.view(np.float32) - luminance[:, np.newaxis]).view(np.complex64)
    parts = [squared_size(luminance.view(np.complex64)), squared_size(chroma).mean(1)]
    return np.stack(parts, axis=1)
