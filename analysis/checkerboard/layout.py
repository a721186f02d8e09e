"""Where a generator's strides put power: the bins, their causes, their neighbours.

A stride s turns a constant into lines at multiples of 1/s; later strides divide these
frequencies. Bins are (row, column) of a two-dimensional DFT, in cycles per image.
"""

import itertools
import math
import operator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import scipy.signal

# scipy's name, and whether the window is periodic; a line stays exact only if it is.
WINDOWS: dict[str, tuple[Any, bool]] = {
    "hann": ("hann", True),
    "rectangular": ("boxcar", True),
    "kaiser": (("kaiser", 8.0), False),
}
Shape = tuple[int, int]


@dataclass(frozen=True)
class Protocol:
    """How a spectrum is taken.

    Attributes:
        window: "hann", or to see how much depends on it "rectangular", or "kaiser" with
            beta 8 as Karras et al. use.
        strides: of the generator's upsamplings, first to last.
        crop_px: side of the central square that is used; 0: everything. Sides are cut
            to a multiple of the product of the strides.
    """

    window: str = "hann"
    strides: tuple[int, ...] = (2, 2)
    crop_px: int = 0


@dataclass(frozen=True)
class Line:
    """One bin where strides put power, standing for its conjugate too.

    Attributes:
        row: vertical bin.
        column: horizontal bin.
        layer: 1 if the last upsampling causes it, 2 if the one before, ...
        multiplicity: 1 if the bin is its own conjugate, else 2.
        center: its index into `Layout.cells`.
        ring: indices of its neighbours into `Layout.cells`.
    """

    row: int
    column: int
    layer: int
    multiplicity: int
    center: int
    ring: tuple[int, ...]

    @property
    def name(self) -> str:
        """The bin as "row,column"."""
        return f"{self.row},{self.column}"


@dataclass(frozen=True, eq=False)
class Layout:
    """What a protocol means at one image size.

    Attributes:
        shape: height and width in pixels after cropping.
        strides: of the protocol.
        window: float64 (height, width).
        lines: all lines but DC.
        cells: flat indices into a half spectrum (height, width // 2 + 1): all that the
            lines and their neighbours need.
    """

    shape: Shape
    strides: tuple[int, ...]
    window: np.ndarray
    lines: tuple[Line, ...]
    cells: np.ndarray

    def label(self, line: Line) -> str:
        """Vertical and horizontal frequency in cycles per pixel, as "1/4, -1/4"."""
        places = zip((line.row, line.column), self.shape, strict=True)
        parts = [Fraction(position, side) for position, side in places]
        return ", ".join(str(f - 1 if f > Fraction(1, 2) else f) for f in parts)

    @property
    def line_gain(self) -> float:
        """Squared amplitude of a complex wave per unit power: sum w^2 / (sum w)^2."""
        return float((self.window**2).sum() / self.window.sum() ** 2)


def make_layout(height: int, width: int, protocol: Protocol) -> Layout:
    """Places window, lines and neighbourhoods on images of one size.

    Raises:
        ValueError: if the strides leave no room between lines.
    """
    total = math.prod(protocol.strides)
    limit = protocol.crop_px or max(height, width)
    shape = min(height, limit) // total * total, min(width, limit) // total * total
    if min(shape) < 4 * total:
        raise ValueError(
            f"received {height}x{width} px (crop {protocol.crop_px}), expected sides "
            f"of {4 * total} px or more for strides {protocol.strides}"
        )
    kind, periodic = WINDOWS[protocol.window]
    window = np.outer(
        *(scipy.signal.get_window(kind, side, fftbins=periodic) for side in shape)
    )
    index: dict[int, int] = {}
    lines = []
    for row, column, layer in line_bins(shape, protocol.strides):
        places = [(row, column), *neighbours(row, column, shape, total)]
        flat = [index.setdefault(_flat(place, shape), len(index)) for place in places]
        conjugate = (-row % shape[0], -column % shape[1])
        multiplicity = 1 if conjugate == (row, column) else 2
        lines.append(Line(row, column, layer, multiplicity, flat[0], tuple(flat[1:])))
    cells = np.fromiter(index, np.int64)
    return Layout(shape, protocol.strides, window, tuple(lines), cells)


def _flat(place: Shape, shape: Shape) -> int:
    """Index of a bin, or of its conjugate, into the flattened half spectrum."""
    (row, column), (height, width) = place, shape
    if column > width // 2:
        row, column = -row % height, width - column
    return row * (width // 2 + 1) + column


def line_bins(shape: Shape, strides: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Lists (row, column, layer) of all lines but DC, one of each conjugate pair.

    28x28 and strides 2, 2: layer 1 has (14,0) (0,14) (14,14), layer 2 (7,0) (0,7) (7,7)
    (7,14) (7,21) (14,7).
    """
    total = math.prod(strides)
    found = []
    for a, b in itertools.product(range(total), repeat=2):
        if (a, b) == (0, 0) or (a, b) > (-a % total, -b % total):
            continue
        # The last layer makes multiples of 1/stride; what is not, came from before.
        period = total // math.gcd(a, b, total)
        reach = itertools.accumulate(reversed(strides), operator.mul)
        layer = next(i for i, s in enumerate(reach, start=1) if s % period == 0)
        found.append((a * shape[0] // total, b * shape[1] // total, layer))
    return found


def neighbours(row: int, column: int, shape: Shape, total: int) -> list[Shape]:
    """Bins at Chebyshev distance 2 or 3, at least 2 away from every line.

    For a bin on a frequency axis only those on that axis: real images have a ridge
    there, and against a full ring they would seem to have a line.
    """
    near = range(-3, 4)
    offsets = [(i, j) for i in near for j in near if max(abs(i), abs(j)) >= 2]
    if row == 0 or column == 0:
        offsets = [(i, j) for i, j in offsets if (i if row == 0 else j) == 0]
    places = [((row + i) % shape[0], (column + j) % shape[1]) for i, j in offsets]

    def gap(position: int, side: int) -> int:
        step = side // total
        return min(position % step, -position % step)

    return [p for p in places if max(gap(p[0], shape[0]), gap(p[1], shape[1])) >= 2]
