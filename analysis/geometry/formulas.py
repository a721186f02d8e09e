"""One convolution as a user asks for it, and the formulas of its sizes as text.

TensorFlow and PyTorch pad by different rules; `counterparts` finds the other
framework's layer of the same sizes.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from analysis.geometry.arithmetic import AxisGeometry, conv_axis, conv_transpose_axis

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
REFUSED = (
    "Keras refuses a stride above 1 together with a dilation above 1 (only its "
    "depthwise and separable convolutions run them): make one of them 1, or give the "
    "padding as a number of pixels for PyTorch's layer"
)
SAME_PADS = {"conv": "max((o-1)*s + k - i, 0)", "transpose": "max((i-1)*s + k - o, 0)"}


@dataclass(frozen=True)
class Convolution:
    """One axis of a convolution or transposed convolution.

    A `padding` given by name follows TensorFlow's rules, a number of pixels PyTorch's.
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
        """The framework whose rules apply."""
        return "PyTorch" if isinstance(self.padding, int) else "TensorFlow"

    def geometry(self) -> AxisGeometry:
        """The geometry, or a ValueError that says why the framework refuses it."""
        if keras_refuses([self]):
            raise ValueError(REFUSED)
        shape = self.input_size, self.kernel, self.stride, self.padding
        if self.op == "transpose":
            axis = conv_transpose_axis(*shape, self.output_padding, self.dilation)
        elif self.output_padding is None:
            axis = conv_axis(*shape, self.dilation)
        else:
            raise ValueError("an output padding belongs to a transposed convolution")
        if not axis.feasible:
            raise ValueError("; ".join(problem.text for problem in axis.problems))
        return axis

    def _with_output_size(self, output_size: int, named: bool) -> "Convolution | None":
        """This layer with the first padding, by name or number, that gives the size."""
        extras = range(max(self.stride, self.dilation) if self.op == "transpose" else 0)
        numbers = range(self.kernel * self.dilation)
        for extra in (None, *extras):
            for padding in ("same", "valid") if named else numbers:
                other = replace(self, padding=padding, output_padding=extra)
                with suppress(ValueError):
                    if other.geometry().output_size == output_size:
                        return other
        return None

    def constructor_call(self) -> str:
        """The constructor call as it stands in a program."""
        if isinstance(self.padding, int):
            name = "Conv2d(in, out" if self.op == "conv" else "ConvTranspose2d(in, out"
            words = ("stride", "padding", "output_padding", "dilation")
        else:
            name = "Conv2D(filters" if self.op == "conv" else "Conv2DTranspose(filters"
            words = ("strides", "padding", "output_padding", "dilation_rate")
        dilation = self.dilation if self.dilation > 1 else None
        values = (self.stride, self.padding, self.output_padding, dilation)
        pairs = zip(words, values, strict=True)
        given = [f"{word}={value!r}" for word, value in pairs if value is not None]
        return ", ".join([name, str(self.kernel), *given]) + ")"

    def formulas(self) -> list[str]:
        """The output size and the padding, each in letters and with numbers put in."""
        axis = self.geometry()
        way = "number" if isinstance(self.padding, int) else self.padding
        formula = SIZES[self.op, way, self.output_padding is not None]
        lines = [self._filled("k_e", "(k-1)*d + 1")] if self.dilation > 1 else []
        lines.append(self._filled("o", formula))
        if way == "same":
            lines.append(self._filled("P", SAME_PADS[self.op]))
        before, after = axis.pad_before, axis.effective_pad_after
        if self.op == "transpose" and after < 0:
            return [*lines, f"crops {before} before, adds {-after} after"]
        verb = "pads" if self.op == "conv" else "crops"
        return [*lines, f"{verb} {before} before and {axis.pad_after} after"]

    def _filled(self, name: str, formula: str) -> str:
        """`name = letters = numbers = value`."""
        axis = self.geometry()
        values = {"i": axis.input_size, "o": axis.output_size, "s": axis.stride}
        values |= {"k": axis.kernel, "k_e": axis.effective_kernel, "d": axis.dilation}
        values |= {"p": axis.pad_before, "op": self.output_padding or 0}
        if self.dilation > 1 and name != "k_e":
            formula = re.sub(r"\bk\b", "k_e", formula)
        filled = re.sub(r"\b(k_e|op|[iokspd])\b", lambda m: str(values[m[1]]), formula)
        result = values.get(name, axis.pad_before + axis.pad_after)
        return f"{name} = {formula} = {filled} = {result}"


def keras_refuses(layers: Sequence[Convolution]) -> bool:
    """Whether Keras refuses one layer with these axes, because of stride and dilation.

    It refuses them on different axes too. PyTorch runs such a layer.
    """
    strided = any(layer.stride > 1 for layer in layers)
    dilated = any(layer.dilation > 1 for layer in layers)
    return layers[0].framework == "TensorFlow" and strided and dilated


def counterparts(layers: Sequence[Convolution]) -> list[Convolution] | None:
    """The axes of the other framework's layer of the same sizes, if it has one."""
    found = []
    for layer in layers:
        size, named = layer.geometry().output_size, layer.framework == "PyTorch"
        if other := layer._with_output_size(size, named):
            found.append(other)
    return None if len(found) < len(layers) or keras_refuses(found) else found


def torch_axis(axis: AxisGeometry) -> AxisGeometry | None:
    """PyTorch's layer of the same kernel, stride and sizes as Keras' layer, or None.

    A causal convolution, the only one that pads more before than after, has none.
    """
    causal = axis.kind == "conv" and axis.pad_before > axis.pad_after
    if axis.kind not in ("conv", "transpose") or not axis.feasible or causal:
        return None
    op: Literal["conv", "transpose"] = "conv" if axis.kind == "conv" else "transpose"
    same = Convolution(
        op, axis.input_size, axis.kernel, axis.stride, dilation=axis.dilation
    )
    found = same._with_output_size(axis.output_size, named=False)
    return found.geometry() if found else None


def same_pixels(axes: Sequence[AxisGeometry], *frameworks: str, groups: int = 1) -> str:
    """Says which layers compute the same as a convolution, transposed or not.

    Args:
        axes: one for each spatial axis.
        *frameworks: some of "Keras", "PyTorch" and "ONNX".
        groups: of the channels, which Keras' transposed convolutions do not have.
    """
    known = {"Keras": keras_settings, "PyTorch": torch_settings, "ONNX": onnx_settings}
    way = "crop" if axes[0].is_scatter else "pad and crop"
    texts = []
    for name in frameworks:
        if name == "Keras" and groups > 1 and axes[0].is_scatter:
            texts.append("Keras has no groups in transposed convolutions")
        elif settings := known[name](axes):
            texts.append(f"{name} computes the same with {settings}")
        else:
            texts.append(
                f"no layer of {name} computes the same: {way} one without padding"
            )
    return "; ".join(texts)


def keras_settings(axes: Sequence[AxisGeometry]) -> str:
    """The padding of the layer of Keras that computes the same; "" if there is none."""
    if max(a.stride for a in axes) > 1 and max(a.dilation for a in axes) > 1:
        return ""
    for padding in ("same", "valid"):
        added = [next(keras_added(axis, padding), -1) for axis in axes]
        if -1 not in added:
            text = f'padding="{padding}"'
            numbers = tuple(n for n in added if n is not None)
            if len(numbers) < len(added):
                # Keras takes all output paddings or none.
                return "" if numbers else text
            return f"{text}, output_padding={numbers}"
    return ""


def keras_added(axis: AxisGeometry, padding: Any) -> Iterator[int | None]:
    """The output paddings with which Keras computes the same; None: none is given."""
    shape = axis.input_size, axis.kernel, axis.stride, padding
    if not axis.is_scatter:
        if conv_axis(*shape, axis.dilation).terms == axis.terms:
            yield None
        return
    for added in (None, *range(axis.stride)):
        other = conv_transpose_axis(*shape, added, axis.dilation)
        if other.feasible and other.terms == axis.terms:
            yield added


def torch_settings(axes: Sequence[AxisGeometry]) -> str:
    """The padding of the layer of PyTorch that computes the same; "" if none does."""
    paddings, added = [], []
    for axis in axes:
        shape = axis.input_size, axis.kernel, axis.stride, axis.pad_before
        extra = axis.pad_before - axis.effective_pad_after
        if axis.is_scatter:
            other = conv_transpose_axis(*shape, extra, axis.dilation)
        else:
            other = conv_axis(*shape, axis.dilation)
        if axis.pad_before < 0 or not other.feasible or other.terms != axis.terms:
            return ""
        paddings.append(axis.pad_before)
        added.append(extra)
    text = f"padding={tuple(paddings)}"
    has_added = axes[0].is_scatter and any(added)
    return f"{text}, output_padding={tuple(added)}" if has_added else text


def onnx_settings(axes: Sequence[AxisGeometry]) -> str:
    """The pads of the node of ONNX that computes the same; "" if there is none."""
    before = [axis.pad_before for axis in axes]
    after = [axis.effective_pad_after for axis in axes]
    if not axes[0].is_scatter:
        after = [max(n, 0) for n in after]
    added = [max(-n, 0) for n in after]
    strides = [axis.stride for axis in axes]
    if min(before) < 0 or any(n >= s for n, s in zip(added, strides, strict=True)):
        return ""
    text = f"pads={[*before, *(max(n, 0) for n in after)]}"
    return f"{text}, output_padding={added}" if any(added) else text
