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
        counts: (G,), sum of the weights of the images in a group.
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
class Places:
    """Where bins are in the half spectrum that `rfft2` gives for a real image.

    Attributes:
        index: flat indices into (height, width // 2 + 1).
        sign: float32, -1 where the half spectrum has the conjugate of the bin.
    """

    index: np.ndarray
    sign: np.ndarray

    @classmethod
    def of(cls, bins: np.ndarray, shape: tuple[int, int]) -> "Places":
        """Finds flat indices of the whole spectrum in the half spectrum."""
        height, width = shape
        row, column = np.divmod(bins, width)
        mirrored = column > width // 2
        row = np.where(mirrored, -row % height, row)
        column = np.where(mirrored, width - column, column)
        sign = np.where(mirrored, -1, 1).astype(np.float32)
        return cls(row * (width // 2 + 1) + column, sign)

    def pick(self, transforms: np.ndarray) -> np.ndarray:
        """The bins of half spectra: (..., half spectrum) to (..., *index.shape)."""
        values = transforms[..., self.index]
        values.imag *= self.sign
        return values


@dataclass(frozen=True, eq=False)
class Band:
    """All grid frequencies around which the same number of bins is read.

    Attributes:
        frequencies: their indices into `Layout.frequencies`.
        low: the low frequencies (B,).
        high: their copies around each of the grid frequencies (frequencies, B).
    """

    frequencies: np.ndarray
    low: Places
    high: Places


@dataclass(frozen=True, eq=False)
class Tables:
    """Everything that the images of a set are read with.

    Attributes:
        layout: of the set.
        bands: the grid frequencies by `Layout.radii`.
        centers: the grid frequencies (A,).
        rings: the neighbours of all grid frequencies one after the other.
        ring_starts: where in `rings` those of each grid frequency start (A,).
        ring_lengths: float32 (A,), how many they are.
    """

    layout: Layout
    bands: list[Band]
    centers: Places
    rings: Places
    ring_starts: np.ndarray
    ring_lengths: np.ndarray


def make_tables(layout: Layout) -> Tables:
    """Finds all bins of a layout in the half spectrum."""
    shape, radii, bands = layout.shape, np.array(layout.radii), []
    for radius in np.unique(radii):
        frequencies = np.flatnonzero(radii == radius)
        high = np.array([layout.band(radius, layout.centers[k]) for k in frequencies])
        low = layout.band(radius)
        bands.append(Band(frequencies, Places.of(low, shape), Places.of(high, shape)))
    lengths = np.array([len(ring) for ring in layout.rings])
    return Tables(
        layout,
        bands,
        Places.of(layout.centers, shape),
        Places.of(np.concatenate(layout.rings), shape),
        np.cumsum(lengths) - lengths,
        lengths.astype(np.float32),
    )


def measure_moments(
    images: np.ndarray,
    strides: tuple[int, ...],
    weights: np.ndarray | None = None,
) -> Moments:
    """Adds up a set of images in two passes: their mean, then everything else.

    Args:
        images: (N, H, W) or (N, H, W, C), uint8 or floats in [-1, 1]; a memmap is read
            in pieces.
        strides: of the upsamplings, first to last.
        weights: float (N,), how much each image counts; None: all alike.

    Raises:
        ValueError: for no images, images too small, or values that are not finite.
    """
    images = images[..., np.newaxis] if images.ndim == 3 else images
    if not len(images):
        raise ValueError("received no images")
    layout = make_layout(images.shape[1], images.shape[2], strides)
    tables = make_tables(layout)
    weights = np.ones(len(images)) if weights is None else np.asarray(weights, float)
    weights = weights * (len(images) / weights.sum())
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        add = partial(add_images, images, weights, layout)
        means = sum(pool.map(add, chunks(images)), np.zeros(())) / len(images)
        if not np.isfinite(means).all():
            raise ValueError("received values that are not finite")
        measure = partial(measure_images, images, weights, tables, means)
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
    return in_order(sums, means, len(images), tables)


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


def add_images(
    images: np.ndarray, weights: np.ndarray, layout: Layout, chunk: slice
) -> np.ndarray:
    """Weighted sums of the images of a chunk, then of their squares.

    Returns:
        float64 (2 C, height, width), the squares in the second half.
    """
    levels = levels_by_channel(images[chunk], layout.shape)
    share = weights[chunk].astype(np.float32)
    sums = [np.tensordot(share, values, 1) for values in (levels, squares(levels))]
    return np.concatenate(sums).astype(np.float64)


def measure_images(
    images: np.ndarray,
    weights: np.ndarray,
    tables: Tables,
    means: np.ndarray,
    chunk: slice,
) -> list[np.ndarray]:
    """Takes the products of each image of a chunk, and the sum of their spectra.

    Args:
        images: the whole set.
        weights: float (N,).
        tables: of the set.
        means: float64 (2 C, height, width), of the images and of their squares.
        chunk: which images.

    Returns:
        For each image, times its weight: 1; gram (bands, K, K); cross (K, C, A) in the
        order of the bands; power_near (A,) in that order; lines (C, A); power in a bin
        and in its ring (2, P, A); then the sum of the spectra (half spectrum,).
    """
    levels = levels_by_channel(images[chunk], tables.layout.shape)
    weight = weights[chunk].astype(np.float32)[:, np.newaxis, np.newaxis]
    num_images, channels = levels.shape[:2]
    values = np.concatenate([levels, squares(levels)], axis=1)
    values -= means.astype(np.float32)
    values *= tables.layout.window
    explaining = scipy.fft.rfft2(values).reshape(num_images, 2 * channels, -1)
    explained = explaining[:, :channels]
    powers = weight * separate_powers(explained)  # (n, P, half spectrum)
    spectra = weight[:, 0] * squared_size(explained).sum(axis=1)
    gram, cross, near = [], [], []
    for band in tables.bands:
        low = band.low.pick(explaining)
        conjugate = low.conj() * weight
        gram.append(conjugate @ low.swapaxes(1, 2))
        high = band.high.pick(explained)  # (n, C, frequencies, B)
        flat = high.reshape(num_images, -1, high.shape[3])
        products = conjugate @ flat.swapaxes(1, 2)
        cross.append(products.reshape(num_images, 2 * channels, *high.shape[1:3]))
        near.append(spectra[:, band.high.index].sum(axis=2))
    around = powers[:, :, tables.rings.index]
    rings = np.add.reduceat(around, tables.ring_starts, axis=2) / tables.ring_lengths
    return [
        weights[chunk],
        np.stack(gram, axis=1),
        np.concatenate(cross, axis=3),
        np.concatenate(near, axis=1),
        tables.centers.pick(explained) * weight,
        np.stack([powers[:, :, tables.centers.index], rings], axis=1),
        spectra.sum(axis=0, dtype=np.float64),
    ]


def in_order(
    sums: list[np.ndarray], means: np.ndarray, num_images: int, tables: Tables
) -> Moments:
    """Brings the sums of `measure_images` to the order and form of `Moments`."""
    counts, gram, cross, near, lines, ring_powers, spectrum = sums
    channels, layout = len(means) // 2, tables.layout
    mean = means[:channels]
    members = [band.frequencies for band in tables.bands]
    order = np.argsort(np.concatenate(members))
    band_of = np.repeat(np.arange(len(members)), [len(own) for own in members])
    whole = Places.of(np.arange(math.prod(layout.shape)), layout.shape)
    steady = np.abs(scipy.fft.fft2((mean - mean.mean()) * layout.window)) ** 2
    at_centers = scipy.fft.fft2(mean * layout.window).reshape(channels, -1)
    at_centers = at_centers[:, layout.centers]  # (C, A)
    return Moments(
        layout=layout,
        num_images=num_images,
        mean_image=np.moveaxis(mean, 0, 2),
        power=(
            spectrum[whole.index].reshape(layout.shape) / channels / num_images
            + steady.mean(axis=0)
        ),
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
