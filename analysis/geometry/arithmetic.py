"""Where each output pixel of a layer comes from, in exact integers, one axis at a time.

A layer has one `AxisGeometry` for each of its spatial axes. There are two families. A
*gather* (conv, pool, pad, reflect, edge, crop) computes output n from the inputs
`stride*n + dilation*tap - pad_before`. A *scatter* (transpose, nearest, bilinear,
bicubic, shuffle) adds input j to the positions `stride*j + dilation*tap` of a full
output and then crops `pad_before` rows off its beginning.

Sources: Dumoulin & Visin 2016, arXiv:1603.07285 (arithmetic); Odena et al. 2016,
doi:10.23915/distill.00003 (overlap). Dumoulin's relationships assume symmetric padding.
TensorFlow's SAME padding is asymmetric and, for a transposed convolution, follows from
the *output* size, so it has its own builder here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from itertools import product
from math import gcd
from typing import Literal, NamedTuple

Interpolation = Literal["nearest", "bilinear", "bicubic"]
Border = Literal["pad", "reflect", "edge"]  # zeros, a mirror, or repeated edge pixels
Kind = Literal["conv", "pool", "crop", "transpose", "shuffle"] | Interpolation | Border
Severity = Literal["error", "warning", "info"]
ZeroCause = Literal["common factor", "kernel", "output padding", "dilation", "padding"]
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
SCATTER_KINDS = ("transpose", "shuffle", *INTERPOLATIONS)
MAX_PLACES = 8  # of outputs that a finding lists
INSERTED, PADDED = -1, -2  # in ThreeSteps.cells: a zero, not an input index


class Finding(NamedTuple):
    """A rule that a layer breaks; its code is E1, W3 and so on."""

    code: str
    level: Severity
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
            if self.kind in ("bilinear", "edge"):  # repeat their edge pixels
                j = min(max(j, 0), self.input_size - 1)
            if self.kind == "reflect":
                j = min(abs(j), 2 * (self.input_size - 1) - j)
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
    def zero_positions(self) -> dict[ZeroCause, list[int]]:
        """Outputs that no input reaches, by cause: always zero, apart from the bias.

        A scatter reaches the positions `stride*j + dilation*tap` of its full output.
        They are all multiples of gcd(stride, dilation), and a phase modulo the stride
        that no tap has is never reached. The other causes lie at the ends of the map.
        """
        found: dict[ZeroCause, list[int]] = {}
        taps, factor = self.taps_by_phase(), gcd(self.stride, self.dilation)
        last = (self.input_size - 1) * self.stride + self.effective_kernel - 1
        for n, pairs in enumerate(self.terms):
            position = n + self.pad_before
            if pairs:
                continue
            if not self.is_scatter:
                cause: ZeroCause = "padding"
            elif position % factor:
                cause = "common factor"
            elif not taps[position % self.stride]:
                cause = "kernel"
            else:
                cause = "output padding" if position > last else "dilation"
            found.setdefault(cause, []).append(n)
        return found

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
        if self.kind in ("reflect", "edge"):  # their windows have one cell
            cells = [pairs[0][0] for pairs in self.terms]
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


def _broken(level: Severity, **rules: tuple[bool, str]) -> tuple[Finding, ...]:
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
    text = (
        f"the kernel spans {reach} px, the padded map has only {i + before + after}, "
        "so there is no output: choose a smaller kernel or dilation, or pad more"
    )
    problems = _broken("error", E4=(output < 1, text))
    return AxisGeometry(kind, i, output, kernel, s, dilation, before, after, problems)


def pool_axis(
    input_size: int,
    kernel: int,
    stride: int,
    pads: tuple[int, int],
    dilation: int = 1,
    ceil_mode: bool = False,
) -> AxisGeometry:
    """Pooling with pads given as numbers, as PyTorch and ONNX compute it.

    With `ceil_mode` a last window may reach beyond the end, unless it would start
    there; even the only window may.
    """
    padded = input_size + sum(pads)
    axis = conv_axis(padded, kernel, stride, "valid", dilation, "pool")
    axis = replace(axis, input_size=input_size, pad_before=pads[0], pad_after=pads[1])
    outputs = -((axis.effective_kernel - padded) // stride) + 1
    if (outputs - 1) * stride >= input_size + pads[0]:
        outputs -= 1  # the last window would start in the padding
    if not ceil_mode or outputs < 1:
        return axis
    return replace(axis, output_size=outputs, problems=())


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
            E1=(o < 1, f"the output would have {o} px: reduce the padding"),
            E2=(
                not 0 <= op < limit,
                f"PyTorch refuses output_padding {op}: choose 0..{limit - 1}, less "
                "than the stride or the dilation",
            ),
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
        text = (
            f"TensorFlow aborts when it runs this layer, because a convolution of "
            f"{o} px gives {max(forward, 0)} px and not {i}: "
            + ("choose another output size" if op is None else "omit output_padding")
        )
        problems = _broken(
            "error",
            E1=(not bad_op and (o < 1 or forward != i), text),
            E2=(
                bad_op,
                f"Keras refuses output_padding {op} at stride {s}: choose 0..{s - 1}",
            ),
        )
        total = max(full - o, 0) if same else 0
        before, after = total // 2, total - total // 2
    return AxisGeometry("transpose", i, o, kernel, s, d, before, after, problems)


def onnx_transpose_axis(
    input_size: int,
    kernel: int,
    stride: int = 1,
    padding: Literal["SAME_UPPER", "SAME_LOWER"] | tuple[int, int] = (0, 0),
    output_padding: int = 0,
    dilation: int = 1,
    output: int | None = None,
) -> AxisGeometry:
    """ConvTranspose as onnxruntime 1.13 and later computes it.

    A padding given by name is `auto_pad`: it crops max((i-1)s+k_e+op-i*s, 0) rows, of
    which SAME_UPPER takes half, rounded down, at the start, and SAME_LOWER at the end.
    A pair is `pads`. `output` is the attribute output_shape, which takes the place of
    i*s and of a pair, and then splits as SAME_LOWER. The specification contradicts
    itself (onnx issues 1609, 2788, 4299), and onnxruntime before 1.13 swapped the two
    names (its issue 9370).
    """
    i, s, op, reach = (
        input_size,
        stride,
        output_padding,
        effective_kernel(kernel, dilation),
    )
    full = (i - 1) * s + reach + op
    if isinstance(padding, str) or output is not None:
        total = max(full - (i * s if output is None else output), 0)
        before = total // 2 if padding == "SAME_UPPER" else total - total // 2
    else:
        before, total = padding[0], sum(padding)
    o = full - total if output is None else output
    forward = (o + total - reach) // s + 1
    bad_op = not 0 <= op < s
    problems = _broken(
        "error",
        E1=(
            o < 1 or (not bad_op and forward != i),
            f"onnxruntime refuses an output of {o} px, because a convolution of it "
            f"gives {max(forward, 0)} px and not {i}: choose another output size",
        ),
        E2=(
            bad_op,
            f"onnxruntime refuses output_padding {op} at stride {s}: choose 0..{s - 1}",
        ),
        E8=(
            isinstance(padding, tuple) and min(padding) < 0,
            f"onnxruntime refuses the negative pads {padding}: rows at the end can be "
            "added by output_padding instead (--explicit-pads)",
        ),
    )
    o = max(o, 0)
    after = full - op - o - before  # the rows of the output padding are added
    return AxisGeometry("transpose", i, o, kernel, s, dilation, before, after, problems)


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


def pad_axis(
    input_size: int, before: int, after: int, border: Border = "pad"
) -> AxisGeometry:
    """Padding; negative amounts crop, whatever the border is."""
    kind: Kind = "crop" if min(before, after) < 0 else border
    size = max(input_size + before + after, 0)
    text = f"nothing is left of {input_size} px after {-before} + {-after}: crop less"
    problems = _broken("error", E4=(size < 1, text))
    if kind == "reflect" and max(before, after) >= input_size:
        text = f"{input_size} px have {input_size - 1} to reflect, {before} + {after} "
        problems = _broken("error", E4=(True, f"{text}were asked for: pad less"))
    return AxisGeometry(kind, input_size, size, 1, 1, 1, before, after, problems)


def findings(axis: AxisGeometry) -> tuple[Finding, ...]:
    """The rules that this axis breaks; warnings only if it can run."""
    if not axis.feasible or axis.kind not in ("conv", "transpose"):
        return axis.problems
    k, s, reach = axis.kernel, axis.stride, axis.effective_kernel
    taps = axis.taps_by_phase()
    fewer = axis.is_scatter and sum(
        len(pairs) < taps[(n + axis.pad_before) % s]
        for n, pairs in enumerate(axis.terms)
    )
    before, after = axis.border_px
    extent = axis.output_size if axis.is_scatter else axis.input_size
    rules = _broken(
        "warning",
        W1=(
            len(set(taps)) > 1 and 0 not in taps,
            f"kernel {k} is not a multiple of stride {s}, so the overlap is uneven "
            f"({':'.join(map(str, taps))} taps by phase), which can show as a "
            "checkerboard: choose a multiple, or train with `--upsample resize`",
        ),
        W3=(axis.shift_px != 0, _shift_text(axis)),
        W5=(
            fewer > 0,
            f"{fewer} of {axis.output_size} positions, within {before} + {after} px "
            "of the ends, get fewer taps than on an endless map, which can show as a "
            "frame: if it does, make a larger map and crop it",
        ),
        W6=(
            reach > extent,
            f"the kernel spans {reach} px, the map only {extent}, so it always "
            "overlaps the border: choose a smaller kernel",
        ),
    )
    found = (*rules, *_zero_findings(axis))
    return tuple(sorted(found, key=lambda finding: int(finding.code[1:])))


def _shift_text(axis: AxisGeometry) -> str:
    """W3 with its cause; a total that is odd cannot be split into equal halves."""
    before, after = axis.pad_before, axis.effective_pad_after
    if axis.is_scatter:
        ends = f"{abs(after)} px {'cropped' if after >= 0 else 'added'} at the end"
        cause = f"{before} px cropped at the start and {ends}"
    else:
        ends = f"{after} px after it" if after >= 0 else f"{-after} px before its end"
        cause = f"windows that start {before} px before the map and end {ends}"
    advice = "equal amounts at both ends avoid it"
    if (before + after) % 2:
        advice = "a kernel that spans one px more or less can avoid it"
    return f"{cause} shift the image by {axis.shift_px:+g} output px: {advice}"


def _zero_findings(axis: AxisGeometry) -> Iterator[Finding]:
    """W2, W4 and W10: positions that are always zero, and the cause of each."""
    s, d = axis.stride, axis.dilation
    causes: dict[ZeroCause, tuple[str, str]] = {
        "kernel": (
            "W2",
            f"kernel {axis.kernel} has no tap for them at stride {s}: choose a "
            f"multiple of {s}, or train with `--upsample resize`",
        ),
        "output padding": (
            "W4",
            "they lie beyond all inputs: reduce the output padding",
        ),
        "padding": (
            "W4",
            "their windows meet no input: reduce the padding or the dilation",
        ),
        "common factor": (
            "W10",
            f"stride {s} and dilation {d} share the factor {gcd(s, d)}: choose a "
            "dilation without a common factor, such as 1",
        ),
        "dilation": (
            "W10",
            f"the taps lie {d} px apart and the map ends before its inputs fill the "
            "gaps: choose a smaller dilation or a larger map",
        ),
    }
    for cause, zero in axis.zero_positions.items():
        code, why = causes[cause]
        places = ", ".join(map(str, zero[:MAX_PLACES]))
        if len(zero) > MAX_PLACES:
            places += f", … {zero[-1]}"
        text = f"{len(zero)} of {axis.output_size} positions ({places}) are always "
        yield Finding(code, "warning", f"{text}zero apart from the bias, because {why}")


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
