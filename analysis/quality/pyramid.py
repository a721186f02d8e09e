"""Distance between the patches of real and generated images, from fine to coarse.

The sliced Wasserstein distance of Karras et al. 2018 (arXiv:1710.10196, section 5)
needs no network, no labels and no training, and takes grey and colour images of any
size from 14 px on. The images become Laplacian pyramids, whose finest level holds edges
and texture, and whose coarsest level is a small, smooth copy. At each level, patches of
7x7 pixels at random places are projected on random directions; the two sets of
projections are sorted, and their mean absolute difference is the distance.

There are two differences from the published program. That one divides each set by its
own standard deviation, which hides a wrong colour and a wrong contrast; here both sets
are scaled by the real one. And the patches of both sets come from the same places, so
that the distance of equal sets is 0. Two different sets of real images have a positive
distance, the floor, which falls with the number of images.
"""

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage

from config.schema import UserError

PATCH_PX = 7
PATCHES_PER_IMAGE = 128
MAX_PATCHES = 2**15  # of one set; of many images fewer patches each are taken
NUM_DIRECTIONS = 512
DIRECTIONS_AT_ONCE = 128
# Two patches side by side. Of sizes that are powers of two this keeps the levels of the
# paper, which end at 16 px.
SMALLEST_LEVEL_PX = 2 * PATCH_PX
NUM_BLOCKS = 10
SMOOTHING = np.array([1, 4, 6, 4, 1], np.float32) / 16  # Burt and Adelson 1983
# In grey levels; rounding to whole levels alone has 0.29. It keeps the scale of real
# images without any detail from being 0.
SMALLEST_DEVIATION = 0.1


def patch_distances(
    real_uint8: np.ndarray,
    fake_uint8: np.ndarray,
    *,
    num_directions: int = NUM_DIRECTIONS,
    seed: int = 0,
) -> dict[str, float]:
    """Returns the distance of two sets of images by level, and its mean over levels.

    The unit is a thousandth of the standard deviation of real patches, so that values
    are of the size of those in papers ("SWD x 10^3"). The standard error is that of
    disjoint blocks: ten tenths of both sets are compared too, and the error is the
    scatter of these ten distances, divided by the root of ten. Over 40 pairs of sets it
    was between two thirds of the true scatter and a tenth more.

    Args:
        real_uint8: uint8 (N, H, W, C), at least 10 images.
        fake_uint8: uint8 of the same shape.
        num_directions: of the projections, a multiple of 128; fewer take less time and
            change the value by chance only.
        seed: of the places of the patches, the directions and the blocks.

    Returns:
        swd_64px, swd_32px, ... by the height of the level, and swd_mean; each also with
        `_se`, its standard error. Nothing for images of less than 14 px.

    Raises:
        UserError: if the shapes differ, or there are fewer than 10 images.
    """
    shape = real_uint8.shape
    if fake_uint8.shape != shape or shape[0] < NUM_BLOCKS:
        raise UserError(
            f"patch distances: received {fake_uint8.shape} and real {shape}, expected "
            f"equal shapes (N, H, W, C) with at least {NUM_BLOCKS} images"
        )
    if min(shape[1:3]) < SMALLEST_LEVEL_PX:
        return {}
    order = np.random.default_rng([seed, 0]).permutation(shape[0])
    levels = {}
    for real, fake in zip(
        *(laplacian_pyramid(images[order]) for images in (real_uint8, fake_uint8)),
        strict=True,
    ):
        random = np.random.default_rng([seed, real.shape[1]])
        distances = level_distance(real, fake, random, num_directions)
        levels[f"{real.shape[1]}px"] = distances
    levels["mean"] = np.mean(list(levels.values()), axis=0)
    result = {}
    for name, (value, *blocks) in levels.items():
        result[f"swd_{name}"] = float(1000 * value)
        error = np.std(blocks, ddof=1) / np.sqrt(NUM_BLOCKS)
        result[f"swd_{name}_se"] = float(1000 * error)
    return result


def laplacian_pyramid(images_uint8: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the levels of (N, H, W, C), finest first, in grey levels, float32.

    Each level is the images minus what the next, half as large level says of them; the
    last one is what remains. Their sum, after enlarging, is the images.
    """
    images = images_uint8.astype(np.float32)
    while min(images.shape[1:3]) >= 2 * SMALLEST_LEVEL_PX:
        coarse = halve(images)
        enlarged = np.zeros_like(images)
        enlarged[:, ::2, ::2] = 4 * coarse
        yield images - smooth(enlarged)
        images = coarse
    yield images


def coarse_points(images_uint8: np.ndarray) -> np.ndarray:
    """Returns the coarsest levels of (N, H, W, C) as points, float32 (N, values)."""
    parts = []
    for start in range(0, len(images_uint8), 1000):  # floats of all need much memory
        images = images_uint8[start : start + 1000].astype(np.float32)
        while min(images.shape[1:3]) >= 2 * SMALLEST_LEVEL_PX:
            images = halve(images)
        parts.append(images.reshape(len(images), -1))
    return np.concatenate(parts)


def halve(images: np.ndarray) -> np.ndarray:
    """Smooths images (N, H, W, C) and takes every second row and column."""
    return smooth(images)[:, ::2, ::2]


def smooth(images: np.ndarray) -> np.ndarray:
    """Applies [1, 4, 6, 4, 1] / 16 along both axes; the borders mirror the image."""
    for axis in (1, 2):
        images = ndimage.correlate1d(images, SMOOTHING, axis, mode="mirror")
    return images


def level_distance(
    real: np.ndarray,
    fake: np.ndarray,
    random: np.random.Generator,
    num_directions: int,
) -> np.ndarray:
    """Returns the distance of one level (N, H, W, C), then those of ten blocks, (11,).

    The unit is the standard deviation of real patches, of each channel by itself.
    """
    num_images, height, width, channels = real.shape
    count = min(PATCHES_PER_IMAGE, max(1, MAX_PATCHES // num_images))
    rows, columns = (
        random.integers(0, side - PATCH_PX + 1, (num_images, count))
        for side in (height, width)
    )
    places = np.arange(num_images)[:, np.newaxis], rows, columns
    window = PATCH_PX, PATCH_PX
    patches = [
        sliding_window_view(level, window, axis=(1, 2))[places]  # (N, count, C, 7, 7)
        for level in (real, fake)
    ]
    axes = (0, 1, 3, 4)
    mean, deviation = (f(patches[0], axes, keepdims=True) for f in (np.mean, np.std))
    scale = np.maximum(deviation, SMALLEST_DEVIATION)
    vectors = [
        ((p - mean) / scale).reshape(num_images * count, -1).T  # (49 C, patches)
        for p in patches
    ]
    directions = random.standard_normal(
        (num_directions, PATCH_PX**2 * channels), dtype=np.float32
    )
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    in_blocks = num_images // NUM_BLOCKS * NUM_BLOCKS * count
    distances = []
    for start in range(0, num_directions, DIRECTIONS_AT_ONCE):
        chunk = directions[start : start + DIRECTIONS_AT_ONCE]
        projections = [chunk @ v for v in vectors]
        blocks = [
            np.sort(p[:, :in_blocks].reshape(len(p), NUM_BLOCKS, -1))
            for p in projections
        ]
        whole = np.abs(np.subtract(*(np.sort(p) for p in projections))).mean()
        parts = np.abs(np.subtract(*blocks)).mean(axis=(0, 2))
        distances.append([whole, *parts])
    return np.mean(distances, axis=0)
