"""Where each output pixel of a layer comes from, in exact integers, one axis at a time.

A builder (`conv_axis`, `conv_transpose_axis`, `conv_transpose_torch_axis`, `pool_axis`,
`resize_axis`, `pad_axis`, `crop_axis`) returns an `AxisPlan`; two or three axes are
simply two or three plans. A plan knows its sizes and pads and derives everything else:
`reads`, `matrix`, `coverage`, `phases`, `interior`, `border_px`, `dead_rows`,
`drift_px`, `footprint`, `clean_margins`, `three_steps`, `macs`. `findings(plan)` lists
the rules it breaks; `chain_*` follow several layers. Nothing here sees a tensor.

Two families cover all kinds. A *gather* (conv, pool, pad, crop) reads input
`stride*n + dilation*tap - pad_before` for output n. A *scatter* (transpose, nearest,
bilinear, bicubic, shuffle) paints position `stride*j + dilation*tap` of a full output
with input j and then crops `pad_before` rows off its beginning.

Sources: Dumoulin & Visin 2016, arXiv:1603.07285 (arithmetic); Odena et al. 2016,
doi:10.23915/distill.00003 (overlap). Dumoulin's relationships assume symmetric padding;
TensorFlow's SAME is asymmetric and, for a transposed convolution, follows from the
*output* size, which is why it has its own builder here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

Interpolation = Literal["nearest", "bilinear", "bicubic"]
Kind = Literal["conv", "pool", "pad", "crop", "transpose", "shuffle"] | Interpolation
Padding = Literal["same", "valid", "causal"]
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
SCATTER_KINDS = ("transpose", "shuffle", *INTERPOLATIONS)
INSERTED, PADDED = -1, -2  # in ThreeSteps.cells: a zero, not an input index


class Finding(NamedTuple):
    """One broken rule: its code (E1, W3, ...), `error` or `warning`, one sentence."""

    code: str
    level: Literal["error", "warning", "info"]
    text: str


@dataclass(frozen=True)
class ThreeSteps:
    """A layer as an ordinary correlation over a prepared row of cells.

    Output n sums `cells[step*n + dilation*q] * kernel[kernel_order[q]]` over q. A cell
    is an input index, INSERTED or PADDED; a transposed convolution has `step` 1, the
    reversed kernel order, and may crop instead of pad (negative pads).
    """

    cells: tuple[int, ...]
    pad_before: int
    pad_after: int
    kernel_order: tuple[int, ...]
    step: int
    dilation: int


@dataclass(frozen=True)
class AxisPlan:
    """One axis of one layer; all sizes in pixels.

    `pad_before`, `pad_after` are zeros added to the input of a gather, or rows cropped
    off the full output of a scatter (PyTorch's output padding can make the latter
    negative: rows kept beyond it). `problems` are the errors that stop it running.
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
        """Whether inputs are spread over outputs (else outputs collect inputs)."""
        return self.kind in SCATTER_KINDS

    @property
    def effective_kernel(self) -> int:
        """Reach of the dilated kernel: (k-1)d+1."""
        return effective_kernel(self.kernel, self.dilation)

    @property
    def trailing(self) -> int:
        """Rows really cropped off the end, or read beyond it; `pad_after` as it acts.

        Negative for zero rows appended (scatter) or inputs never read (gather).
        """
        if self.is_scatter:
            full = (self.input_size - 1) * self.stride + self.effective_kernel
            return full - self.output_size - self.pad_before
        reach = (self.output_size - 1) * self.stride + self.effective_kernel
        return reach - self.input_size - self.pad_before

    def reads(self, n: int) -> list[tuple[int, int]]:
        """The (input index, kernel tap) pairs that output `n` sums."""
        pairs = []
        for tap in range(self.kernel):
            if self.is_scatter:
                j, rest = divmod(n + self.pad_before - self.dilation * tap, self.stride)
                if rest:
                    continue
            else:
                j = self.stride * n + self.dilation * tap - self.pad_before
            if self.kind == "bilinear":  # repeats its edge pixels
                j = min(max(j, 0), self.input_size - 1)
            if 0 <= j < self.input_size:
                pairs.append((j, tap))
        return pairs

    @cached_property
    def all_reads(self) -> tuple[list[tuple[int, int]], ...]:
        """`reads(n)` of every output n."""
        return tuple(self.reads(n) for n in range(self.output_size))

    def matrix(self, kernel: Sequence[float]) -> list[list[float]]:
        """The dense M of y = Mx, output_size rows of input_size; C, or C transposed."""
        rows = [[0.0] * self.input_size for _ in range(self.output_size)]
        for row, pairs in zip(rows, self.all_reads, strict=True):
            for j, tap in pairs:
                row[j] += kernel[tap]
        return rows

    def spread(self, values: Sequence[float]) -> list[float]:
        """`values` (input_size) through an all-ones kernel.

        Interpolations use their own weights, pools the mean: they keep a constant.
        """
        taps, outputs = self.fixed_taps, []
        for pairs in self.all_reads:
            total = sum(taps[tap] * values[j] for j, tap in pairs)
            if self.kind in ("pool", "bicubic"):  # of what lies inside the map
                total /= sum(taps[tap] for _, tap in pairs) or 1
            outputs.append(total)
        return outputs

    @property
    def fixed_taps(self) -> tuple[float, ...]:
        """An interpolation's weights: x2 bilinear [1, 3, 3, 1] / 4; other kinds ones.

        Bicubic is the cubic convolution of Keys 1981 with a = -1/2, which TensorFlow
        tabulates in steps of 1/1024.
        """
        centre = (self.kernel - 1) / 2
        away = [abs(tap - centre) / self.stride for tap in range(self.kernel)]
        if self.kind == "bilinear":
            return tuple(1 - x for x in away)
        if self.kind == "bicubic":
            return tuple(
                1.5 * x**3 - 2.5 * x**2 + 1
                if x < 1
                else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
                for x in (round(1024 * x) / 1024 for x in away)
            )
        return (1.0,) * self.kernel

    def coverage(self) -> list[float]:
        """How often each output is painted: a field of ones through ones; integers."""
        return self.spread([1] * self.input_size)

    def phases(self) -> tuple[int, ...]:
        """Taps that meet each phase, (n + pad_before) mod stride; uneven is bad."""
        if self.kind in INTERPOLATIONS or not self.is_scatter:
            return (self.kernel,)
        counts = [0] * self.stride
        for tap in range(self.kernel):
            counts[self.dilation * tap % self.stride] += 1
        return tuple(counts)

    @property
    def interior(self) -> range:
        """Outputs for which no tap falls outside the input; may be empty."""
        before, after = self.border_px
        return range(before, max(self.output_size - after, before))

    @property
    def border_px(self) -> tuple[int, int]:
        """Width of the under-covered border at either end."""
        before, after = self.clean_margins()
        return min(before, self.output_size), min(after, self.output_size)

    @property
    def dead_rows(self) -> tuple[int, ...]:
        """Outputs that no input reaches: always zero (plus bias)."""
        return tuple(n for n, pairs in enumerate(self.all_reads) if not pairs)

    @property
    def scale(self) -> float:
        """Output pixels for one input pixel."""
        return self.stride if self.is_scatter else 1 / self.stride

    @property
    def drift_px(self) -> float:
        """How far the picture moves off centre, output px, + to the lower right."""
        if self.is_scatter:
            return (self.trailing - self.pad_before) / 2
        return (self.pad_before - self.trailing) / (2 * self.stride)

    def footprint(self, previous: int = 1) -> int:
        """Most outputs that `previous` neighbouring inputs reach, borders ignored."""
        if self.is_scatter:
            return (previous - 1) * self.stride + self.effective_kernel
        return -(-(previous + self.effective_kernel - 1) // self.stride)

    def clean_margins(self, previous: tuple[int, int] = (0, 0)) -> tuple[int, int]:
        """Outputs at (start, end) that the border or `previous` dirty inputs touch."""
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
        """Zero insertion, padding and a plain sliding kernel with the same result."""
        spacing, step, order = 1, self.stride, range(self.kernel)
        before, after = self.pad_before, self.trailing
        if self.is_scatter:
            spacing, step, order = self.stride, 1, order[::-1]
            before = self.effective_kernel - 1 - before
            after = self.effective_kernel - 1 - after
        length = (self.input_size - 1) * spacing + 1
        cells = [INSERTED if m % spacing else m // spacing for m in range(length)]
        cells = cells[max(-before, 0) : length - max(-after, 0)]
        cells = [PADDED] * before + cells + [PADDED] * after
        return ThreeSteps(
            tuple(cells), before, after, tuple(order), step, self.dilation
        )

    @property
    def macs(self) -> int:
        """Dense multiply-accumulates of this axis; multiply the axes and channels."""
        size = self.input_size if self.is_scatter else self.output_size
        return size * self.kernel

    @property
    def macs_exact(self) -> int:
        """As `macs`, without the products that fall outside."""
        return sum(map(len, self.all_reads))


def effective_kernel(kernel: int, dilation: int = 1) -> int:
    """Reach of a kernel with `dilation - 1` gaps between its taps: (k-1)d+1."""
    return (kernel - 1) * dilation + 1


def _errors(**checks: tuple[bool, str]) -> tuple[Finding, ...]:
    """The checks, code=(broken, text), that are broken."""
    items = checks.items()
    return tuple(Finding(code, "error", text) for code, (bad, text) in items if bad)


def conv_axis(
    input_size: int,
    kernel: int,
    stride: int = 1,
    padding: Padding | tuple[int, int] = "same",
    dilation: int = 1,
    kind: Literal["conv", "pool"] = "conv",
) -> AxisPlan:
    """Ordinary convolution; SAME pads by the *input* size, the odd pixel at the end.

    A padding in words is Keras', which refuses stride with dilation; a pair of pads is
    anybody's.
    """
    i, s, reach = input_size, stride, effective_kernel(kernel, dilation)
    if padding == "same":
        output = -(-i // max(s, 1))
        total = max((output - 1) * s + reach - i, 0)
        before, after = total // 2, total - total // 2
    else:
        pads = {"valid": (0, 0), "causal": (reach - 1, 0)}
        before, after = pads[padding] if isinstance(padding, str) else padding
        output = max((i + before + after - reach) // max(s, 1) + 1, 0)
    both = s > 1 and dilation > 1 and isinstance(padding, str)
    problems = _errors(
        E3=(both, f"Keras refuses stride {s} with dilation {dilation}"),
        E4=(
            output < 1,
            f"kernel reach {reach} exceeds {i + before + after} px of input",
        ),
    )
    return AxisPlan(kind, i, output, kernel, s, dilation, before, after, problems)


def conv_transpose_axis(
    input_size: int,
    kernel: int,
    stride: int = 1,
    padding: Literal["same", "valid"] = "same",
    output_padding: int | None = None,
    dilation: int = 1,
    output: int | None = None,
) -> AxisPlan:
    """Transposed convolution as TensorFlow and Keras compute it.

    `output` is the size asked of `tf.nn.conv2d_transpose`; without it Keras' rule
    applies. SAME crops max((i-1)s+k_e-o, 0) rows, half of them (rounded down) at the
    start. Runs only if a forward convolution of the output gives the input size.
    """
    i, s, reach = input_size, stride, effective_kernel(kernel, dilation)
    same, o = padding == "same", output
    if o is None and output_padding is None:
        o = i * s if same else (i - 1) * s + max(reach, s)
    elif o is None:
        o = (i - 1) * s + (reach % 2 if same else reach) + (output_padding or 0)
    forward = -(-o // max(s, 1)) if same else (o - reach) // max(s, 1) + 1
    bad_op = output_padding is not None and not 0 <= output_padding < s
    problems = _errors(
        E1=(
            not bad_op and (o < 1 or forward != i),
            f"{o} px convolve to {max(forward, 0)}, not {i}: TensorFlow aborts",
        ),
        E2=(
            bad_op,
            f"output_padding {output_padding} is not in 0..{s - 1} (stride {s})",
        ),
        E3=(
            s > 1 and dilation > 1,
            f"Keras refuses stride {s} with dilation {dilation}",
        ),
    )
    total = max((i - 1) * s + reach - o, 0) if same else 0
    before, after = total // 2, total - total // 2
    return AxisPlan("transpose", i, o, kernel, s, dilation, before, after, problems)


def conv_transpose_torch_axis(
    input_size: int,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
    dilation: int = 1,
) -> AxisPlan:
    """PyTorch's: o = (i-1)s - 2p + k_e + op; crops p before and p - op after."""
    i, s, p, op, d = input_size, stride, padding, output_padding, dilation
    o = (i - 1) * s - 2 * p + effective_kernel(kernel, d) + op
    problems = _errors(
        E1=(o < 1, f"the output would have {o} px"),
        E2=(not 0 <= op < max(s, d), f"output_padding {op} not in 0..{max(s, d) - 1}"),
    )
    return AxisPlan("transpose", i, max(o, 0), kernel, s, d, p, p - op, problems)


def pool_axis(
    input_size: int,
    pool: int,
    stride: int | None = None,
    padding: Literal["same", "valid"] = "valid",
) -> AxisPlan:
    """Max or average pooling: a convolution's sizes, padding left out of averages."""
    return conv_axis(input_size, pool, stride or pool, padding, kind="pool")


def resize_axis(
    input_size: int,
    factor: int,
    interpolation: Interpolation = "nearest",
) -> AxisPlan:
    """Enlargement by a whole factor: a scatter with a fixed kernel."""
    cells = {"nearest": 1, "bilinear": 2, "bicubic": 4}[interpolation]
    kernel = cells * factor - (factor % 2 if cells > 1 else 0)  # half-pixel centres
    crop = (kernel - factor) // 2
    size = input_size * factor
    return AxisPlan(interpolation, input_size, size, kernel, factor, 1, crop, crop)


def shuffle_axis(input_size: int, block_size: int) -> AxisPlan:
    """Depth to space: each phase of the output comes from a channel of its own."""
    size = input_size * block_size
    return AxisPlan("shuffle", input_size, size, block_size, block_size)


def pad_axis(input_size: int, before: int, after: int) -> AxisPlan:
    """Zero padding."""
    size = input_size + before + after
    return AxisPlan("pad", input_size, size, pad_before=before, pad_after=after)


def crop_axis(input_size: int, before: int, after: int) -> AxisPlan:
    """Cropping: a padding by negative amounts."""
    size = max(input_size - before - after, 0)
    problems = _errors(E4=(size < 1, f"cropping {before}+{after} of {input_size} px"))
    return AxisPlan("crop", input_size, size, 1, 1, 1, -before, -after, problems)


def findings(plan: AxisPlan) -> tuple[Finding, ...]:
    """The rules E1-E4 and W1-W6 that this axis breaks; warnings only if it can run."""
    if not plan.feasible or plan.kind not in ("conv", "transpose"):
        return plan.problems
    k, s, taps, (before, after) = (
        plan.kernel,
        plan.stride,
        plan.phases(),
        plan.border_px,
    )
    scatter, reach, dead = plan.is_scatter, plan.effective_kernel, len(plan.dead_rows)
    share = 100 * (1 - len(plan.interior) / plan.output_size)
    extent = plan.output_size if scatter else plan.input_size
    uneven = ":".join(map(str, taps))
    checks = {
        "W1": (
            len(set(taps)) > 1 and 0 not in taps,
            f"stride {s} does not divide kernel {k}: overlap {uneven} by phase",
        ),
        "W2": (0 in taps, f"kernel {k} below stride {s}: {dead} rows are always zero"),
        "W3": (
            plan.drift_px != 0,
            f"uneven padding moves the picture by {plan.drift_px:+g} output px",
        ),
        "W4": (
            scatter and plan.trailing < 0 and dead > 0 and 0 not in taps,
            f"no input reaches the last {dead} rows: always zero",
        ),
        "W5": (
            scatter and before + after > 0,
            f"{before} + {after} px at the ends ({share:.0f} %) get fewer taps",
        ),
        "W6": (reach > extent, f"the kernel reaches {reach} px, the map has {extent}"),
    }
    items = checks.items()
    return tuple(Finding(code, "warning", text) for code, (bad, text) in items if bad)


def _linked(plans: Sequence[AxisPlan]) -> Sequence[AxisPlan]:
    for one, following in zip(plans, plans[1:], strict=False):
        if one.output_size != following.input_size:
            raise ValueError(
                f"a layer gives {one.output_size} px, the next expects "
                f"{following.input_size}"
            )
    return plans


def chain_coverage(plans: Sequence[AxisPlan]) -> list[float]:
    """Paths from the first layer's inputs to each output of the last one."""
    values: list[float] = [1] * plans[0].input_size
    for plan in _linked(plans):
        values = plan.spread(values)
    return values


def chain_drift(plans: Sequence[AxisPlan]) -> float:
    """Drift of the whole chain, in pixels of its last output."""
    total = 0.0
    for plan in _linked(plans):
        total = total * plan.scale + plan.drift_px
    return total


def chain_footprint(plans: Sequence[AxisPlan]) -> int:
    """Outputs of the chain that one input of its first layer reaches."""
    reached = 1
    for plan in _linked(plans):
        reached = plan.footprint(reached)
    return reached


def chain_margins(plans: Sequence[AxisPlan]) -> tuple[int, int]:
    """Pixels at (start, end) of the last output that any border has touched."""
    margins = (0, 0)
    for plan in _linked(plans):
        margins = plan.clean_margins(margins)
    return margins
