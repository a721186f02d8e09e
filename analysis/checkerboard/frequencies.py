"""At which frequencies can an upsampling lock something to the pixel grid?

An upsampling by s leaves copies ("images") of the low frequencies around every multiple
of 1/s cycles per pixel unless its kernel removes them. Behind several upsamplings these
are the multiples of 1/S on both axes, S the product of the strides. Source: multirate
signal processing, where the degree of removal is called image rejection (Crochiere and
Rabiner 1983, Multirate Digital Signal Processing, chapter 2).
"""

import itertools
import math
import operator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import scipy.signal

SMALLEST_SPACING = 4  # bins between two grid frequencies; the window needs one beside
SCANNED_STRIDES = ((2, 2, 2), (2, 2), (2,))  # where the strides are not known


@dataclass(frozen=True)
class GridFrequency:
    """One frequency of the grid, which stands for its conjugate as well.

    Attributes:
        row: vertical frequency in cycles per pixel, above -1/2 and at most 1/2.
        column: the horizontal one.
        stage: 1 if the last upsampling can cause it, 2 if the one before it, ...
        period: smallest number of pixels after which the pattern repeats on both axes.
    """

    row: Fraction
    column: Fraction
    stage: int
    period: int

    @property
    def is_real(self) -> bool:
        """Whether the frequency is its own conjugate, so that its readings are real."""
        return all((2 * f).denominator == 1 for f in (self.row, self.column))

    @property
    def on_axis(self) -> bool:
        """Whether it is horizontal or vertical, where pictures have edges as well."""
        return self.row == 0 or self.column == 0

    @property
    def multiplicity(self) -> int:
        """Number of frequencies that it stands for: 1, or 2 with its conjugate."""
        return 1 if self.is_real else 2

    @property
    def name(self) -> str:
        """Vertical and horizontal frequency, as "(1/4, -1/4)"."""
        return f"({self.row}, {self.column})"


@dataclass(frozen=True, eq=False)
class Layout:
    """Grid frequencies as bins of the transform of images of one size.

    Attributes:
        shape: height and width in pixels, multiples of the product of the strides.
        strides: of the upsamplings, first to last.
        frequencies: all but (0, 0), one of each conjugate pair.
        window: float32 (height, width), a Hann window of sum 1, so that a wave of
            amplitude 1 has a transform of size 1.
        centers: int64 (frequencies,), flat index of each one into (height, width).
        rings: for each frequency the flat indices of its neighbours, 2 or 3 bins away.
        radii: int (frequencies,), the radius in bins of the low frequencies whose
            copies around this frequency are read.
    """

    shape: tuple[int, int]
    strides: tuple[int, ...]
    frequencies: tuple[GridFrequency, ...]
    window: np.ndarray
    centers: np.ndarray
    rings: tuple[np.ndarray, ...]
    radii: tuple[int, ...]

    def band(self, radius: int, center: int = 0) -> np.ndarray:
        """Flat indices of the bins within `radius` of the flat index `center`."""
        steps = np.arange(-radius, radius + 1)
        rows, columns = np.meshgrid(steps, steps, indexing="ij")
        inside = rows**2 + columns**2 <= radius**2
        row, column = divmod(center, self.shape[1])
        return self.flat(rows[inside] + row, columns[inside] + column)

    def flat(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Flat indices of bins, which repeat after the height and the width."""
        return rows % self.shape[0] * self.shape[1] + columns % self.shape[1]


def grid_frequencies(strides: tuple[int, ...]) -> tuple[GridFrequency, ...]:
    """Lists the frequencies that upsamplings by `strides` can lock to the grid.

    Strides 2, 2: stage 1 has (0, 1/2) (1/2, 0) (1/2, 1/2); stage 2 has (0, 1/4)
    (1/4, 0) (1/4, 1/4) (1/4, 1/2) (1/4, -1/4) (1/2, 1/4).
    """
    total = math.prod(strides)
    found = []
    for a, b in itertools.product(range(total), repeat=2):
        if (a, b) == (0, 0) or (a, b) > (-a % total, -b % total):
            continue
        period = total // math.gcd(a, b, total)
        reach = itertools.accumulate(reversed(strides), operator.mul)
        stage = next(i for i, s in enumerate(reach, start=1) if s % period == 0)
        places = (Fraction(n, total) for n in (a, b))
        row, column = (f - 1 if f > Fraction(1, 2) else f for f in places)
        found.append(GridFrequency(row, column, stage, period))
    return tuple(found)


def make_layout(height: int, width: int, strides: tuple[int, ...]) -> Layout:
    """Places the grid frequencies on images of one size.

    Rows and columns at the end that do not fill a period of the grid are left out.

    Raises:
        ValueError: if the images are too small for the strides.
    """
    total = math.prod(strides)
    shape = height // total * total, width // total * total
    if min(shape) < SMALLEST_SPACING * total or total < 2:
        raise ValueError(
            f"received images of {height}x{width} px and strides "
            f"{','.join(map(str, strides))}; strides with the product {total} need "
            f"sides of {SMALLEST_SPACING * total} px or more"
        )
    frequencies = grid_frequencies(strides)
    window = np.outer(*(scipy.signal.get_window("hann", side) for side in shape))
    window = (window / window.sum()).astype(np.float32)
    bins = [
        (int(f.row * shape[0]) % shape[0], int(f.column * shape[1]) % shape[1])
        for f in frequencies
    ]
    return Layout(
        shape,
        strides,
        frequencies,
        window,
        np.array([row * shape[1] + column for row, column in bins]),
        tuple(ring(*place, shape, total) for place in bins),
        tuple(
            max(1, min(min(shape) // 8, min(shape) // (2 * f.period) - 1))
            for f in frequencies
        ),
    )


def ring(row: int, column: int, shape: tuple[int, int], total: int) -> np.ndarray:
    """Flat indices of the bins 2 or 3 away from one, and 2 or more from the grid's.

    For a bin on an axis only those on that axis, where pictures have a ridge of power.
    """
    near = range(-3, 4)
    offsets = [(i, j) for i in near for j in near if max(abs(i), abs(j)) >= 2]
    if row == 0 or column == 0:
        offsets = [(i, j) for i, j in offsets if (i if row == 0 else j) == 0]
    places = [((row + i) % shape[0], (column + j) % shape[1]) for i, j in offsets]

    def gap(position: int, side: int) -> int:
        step = side // total
        return min(position % step, -position % step)

    kept = [p for p in places if max(gap(p[0], shape[0]), gap(p[1], shape[1])) >= 2]
    return np.array([row * shape[1] + column for row, column in kept])


def strides_to_scan(height: int, width: int) -> tuple[int, ...]:
    """The most doublings, three at most, that images of this size let one look for.

    Raises:
        ValueError: if the images are too small for a single one.
    """
    for strides in SCANNED_STRIDES:
        total = math.prod(strides)
        if min(height, width) // total >= SMALLEST_SPACING:
            return strides
    raise ValueError(
        f"received images of {height}x{width} px, expected sides of "
        f"{2 * SMALLEST_SPACING} px or more"
    )
