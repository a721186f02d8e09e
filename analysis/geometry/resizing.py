"""One axis of a resize, in exact fractions, and the calls that compute the same.

A rule of coordinates says where on the input each output pixel lies. An interpolation
turns the pixels around that place into one value. Sources: the operator Resize of ONNX,
which names the rules, and Keys 1981, doi:10.1109/TASSP.1981.1163711 (cubic convolution
with a coefficient a).
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor
from typing import Literal, get_args

from analysis.geometry.arithmetic import AxisGeometry, Interpolation, resize_axis

Coordinates = Literal["half-pixel", "align-corners", "asymmetric"]
FORMULAS = {
    "half-pixel": "(n + 1/2)*{i}/{o} - 1/2",
    "align-corners": "n*({i}-1)/({o}-1)",
    "asymmetric": "n*{i}/{o}",
}
KEYS, SHARPER = Fraction(-1, 2), Fraction(-3, 4)  # the coefficient a of bicubic
TABLE_STEPS = 1024  # per pixel, of the table from which TensorFlow takes cubic weights
LIMITS = {
    "Keras": "it has half-pixel coordinates and a = -0.5",
    "PyTorch": "it has half-pixel, or align_corners=True but for nearest (a = -0.75)",
    "TensorFlow": "it has a = -0.5 with half-pixel and -0.75 with other coordinates",
}


@dataclass(frozen=True)
class Resize:
    """One axis of a resize without a filter against aliasing; sizes in pixels.

    Beyond the map, bilinear and bicubic repeat the pixel at the edge. Bicubic with
    a = -1/2 reads nothing there and divides by the sum of the weights inside, as
    TensorFlow does. `in_float32` rounds the coordinate of nearest as TensorFlow 1 and
    PyTorch's `nearest` do, which can move it across a whole number.
    """

    input_size: int
    output_size: int
    interpolation: Interpolation = "nearest"
    coordinates: Coordinates = "half-pixel"
    cubic_a: Fraction = KEYS
    in_float32: bool = False

    def line(self) -> tuple[Fraction, Fraction]:
        """The (step, start) of the place step*n + start of output n on the input."""
        step, start = Fraction(self.input_size, self.output_size), Fraction(0)
        if self.coordinates == "align-corners":
            step = Fraction(self.input_size - 1, max(self.output_size - 1, 1))
        elif self.coordinates == "half-pixel":
            start = (step - 1) / 2
        return step, start

    def coordinate(self, n: int) -> Fraction:
        """The place of output n on the input, in input pixels from the first one."""
        step, start = self.line()
        return step * n + start

    def weights(self, n: int) -> dict[int, Fraction]:
        """The weight of each input pixel that output n reads."""
        x, reach = self.coordinate(n), self._reach
        if self.interpolation == "nearest":
            if self.in_float32:
                x = Fraction(_float32(_float32(self.line()[0]) * n))
            rounding = 0 if self.coordinates == "asymmetric" else Fraction(1, 2)
            return {floor(x + rounding): Fraction(1)}
        found: dict[int, Fraction] = {}
        for j in range(floor(x) - reach + 1, floor(x) + reach + 1):
            inside = min(max(j, 0), self.input_size - 1)
            if self._repeats_edge or j == inside:
                found[inside] = found.get(inside, Fraction(0)) + self._kernel(x - j)
        total = sum(found.values())
        return {j: weight / total for j, weight in found.items() if weight}

    def table(self) -> list[dict[int, Fraction]]:
        """The weights of every output."""
        return [self.weights(n) for n in range(self.output_size)]

    @property
    def _reach(self) -> int:
        """Number of input pixels that an output reads on either side."""
        return 2 if self.interpolation == "bicubic" else 1

    @property
    def _repeats_edge(self) -> bool:
        return self.interpolation == "bilinear" or self.cubic_a != KEYS

    def _kernel(self, distance: Fraction) -> Fraction:
        """The weight at a distance of up to `_reach` pixels."""
        x, a = abs(distance), self.cubic_a
        if self.interpolation == "bilinear":
            return 1 - x
        if x < 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4)

    @property
    def shift_px(self) -> float:
        """Shift of the image against its centre for a whole factor, in output px."""
        if self.coordinates != "asymmetric" or self.interpolation == "nearest":
            return 0.0
        return (1 - self.output_size / self.input_size) / 2

    def geometry(self) -> AxisGeometry:
        """The geometry of a whole factor, or a ValueError that says why it has none."""
        factor, rest = divmod(self.output_size, self.input_size)
        if rest or self.coordinates == "align-corners":
            raise ValueError("it has no constant stride")
        if self.interpolation == "bicubic" and self.cubic_a != KEYS:
            raise ValueError("for bicubic they are known with a = -0.5 alone")
        axis = resize_axis(self.input_size, factor, self.interpolation)
        if not self.shift_px:
            return axis
        half = self._reach * factor
        before, after, kernel = half - 1, half - factor, 2 * half - 1
        return replace(axis, kernel=kernel, pad_before=before, pad_after=after)

    def constructor_call(self) -> str:
        """The resize in the words of the command `explain`."""
        factor = Fraction(self.output_size, self.input_size)
        a = f", a = {float(self.cubic_a)}" if self.interpolation == "bicubic" else ""
        return f"resize by {factor}, {self.interpolation}, {self.coordinates}{a}"

    def formulas(self) -> list[str]:
        """The coordinate in letters and with numbers put in, and what is read there."""
        formula, i, o = FORMULAS[self.coordinates], self.input_size, self.output_size
        letters, numbers = formula.format(i="i", o="o"), formula.format(i=i, o=o)
        step, start = self.line()
        value = f"{step}*n + {start}".removesuffix(" + 0").replace("+ -", "- ")
        reads = f"the {2 * self._reach} inputs around x"
        if self.interpolation == "nearest":
            half = "" if self.coordinates == "asymmetric" else " + 1/2"
            reads = f"input floor(x{half})"
        elif self._repeats_edge:
            reads += "; beyond the map it reads the pixel at the edge"
        else:
            reads += "; the weights inside the map are divided by their sum"
        lines = [f"x = {letters} = {numbers} = {value}", f"Output n reads {reads}."]
        if self.coordinates == "align-corners" and i > 1:
            lines.append(
                f"The scale is (o-1)/(i-1) = {Fraction(o - 1, i - 1)} instead of o/i = "
                f"{Fraction(o, i)}: the first and the last input pixel lie "
                f"{(o / i - 1) / 2:g} output px nearer to the edge than half-pixel "
                "puts them."
            )
        return lines


def _float32(x: float | Fraction) -> float:
    """The nearest number in single precision."""
    return float(struct.unpack("f", struct.pack("f", x))[0])


def same_resizes(axes: Sequence[Resize]) -> list[str]:
    """Says with which calls each framework computes the same as a resize.

    Args:
        axes: one for the height and one for the width, enlarged by whole factors.
    """
    found: dict[str, list[str]] = {}
    tables = [axis.table() for axis in axes]
    for framework, call, computed in framework_calls(axes):
        same = found.setdefault(framework, [])
        if tables == [axis.table() for axis in computed]:
            same.append(call)
    steps = {part.denominator for axis in axes for part in axis.line()}
    rounded = axes[0].interpolation == "bicubic" and any(TABLE_STEPS % s for s in steps)
    lines = []
    for framework, same in found.items():
        calls = " or ".join(same if framework == "PyTorch" else same[:1])
        text = f"{framework} computes the same with {calls}"
        if not same:
            text = f"no resize of {framework} computes the same: {LIMITS[framework]}"
        elif rounded and framework in ("Keras", "TensorFlow"):
            text += f", but for 0.001 per weight: it rounds x to 1/{TABLE_STEPS} px"
        lines.append(text)
    return lines


def framework_calls(axes: Sequence[Resize]) -> Iterator[tuple[str, str, list[Resize]]]:
    """Calls of each framework for the interpolation, and what they compute.

    ONNX has a node for every resize, so only that one is given.
    """
    way, rule, a = axes[0].interpolation, axes[0].coordinates, axes[0].cubic_a
    half, align, asymmetric = get_args(Coordinates)
    factors = tuple(axis.output_size // axis.input_size for axis in axes)
    sizes = tuple(axis.output_size for axis in axes)
    up, old = f"scale_factor={factors}, mode='{way}", f"resize_{way}"
    node = f"Resize(scales={[1, 1, *factors]}, mode='{way.removeprefix('bi')}', "
    node += f"coordinate_transformation_mode='{rule.replace('-', '_')}'"
    torch = [
        (f"Upsample({up}')", half, SHARPER),
        (f"Upsample({up}', align_corners=True)", align, SHARPER),
    ]
    if way == "nearest":
        torch = [
            (f"Upsample({up}')", asymmetric, a),
            (f"Upsample({up}-exact')", half, a),
        ]
        rounding = "floor" if rule == asymmetric else "round_prefer_ceil"
        node, old = f"{node}, nearest_mode='{rounding}'", f"{old}_neighbor"
    elif way == "bicubic":
        node += f", cubic_coeff_a={float(a)}, exclude_outside={int(a == KEYS)}"
        if sizes[-1] > 1:  # PyTorch 2.13 computes other values for a width of 1 px
            torch.append((f"interpolate(x, {up}', antialias=True)", half, KEYS))
    old = f"tf.compat.v1.image.{old}(x, {sizes}"
    calls = [
        ("Keras", f"UpSampling2D({factors}, interpolation='{way}')", half, KEYS),
        *(("PyTorch", *call) for call in torch),
        ("ONNX", f"{node})", rule, a),
        ("TensorFlow", f"tf.image.resize(x, {sizes}, '{way}')", half, KEYS),
        ("TensorFlow", f"{old}, align_corners=True)", align, SHARPER),
        ("TensorFlow", f"{old})", asymmetric, SHARPER),
    ]
    for framework, call, coordinates, cubic_a in calls:
        single = framework != "ONNX" and coordinates != half
        changes = {"coordinates": coordinates, "cubic_a": cubic_a, "in_float32": single}
        yield framework, call, [replace(axis, **changes) for axis in axes]
