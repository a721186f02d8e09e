"""Blocks of JPEG compression, which are locked to the pixel grid as well.

JPEG codes squares of 8x8 pixels on their own, so that neighbouring pixels differ more
across the border of two squares. The sign of these steps is random, and they lie on the
axes, where the readings of the meter are of little use.
"""

import math
from dataclasses import dataclass

import numpy as np

from analysis.checkerboard.moments import grey_levels

BLOCK_PX = 8
MAX_IMAGES = 2000
Z_FOUND = 5.0
RATIO_FOUND = 1.05


@dataclass(frozen=True)
class Blocks:
    """How much more pixels differ across the borders of 8-pixel blocks.

    Attributes:
        ratio: mean squared difference there over that four pixels away, divided by the
            same of real images; 1 without blocks.
        z: its logarithm in standard errors over images.
    """

    ratio: float
    z: float

    @property
    def found(self) -> bool:
        """Whether there are such blocks beyond doubt."""
        return self.z > Z_FOUND and self.ratio > RATIO_FOUND


def measure_blocks(images: np.ndarray, real: np.ndarray) -> Blocks:
    """Compares differences across block borders with those in the middle of blocks.

    Both places have the same phase for periods of 2 and 4 pixels, so that the pattern
    of one or two doublings does not count. Strong compression is found (quality 60 and
    less of noisy images); weak compression (80 and more) leaves steps too small.

    Args:
        images: uint8 or floats in [-1, 1], (N, H, W, C); the first MAX_IMAGES are used.
        real: real images, whose objects may have edges at fixed places as well.
    """
    (log, variance), (usual, usual_variance) = map(log_ratio, (images, real))
    error = math.sqrt(variance + usual_variance + 1e-18)
    return Blocks(math.exp(log - usual), (log - usual) / error)


def log_ratio(images: np.ndarray) -> tuple[float, float]:
    """Logarithm of the ratio of both mean squared differences, and its variance."""
    levels = grey_levels(images[:MAX_IMAGES])
    border, middle = np.zeros(len(levels)), np.zeros(len(levels))
    for axis in (1, 2):
        steps = np.square(np.diff(levels, axis=axis)).mean(axis=(3 - axis, 3))
        border += steps[:, BLOCK_PX - 1 :: BLOCK_PX].mean(axis=1)
        middle += steps[:, BLOCK_PX // 2 - 1 :: BLOCK_PX].mean(axis=1)
    total = np.array([border.sum(), middle.sum()]) + 1e-9
    without = np.log((total[0] - border) / (total[1] - middle))
    return math.log(total[0] / total[1]), (len(levels) - 1) * float(without.var())
