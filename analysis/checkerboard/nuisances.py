"""Changes of real images that add no pattern but fool meters of spectra.

What each does to a reading is the resolution of that reading. Samples may differ from
real images in each of these ways: sharper, softer, noisier, darker, moved, turned, or
with another mixture of contents, for which some of the real images are read alone.
"""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import scipy.ndimage

from analysis.checkerboard.meter import (
    READINGS,
    TINY,
    Resolution,
    content_power,
    fit_gain,
    fit_line,
    read_free,
)
from analysis.checkerboard.moments import Moments, measure_moments
from gan.data.images import round_to_uint8

MAX_VALUES = 4_000_000  # pixels times channels that are changed at a time
EXTREME_SHARE = 0.1  # of the images, by contrast or direction of their edges
FEWEST_IMAGES = 50  # of a part of the images that is read alone


def nuisances(
    images: np.ndarray, labels: np.ndarray | None, seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Names of the changes and the changed images, uint8.

    Args:
        images: uint8 (N, H, W, C); the first of them are changed, all are chosen from.
        labels: int (N,), classes of the images; None: not known.
        seed: of the noise.
    """
    most = max(500, MAX_VALUES // int(np.prod(images.shape[1:])))
    chosen, images = images, images[:most]
    levels = images.astype(np.float32)
    noise = np.random.default_rng(seed).normal(0, 20, levels.shape)
    soft = scipy.ndimage.gaussian_filter(levels, (0, 0.7, 0.7, 0))
    changes: dict[str, Callable[[], np.ndarray]] = {
        "noise of 20 levels": lambda: levels + noise,
        "blur": lambda: soft,
        "sharpening": lambda: levels + 1.5 * (levels - soft),
        "gamma 1.4": lambda: 255 * (levels / 255) ** 1.4,
        "two levels": lambda: np.where(levels > 127, 255.0, 0.0),
        "median of 3x3": lambda: scipy.ndimage.median_filter(levels, (1, 3, 3, 1)),
        "dilation": lambda: scipy.ndimage.grey_dilation(levels, (1, 3, 3, 1)),
        "contrast times 0.8": lambda: 0.8 * (levels - 127.5) + 127.5,
        "moved by a pixel": lambda: np.roll(levels, (1, 1), (1, 2)),
        "mirrored": lambda: levels[:, :, ::-1],
    }
    if images.shape[1] == images.shape[2]:
        changes["turned by 90 degrees"] = lambda: np.rot90(levels, axes=(1, 2))
    for name, change in changes.items():
        yield name, round_to_uint8(change())
    for name, score in (("contrast", contrast), ("edge direction", edge_direction)):
        order = np.argsort(score(chosen))
        number = min(max(int(EXTREME_SHARE * len(order)), FEWEST_IMAGES), most)
        yield f"images of the least {name}", chosen[order[:number]]
        yield f"images of the most {name}", chosen[order[-number:]]
    for label in [] if labels is None else np.unique(labels):
        members = chosen[labels == label][:most]
        if FEWEST_IMAGES <= len(members):
            yield f"images of class {label}", members


def contrast(images: np.ndarray) -> np.ndarray:
    """Standard deviation of each image: (N,)."""
    return images.std(axis=(1, 2, 3), dtype=np.float32)


def edge_direction(images: np.ndarray) -> np.ndarray:
    """Logarithm of the power of vertical over that of horizontal edges: (N,)."""
    across, down = (
        np.array(
            [np.square(np.diff(i.astype(np.int32), axis=axis)).mean() for i in images]
        )
        for axis in (1, 0)
    )
    return np.log((across + 1) / (down + 1))


def measure_resolution(
    images: np.ndarray,
    reference: Moments,
    labels: np.ndarray | None = None,
    seed: int = 0,
) -> Resolution:
    """Changes real images in ways that add no pattern, and reads what that does.

    Args:
        images: real images, not those of the reference.
        reference: of the other half of the real images.
        labels: int (N,), classes of the images, each of which is then read alone.
        seed: of the noise that one of the changes adds.
    """
    frequencies = reference.layout.frequencies
    sizes: list[dict[str, tuple[float, str]]] = [{} for _ in frequencies]
    for change, changed in nuisances(images, labels, seed):
        moments = measure_moments(changed, reference.layout.strides)
        for k in range(len(frequencies)):
            for name, size in excesses(k, moments, reference):
                if size > sizes[k].get(name, (0.0, ""))[0]:
                    sizes[k][name] = size, change
    return Resolution(tuple(sizes))


def excesses(
    k: int, moments: Moments, reference: Moments
) -> Iterable[tuple[str, float]]:
    """Upper ends of the 95 % intervals of what a change does to each reading.

    Other images of the same kind may have as much, so that few real images give a large
    resolution. Off the axes content leaves no gain and no fixed pattern. There only
    what is significant alone at 1 % counts, since chance is no nuisance.
    """
    on_axis = reference.layout.frequencies[k].on_axis
    gain = fit_gain(moments, k).minus(fit_gain(reference, k))
    scale = 100 / math.sqrt(max(content_power(moments, k), TINY))
    line = fit_line(moments, k).minus(fit_line(reference, k))
    for name, fit, unit in ((READINGS[0], gain, scale), (READINGS[1], line, 1.0)):
        if on_axis or fit.test()[0] < math.log(0.01):
            yield name, fit.estimate(unit).high
    for part in range(0 if on_axis else reference.ring_powers.shape[3]):
        name = READINGS[2] if part == 0 else "free_chroma_levels"
        free = read_free((moments, reference, moments), k, part, 1, 0.0)
        yield name, free.samples.high
