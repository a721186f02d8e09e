"""Where each output pixel of a layer comes from, in exact integers, one axis at a time.

A layer has one `AxisGeometry` for each of its spatial axes. There are two families. A
*gather* (conv, pool, pad, crop) computes output n from the inputs
`stride*n + dilation*tap - pad_before`. A *scatter* (transpose, nearest, bilinear,
bicubic, shuffle) adds input j to the positions `stride*j + dilation*tap` of a full
output and then crops `pad_before` rows off its beginning.

Sources: Dumoulin & Visin 2016, arXiv:1603.07285 (arithmetic); Odena et al. 2016,
doi:10.23915/distill.00003 (overlap). Dumoulin's relationships assume symmetric padding.
TensorFlow's SAME padding is asymmetric and, for a transposed convolution, follows from
the *output* size, so it has its own builder here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import product
from typing import Literal, NamedTuple

Interpolation = Literal["nearest", "bilinear", "bicubic"]
Kind = Literal["conv", "pool", "pad", "crop", "transpose", "shuffle"] | Interpolation
Level = Literal["error", "warning", "info"]
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
SCATTER_KINDS = ("transpose", "shuffle", *INTERPOLATIONS)
INSERTED, PADDED = -1, -2  # in ThreeSteps.cells: a zero, not an input index


class Finding(NamedTuple):
    """A rule that a layer breaks; its code is E1, W3 and so on."""

    code: str
    level: Level
    text: str


@dataclass(frozen=True)
class ThreeSteps:
    """A layer as an ordinary correlation over a prepared row of cells.

    Output n sums `cells[step*n + dilation*q] * kernel[kernel_order[q]]` over all q. A
    cell is an input index, INSERTED or PADDED; negative pads crop.
    """

    cells: tuple[int, ...]
    pad_before: int
    pad_after: int
    kernel_order: tuple[int, ...]
    step: int
    dilation: int


@dataclass(frozen=True)
class AxisGeometry:
    """The geometry of one axis of one layer; all sizes in pixels.

    The pads are zeros that a gather adds to its input, or rows that a scatter crops off
    its full output (PyTorch's output padding can make `pad_after` negative: rows are
    added). `problems` are the errors that stop the layer from running.
    """

    kind: Kind
    input_size: int
    output_size: int
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    pad_before: int = 0
    pad_after: int = 0
    problems: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        for name in ("input_size", "kernel", "stride", "dilation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")

    @property
    def feasible(self) -> bool:
        """Whether the layer can run at all."""
        return not self.problems

    @property
    def is_scatter(self) -> bool:
        """Whether each input is spread over several outputs."""
        return self.kind in SCATTER_KINDS

    @property
    def effective_kernel(self) -> int:
        """Span of the dilated kernel: (k-1)d+1."""
        return effective_kernel(self.kernel, self.dilation)

    @property
    def effective_pad_after(self) -> int:
        """Rows cropped off the end (scatter) or read beyond it (gather), signed."""
        sizes = self.input_size, self.output_size
        coarse, fine = sizes if self.is_scatter else sizes[::-1]
        length = (coarse - 1) * self.stride + self.effective_kernel
        return length - fine - self.pad_before

    @cached_property
    def terms(self) -> tuple[list[tuple[int, int]], ...]:
        """For each output, the (input index, kernel tap) pairs that it sums."""
        outputs: list[list[tuple[int, int]]] = [[] for _ in range(self.output_size)]
        for n, tap in product(range(self.output_size), range(self.kernel)):
            if self.is_scatter:
                j, rest = divmod(n + self.pad_before - self.dilation * tap, self.stride)
            else:
                j = self.stride * n + self.dilation * tap - self.pad_before
                rest = 0
            if self.kind == "bilinear":  # repeats its edge pixels
                j = min(max(j, 0), self.input_size - 1)
            if 0 <= j < self.input_size and not rest:
                outputs[n].append((j, tap))
        return tuple(outputs)

    def apply(self, values: Sequence[float]) -> list[float]:
        """The outputs for the inputs `values`, with `fixed_taps` as the kernel."""
        taps, outputs = self.fixed_taps, []
        for pairs in self.terms:
            total = sum(taps[tap] * values[j] for j, tap in pairs)
            if self.kind in ("pool", "bicubic"):  # pools as means
                total /= sum(taps[tap] for _, tap in pairs) or 1
            outputs.append(total)
        return outputs

    @property
    def fixed_taps(self) -> tuple[float, ...]:
        """An interpolation's weights, x2 bilinear [1, 3, 3, 1] / 4; ones elsewhere.

        Bicubic is the cubic convolution of Keys 1981 with a = -1/2, which TensorFlow
        tabulates in steps of 1/1024.
        """
        centre = (self.kernel - 1) / 2
        distances = [abs(tap - centre) / self.stride for tap in range(self.kernel)]
        if self.kind == "bilinear":
            return tuple(1 - x for x in distances)
        if self.kind == "bicubic":
            near, far = (1.5, -2.5, 0, 1), (-0.5, 2.5, -4, 2)
            rounded = [round(1024 * x) / 1024 for x in distances]
            cubics = [(x, near if x < 1 else far) for x in rounded]
            return tuple(a * x**3 + b * x**2 + c * x + d for x, (a, b, c, d) in cubics)
        return (1.0,) * self.kernel

    def overlap(self) -> list[float]:
        """How many products each output sums: ones through an all-ones kernel."""
        return self.apply([1] * self.input_size)

    def taps_by_phase(self) -> tuple[int, ...]:
        """Number of taps at each output phase, (n + pad_before) mod stride.

        Unequal numbers mean an uneven overlap: k5 s2 gives (3, 2).
        """
        if self.kind in INTERPOLATIONS or not self.is_scatter:
            return (self.kernel,)
        phases = [self.dilation * tap % self.stride for tap in range(self.kernel)]
        return tuple(phases.count(phase) for phase in range(self.stride))

    @property
    def border_px(self) -> tuple[int, int]:
        """Width of the border at either end, where some taps fall outside the input."""
        before, after = self.clean_margins()
        return min(before, self.output_size), min(after, self.output_size)

    @property
    def zero_rows(self) -> tuple[int, ...]:
        """Outputs that no input reaches: they are always zero (plus the bias)."""
        return tuple(n for n, pairs in enumerate(self.terms) if not pairs)

    @property
    def shift_px(self) -> float:
        """Shift of the image against its centre, output px, + to the lower right."""
        if self.is_scatter:
            return (self.effective_pad_after - self.pad_before) / 2
        return (self.pad_before - self.effective_pad_after) / (2 * self.stride)

    def output_field(self, num_inputs: int = 1) -> int:
        """Largest number of outputs that neighbouring inputs reach, borders ignored."""
        if self.is_scatter:
            return (num_inputs - 1) * self.stride + self.effective_kernel
        return -(-(num_inputs + self.effective_kernel - 1) // self.stride)

    def clean_margins(self, previous: tuple[int, int] = (0, 0)) -> tuple[int, int]:
        """Numbers of outputs at either end that depend on `previous` border inputs."""
        s, reach = self.stride, self.effective_kernel
        if self.is_scatter:
            before = s * (previous[0] - 1) + reach - self.pad_before
            after = self.output_size - s * (self.input_size - previous[1])
            after += self.pad_before
        else:
            before = -(-(previous[0] + self.pad_before) // s)
            last = (self.input_size - previous[1] - reach + self.pad_before) // s
            after = self.output_size - 1 - last
        return max(before, 0), max(after, 0)

    def three_steps(self) -> ThreeSteps:
        """The same result by zero insertion, padding and a plain sliding kernel."""
        spacing, step, order = 1, self.stride, tuple(range(self.kernel))
        before, after = self.pad_before, self.effective_pad_after
        if self.is_scatter:
            spacing, step, order = self.stride, 1, order[::-1]
            before = self.effective_kernel - 1 - before
            after = self.effective_kernel - 1 - after
        length = (self.input_size - 1) * spacing + 1
        cells = [INSERTED if m % spacing else m // spacing for m in range(length)]
        cells = cells[max(-before, 0) : length - max(-after, 0)]
        cells = [PADDED] * before + cells + [PADDED] * after
        return ThreeSteps(tuple(cells), before, after, order, step, self.dilation)

    @property
    def macs(self) -> int:
        """Multiply-accumulates; a layer needs the product over its axes."""
        size = self.input_size if self.is_scatter else self.output_size
        return size * self.kernel

    @property
    def macs_exact(self) -> int:
        """As `macs`, without the products that fall outside the map."""
        return sum(map(len, self.terms))


def effective_kernel(kernel: int, dilation: int = 1) -> int:
    """Span of a kernel with `dilation - 1` gaps between its taps: (k-1)d+1."""
    return (kernel - 1) * dilation + 1


def _broken(level: Level, **rules: tuple[bool, str]) -> tuple[Finding, ...]:
    """The broken ones among rules given as code=(is broken, text)."""
    return tuple(Finding(c, level, text) for c, (bad, text) in rules.items() if bad)


def conv_axis(
    input_size: int,
    kernel: int,
    stride: int = 1,
    padding: Literal["same", "valid", "causal"] | int = "same",
    dilation: int = 1,
    kind: Literal["conv", "pool"] = "conv",
) -> AxisGeometry:
    """Ordinary convolution, or pooling, whose averages leave the padding out.

    A padding given by name follows Keras, a number of pixels PyTorch. SAME pads by the
    *input* size, the odd pixel at the end.
    """
    i, s, reach = input_size, stride, effective_kernel(kernel, dilation)
    if padding == "same":
        output = -(-i // max(s, 1))
        total = max((output - 1) * s + reach - i, 0)
        before, after = total // 2, total - total // 2
    else:
        pads = {"valid": (0, 0), "causal": (reach - 1, 0)}
        before, after = pads[padding] if isinstance(padding, str) else (padding,) * 2
        output = max((i + before + after - reach) // max(s, 1) + 1, 0)
    both = s > 1 and dilation > 1 and isinstance(padding, str)
    padded = i + before + after
    problems = _broken(
        "error",
        E3=(both, f"Keras refuses stride {s} with dilation {dilation}"),
        E4=(output < 1, f"kernel reach {reach} exceeds {padded} px of input"),
    )
    return AxisGeometry(kind, i, output, kernel, s, dilation, before, after, problems)


def conv_transpose_axis(
    input_size: int,
    kernel: int,
    stride: int = 1,
    padding: Literal["same", "valid"] | int = "same",
    output_padding: int | None = None,
    dilation: int = 1,
    output: int | None = None,
) -> AxisGeometry:
    """Transposed convolution, as Keras or as PyTorch computes it.

    A padding given by name follows Keras. SAME crops max((i-1)s+k_e-o, 0) rows, half of
    them (rounded down) at the start; the layer runs only if a forward convolution of
    the output gives the input size. `output` is the size asked of
    `tf.nn.conv2d_transpose`, by default Keras' choice. A number p follows PyTorch:
    o = (i-1)s - 2p + k_e + op, cropping p rows before and p - op after.
    """
    i, s, d, reach = input_size, stride, dilation, effective_kernel(kernel, dilation)
    o, op = output, output_padding
    full = (i - 1) * s + reach
    if isinstance(padding, int):
        op = op or 0
        o = full - 2 * padding + op
        before, after = padding, padding - op
        limit = max(s, d)
        problems = _broken(
            "error",
            E1=(o < 1, f"the output would have {o} px"),
            E2=(not 0 <= op < limit, f"output_padding {op} not in 0..{limit - 1}"),
        )
        o = max(o, 0)
    else:
        same = padding == "same"
        if o is None and op is None:
            o = i * s if same else max(full, i * s)
        elif o is None:
            o = full - (reach - reach % 2 if same else 0) + (op or 0)
        forward = -(-o // max(s, 1)) if same else (o - reach) // max(s, 1) + 1
        bad_op = op is not None and not 0 <= op < s
        text = f"{o} px convolve to {max(forward, 0)}, not {i}: TensorFlow aborts"
        problems = _broken(
            "error",
            E1=(not bad_op and (o < 1 or forward != i), text),
            E2=(bad_op, f"output_padding {op} is not in 0..{s - 1} (stride {s})"),
            E3=(s > 1 and d > 1, f"Keras refuses stride {s} with dilation {d}"),
        )
        total = max(full - o, 0) if same else 0
        before, after = total // 2, total - total // 2
    return AxisGeometry("transpose", i, o, kernel, s, d, before, after, problems)


def resize_axis(
    input_size: int, factor: int, interpolation: Interpolation = "nearest"
) -> AxisGeometry:
    """Enlargement by a whole factor with a fixed kernel."""
    width = {"nearest": 1, "bilinear": 2, "bicubic": 4}[interpolation]
    kernel = width * factor - (factor % 2 if width > 1 else 0)  # half-pixel centres
    crop = (kernel - factor) // 2
    size = input_size * factor
    return AxisGeometry(interpolation, input_size, size, kernel, factor, 1, crop, crop)


def shuffle_axis(input_size: int, block_size: int) -> AxisGeometry:
    """Depth to space: each phase of the output comes from a channel of its own."""
    size = input_size * block_size
    return AxisGeometry("shuffle", input_size, size, block_size, block_size)


def pad_axis(input_size: int, before: int, after: int) -> AxisGeometry:
    """Zero padding; negative amounts crop."""
    kind: Kind = "crop" if min(before, after) < 0 else "pad"
    size = max(input_size + before + after, 0)
    text = f"cropping {-before}+{-after} of {input_size} px"
    problems = _broken("error", E4=(size < 1, text))
    return AxisGeometry(kind, input_size, size, 1, 1, 1, before, after, problems)


def findings(axis: AxisGeometry) -> tuple[Finding, ...]:
    """The rules E1-E4 and W1-W6 that this axis breaks; warnings only if it can run."""
    if not axis.feasible or axis.kind not in ("conv", "transpose"):
        return axis.problems
    k, s, reach, shift = axis.kernel, axis.stride, axis.effective_kernel, axis.shift_px
    taps, scatter = axis.taps_by_phase(), axis.is_scatter
    gaps = 0 in taps
    num_zero, (before, after) = len(axis.zero_rows), axis.border_px
    share = 100 * min(before + after, axis.output_size) / axis.output_size
    extent = axis.output_size if scatter else axis.input_size
    return _broken(
        "warning",
        W1=(
            len(set(taps)) > 1 and not gaps,
            f"kernel {k} is not a multiple of stride {s}, so the overlap is uneven "
            f"({':'.join(map(str, taps))} taps by phase): choose a multiple",
        ),
        W2=(
            gaps,
            f"kernel {k} leaves gaps at stride {s}, so {num_zero} rows are always zero"
            f": choose at least {s} taps without dilation",
        ),
        W3=(shift != 0, f"unequal padding shifts the image by {shift:+g} output px"),
        W4=(
            scatter and axis.effective_pad_after < 0 and num_zero > 0 and not gaps,
            f"no input reaches the last {num_zero} rows, so they are always zero: "
            "reduce the output padding",
        ),
        W5=(
            scatter and before + after > 0,
            f"{before} + {after} px at the ends ({share:.0f} %) get fewer taps",
        ),
        W6=(
            reach > extent,
            f"the kernel spans {reach} px, the map only {extent}: "
            "choose a smaller kernel",
        ),
    )


def _connected(axes: Sequence[AxisGeometry]) -> Sequence[AxisGeometry]:
    """The axes, or a ValueError if one's output does not fit the next one's input."""
    for one, following in zip(axes, axes[1:], strict=False):
        if one.output_size != following.input_size:
            sizes = f"{one.output_size} px, the next expects {following.input_size}"
            raise ValueError(f"a layer gives {sizes}")
    return axes


def chain_overlap(axes: Sequence[AxisGeometry]) -> list[float]:
    """Number of paths from the first layer's inputs to each output of the last one."""
    ones: list[float] = [1] * axes[0].input_size
    return reduce(lambda values, axis: axis.apply(values), _connected(axes), ones)


def chain_shift(axes: Sequence[AxisGeometry]) -> float:
    """Shift of the whole chain, in pixels of its last output."""
    total = 0.0
    for axis in _connected(axes):
        total *= axis.stride if axis.is_scatter else 1 / axis.stride
        total += axis.shift_px
    return total


def chain_output_field(axes: Sequence[AxisGeometry]) -> int:
    """Number of outputs of the chain that one input of its first layer reaches."""
    return reduce(lambda reached, axis: axis.output_field(reached), _connected(axes), 1)


def chain_margins(axes: Sequence[AxisGeometry]) -> tuple[int, int]:
    """Numbers of last outputs at the (start, end) that depend on any layer's border."""
    return reduce(
        lambda outer, axis: axis.clean_margins(outer), _connected(axes), (0, 0)
    )
