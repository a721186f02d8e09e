"""The size rules of TensorFlow and PyTorch as text, with numbers put in.

For `analysis explain` and `analysis draw`; the numbers come from
`analysis.geometry.arithmetic`.
"""

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from analysis.geometry.arithmetic import (
    AxisPlan,
    conv_axis,
    conv_transpose_axis,
    conv_transpose_torch_axis,
)

SIZES = {  # by operation, padding, and whether an output padding is given
    ("conv", "same", False): "ceil(i/s)",
    ("conv", "valid", False): "floor((i - k)/s) + 1",
    ("conv", "number", False): "floor((i + 2*p - k)/s) + 1",
    ("transpose", "same", False): "i*s",
    ("transpose", "same", True): "(i-1)*s + k%2 + op",
    ("transpose", "valid", False): "(i-1)*s + max(k, s)",
    ("transpose", "valid", True): "(i-1)*s + k + op",
    ("transpose", "number", False): "(i-1)*s - 2*p + k",
    ("transpose", "number", True): "(i-1)*s - 2*p + k + op",
}
SAME_PADS = {"conv": "max((o-1)*s + k - i, 0)", "transpose": "max((i-1)*s + k - o, 0)"}


@dataclass(frozen=True)
class Layer:
    """One axis of a layer as a user asks for it.

    A `padding` in words follows TensorFlow's rules, a number of pixels PyTorch's.
    """

    op: Literal["conv", "transpose"]
    input_size: int
    kernel: int
    stride: int = 1
    padding: Literal["same", "valid"] | int = "same"
    output_padding: int | None = None
    dilation: int = 1

    @property
    def framework(self) -> str:
        """Whose rules apply."""
        return "PyTorch" if isinstance(self.padding, int) else "TensorFlow"

    def plan(self) -> AxisPlan:
        """The geometry of this axis.

        Raises:
            ValueError: if the framework refuses the layer, with the reason.
        """
        i, k, s, d = self.input_size, self.kernel, self.stride, self.dilation
        p, extra = self.padding, self.output_padding
        if self.op == "conv" and extra is not None:
            raise ValueError("an output padding belongs to a transposed convolution")
        if self.op == "conv":
            plan = conv_axis(i, k, s, (p, p) if isinstance(p, int) else p, d)
        elif isinstance(p, int):
            plan = conv_transpose_torch_axis(i, k, s, p, extra or 0, d)
        else:
            plan = conv_transpose_axis(i, k, s, p, extra, d)
        if not plan.feasible:
            raise ValueError("; ".join(problem.text for problem in plan.problems))
        return plan

    def counterpart(self) -> "Layer | None":
        """The other framework's layer of the same sizes, if it has one."""
        output, reach = self.plan().output_size, self.kernel * self.dilation
        words = isinstance(self.padding, str)
        extras = range(max(self.stride, self.dilation) if self.op == "transpose" else 0)
        for extra in (None, *extras):
            for padding in range(reach) if words else ("same", "valid"):
                other = replace(self, padding=padding, output_padding=extra)
                with suppress(ValueError):
                    if other.plan().output_size == output:
                        return other
        return None

    def call(self) -> str:
        """The constructor call as it stands in a program."""
        if isinstance(self.padding, int):
            name = "Conv2d(in, out" if self.op == "conv" else "ConvTranspose2d(in, out"
            words = ("stride", "padding", "output_padding", "dilation")
        else:
            name = "Conv2D(filters" if self.op == "conv" else "Conv2DTranspose(filters"
            words = ("strides", "padding", "output_padding", "dilation_rate")
        dilation = self.dilation if self.dilation > 1 else None
        values = (self.stride, self.padding, self.output_padding, dilation)
        given = [
            f"{word}={value!r}"
            for word, value in zip(words, values, strict=True)
            if value is not None
        ]
        return ", ".join([name, str(self.kernel), *given]) + ")"

    def size_lines(self) -> list[str]:
        """The size and the padding, each in letters and with numbers put in."""
        plan = self.plan()
        way = "number" if isinstance(self.padding, int) else self.padding
        rule = SIZES[self.op, way, self.output_padding is not None]
        lines = [self._filled("o", rule)]
        if self.dilation > 1:
            lines.insert(0, self._filled("k_e", "(k-1)*d + 1"))
        if way == "same":
            lines.append(self._filled("P", SAME_PADS[self.op]))
        ends = f"{plan.pad_before} before and {plan.pad_after} after"
        if self.op == "conv":
            lines.append(f"pads {ends}")
        elif plan.trailing >= 0:
            lines.append(f"crops {ends}")
        else:
            lines.append(f"crops {plan.pad_before} before, adds {-plan.trailing} after")
        return lines

    def _filled(self, name: str, formula: str) -> str:
        """`name = letters = numbers = value`."""
        plan = self.plan()
        values = {
            "i": self.input_size,
            "o": plan.output_size,
            "k": self.kernel,
            "k_e": plan.effective_kernel,
            "s": self.stride,
            "d": self.dilation,
            "p": self.padding,
            "op": self.output_padding,
        }
        if self.dilation > 1 and name != "k_e":
            formula = re.sub(r"\bk\b", "k_e", formula)
        filled = re.sub(r"\b(k_e|op|[iokspd])\b", lambda m: str(values[m[1]]), formula)
        result = values.get(name, plan.pad_before + plan.pad_after)
        return f"{name} = {formula} = {filled} = {result}"
