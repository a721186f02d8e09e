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


def squares(levels: np.ndarray) -> np.ndarray:
    """Squared distance of smoothed images from middle grey, scaled to 0..127.5.

    Without smoothing, the square of a pattern added to an image would explain it.
    """
    smooth = scipy.ndimage.uniform_filter(levels, (1, SMOOTHING_PX, SMOOTHING_PX, 1))
    return (smooth - np.float32(MID_LEVEL)) ** 2 / np.float32(MID_LEVEL)


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
    weights = np.ones(len(images)) if weights is None else np.asarray(weights, float)
    weights = weights * (len(images) / weights.sum())
    means = mean_images(images, weights, layout)
    if not np.isfinite(means[0]).all():
        raise ValueError("received values that are not finite")
    sums: list[np.ndarray] = []
    num_groups = min(len(images), NUM_GROUPS)

    def measure_chunk(chunk: slice) -> tuple[np.ndarray, list[np.ndarray]]:
        groups = np.arange(chunk.start, chunk.stop) % NUM_GROUPS
        return groups, measure_images(images[chunk], weights[chunk], means, layout)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for groups, found in pool.map(measure_chunk, chunks(images)):
            if not sums:
                sums = [
                    np.zeros(
                        (num_groups, *values.shape[1:]),
                        np.result_type(values, np.float64),
                    )
                    for values in found[:-1]
                ] + [np.zeros(layout.shape)]
            for total, values in zip(sums[:-1], found[:-1], strict=True):
                total[groups] += values  # no group stands twice in a chunk
            sums[-1] += found[-1]
    *grouped, power = sums
    counts, gram, cross, near, lines, ring_powers = (
        values if values.ndim == 1 else values.swapaxes(0, 1) for values in grouped
    )
    mean = np.moveaxis(means[0] - means[0].mean(), 2, 0)
    steady = np.abs(scipy.fft.fft2(mean * layout.window)) ** 2
    power = power / len(images) + steady.mean(axis=0)
    per_radius = {radius: i for i, radius in enumerate(sorted(set(layout.radii)))}
    gram = gram[[per_radius[radius] for radius in layout.radii]]
    return Moments(
        layout,
        len(images),
        means[0],
        power,
        counts,
        gram,
        cross,
        near,
        lines,
        ring_powers,
    )


def chunks(images: np.ndarray) -> Iterator[slice]:
    """Cuts a set into pieces that stay in the cache, none longer than NUM_GROUPS."""
    size = max(1, min(NUM_GROUPS, CHUNK_VALUES // math.prod(images.shape[1:])))
    for start in range(0, len(images), size):
        yield slice(start, min(start + size, len(images)))


def mean_images(images: np.ndarray, weights: np.ndarray, layout: Layout) -> np.ndarray:
    """Means of the images and of their squares: float64 (2, height, width, C)."""
    height, width = layout.shape
    total = np.zeros((2, height, width, images.shape[3]))
    for chunk in chunks(images):
        levels = grey_levels(images[chunk, :height, :width])
        share = weights[chunk].astype(np.float32)
        for sums, values in zip(total, (levels, squares(levels)), strict=True):
            sums += np.tensordot(share, values, 1)
    return total / len(images)


def measure_images(
    images: np.ndarray, weights: np.ndarray, means: np.ndarray, layout: Layout
) -> list[np.ndarray]:
    """Takes the products of each image of a chunk, and the sum of their spectra."""
    height, width = layout.shape
    levels = grey_levels(images[:, :height, :width])
    num_images, channels = len(levels), levels.shape[3]
    pairs = zip((levels, squares(levels)), means.astype(np.float32), strict=True)
    centered = np.concatenate([values - mean for values, mean in pairs], axis=3)
    transforms = scipy.fft.fft2(np.moveaxis(centered, 3, 1) * layout.window)
    explaining = transforms.reshape(num_images, 2 * channels, -1)  # (n, K, bins)
    explained = explaining[:, :channels]
    gram = {}
    for radius in sorted(set(layout.radii)):
        low = explaining[:, :, layout.band(radius)]
        gram[radius] = low.conj(), low.conj() @ low.swapaxes(1, 2)
    cross, near = [], []
    for radius, center in zip(layout.radii, layout.centers, strict=True):
        high = explained[:, :, layout.band(radius, center)]
        cross.append(gram[radius][0] @ high.swapaxes(1, 2))
        near.append(np.square(np.abs(high)).sum(axis=(1, 2)))
    means_there = scipy.fft.fft2(np.moveaxis(means[0], 2, 0) * layout.window)
    lines = explained[:, :, layout.centers]
    lines = lines + means_there.reshape(channels, -1)[:, layout.centers]
    powers = separate_powers(explained)  # (n, P, bins)
    rings = np.stack([powers[:, :, r].mean(axis=2) for r in layout.rings], axis=1)
    at_center = powers[:, :, layout.centers].swapaxes(1, 2)
    per_image = [
        np.stack([products for _, products in gram.values()], axis=1),
        np.stack(cross, axis=1),
        np.stack(near, axis=1),
        lines.swapaxes(1, 2),
        np.stack([at_center, rings], axis=2),
    ]
    weighted = [
        values * weights.reshape(-1, *[1] * (values.ndim - 1)) for values in per_image
    ]
    spectra = np.square(np.abs(explained)).mean(axis=1)
    return [weights, *weighted, np.tensordot(weights, spectra, 1).reshape(layout.shape)]


def separate_powers(transforms: np.ndarray) -> np.ndarray:
    """Power of grey images, or of luminance and chroma: (n, C, ·) to (n, P, ·)."""
    if transforms.shape[1] == 1:
        return np.square(np.abs(transforms))
    luminance = np.tensordot(LUMA, transforms, (0, 1))
    chroma = np.square(np.abs(transforms - luminance[:, np.newaxis])).mean(axis=1)
    return np.stack([np.square(np.abs(luminance)), chroma], axis=1)
