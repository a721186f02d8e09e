"""`python -m analysis explain`: the sizes of one layer, with numbers put in."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from analysis.commands.options import option
from analysis.geometry.arithmetic import AxisGeometry, findings
from analysis.geometry.formulas import (
    REFUSED,
    Convolution,
    counterparts,
    keras_refuses,
    same_pixels,
)

MAX_POSITIONS = 24  # in one row that fits a terminal
MAX_MATRIX = 16
MAX_PX = 1024  # on a side; larger maps take time and explain nothing more


class PairType(click.ParamType):
    """A whole number, two of them as `5x3` for height and width, or a given word."""

    def __init__(self, smallest: int, *words: str) -> None:
        self.smallest, self.words = smallest, words
        self.name = "|".join([*words, "N|NxM"])

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int | str, int | str]:
        """The value for the height and the one for the width."""
        text = str(value).lower()
        if text in self.words:
            return text, text
        parts = text.split("x")
        if len(parts) > 2 or not all(part.isdecimal() for part in parts):
            self.fail(f"{value!r} is not {self.name}", param, ctx)
        if not all(self.smallest <= int(part) <= MAX_PX for part in parts):
            self.fail(f"{value!r} is not in {self.smallest}..{MAX_PX}", param, ctx)
        return int(parts[0]), int(parts[-1])


def layer_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that describe one layer, for `explain` and `draw`."""
    words, operation = PairType(0, "same", "valid"), click.Choice(["transpose", "conv"])
    rules = "A word follows TensorFlow's rules, a number of pixels PyTorch's."
    added = "Pixels added to the size at the end."
    options: dict[str, dict[str, Any]] = {  # the last one becomes the first in --help
        "dilation": {"type": PairType(1), "default": "1", "help": "Between taps, px."},
        "output-padding": {"type": PairType(0), "help": added},
        "op": {"type": operation, "default": "transpose"},
        "padding": {"type": words, "default": "same", "help": rules},
        "stride": {"type": PairType(1), "default": "1", "help": "Pixels."},
        "kernel": {"type": PairType(1), "required": True, "help": "Taps."},
        "input": {"type": PairType(1), "required": True, "help": "Pixels."},
    }
    for name, settings in options.items():
        target = "input_size" if name == "input" else name.replace("-", "_")
        command = option(f"--{name}", target, **settings)(command)
    return command


def checked_layers(options: dict[str, Any]) -> list[Convolution]:
    """The layers along height and width, or a ClickException that says why not."""
    pairs = {key: value for key, value in options.items() if isinstance(value, tuple)}
    layers = []
    for axis in (0, 1):
        sizes = {key: pair[axis] for key, pair in pairs.items()}
        layer = Convolution(**{**options, **sizes})
        try:
            if layer.geometry().output_size > MAX_PX:
                raise ValueError(f"the output is larger than {MAX_PX} px")
        except ValueError as error:
            where = f"{layer.constructor_call()} on {layer.input_size} px"
            raise click.ClickException(f"{where}: {error}") from error
        layers.append(layer)
    if keras_refuses(layers):
        raise click.ClickException(REFUSED)
    return layers


@click.command("explain")
@layer_options
def command(**options: Any) -> None:
    """Prints the sizes, crop, overlap and matrix of one layer.

    The layer is shown beside the one of the other framework that gives the same size,
    because the same size does not mean the same pixels. A size may differ between
    height and width: --kernel 5x3.
    """
    layers = checked_layers(options)
    others = counterparts(layers) or (None, None)
    console = Console(highlight=False)
    for layer, other in dict.fromkeys(zip(layers, others, strict=True)):
        _explain(layer, other, console)
    axes = [layer.geometry() for layer in layers]
    text = same_pixels(axes, "Keras", "PyTorch", "ONNX").replace("; ", "\n")
    console.print(f"\n{text}", markup=False)


def _explain(layer: Convolution, other: Convolution | None, console: Console) -> None:
    axis = layer.geometry()
    shown = [layer, *([other] if other else [])]
    shown.sort(key=lambda one: one.framework != "TensorFlow")
    axes = [one.geometry() for one in shown]
    call = layer.constructor_call()
    console.print(f"{call}: {axis.input_size} to {axis.output_size} px\n")
    console.print(_comparison(shown))
    if other is None:
        console.print("The other framework has no layer of these sizes.")
    elif by := axes[1].pad_before - axes[0].pad_before:
        text = f"PyTorch's windows start {by} px before TensorFlow's."
        if axis.is_scatter:
            text = f"PyTorch's output n is TensorFlow's output n{by:+d}."
        console.print("[bold]Equal sizes, different pixels:[/] " + text)
    for finding in findings(axis):
        console.print(f"{finding.code} {finding.level}: {finding.text}")
    if max(map(_num_positions, axes)) <= MAX_POSITIONS:
        what = "place in the full output" if axis.is_scatter else "first input"
        console.print(f"\nEach output's {what}:", _windows(shown), sep="\n")
    size = max(axis.input_size, axis.output_size)
    if size <= MAX_MATRIX:
        name = "C transposed" if axis.is_scatter else "C"
        console.print(f"\ny = {name} x, along one axis:", _matrix(axis, 1), sep="\n")
    if size**2 <= MAX_MATRIX:
        console.print("\nand in the plane, row by row:", _matrix(axis, 2), sep="\n")


def _comparison(layers: list[Convolution]) -> Table:
    """The layers side by side."""
    table = Table("", show_lines=True)
    axes = [layer.geometry() for layer in layers]
    for layer in layers:
        table.add_column(layer.framework, overflow="fold")
    table.add_row("call", *(layer.constructor_call() for layer in layers))
    table.add_row("size", *("\n".join(layer.formulas()) for layer in layers))
    table.add_row("overlap", *(_short(axis.overlap()) for axis in axes))
    if axes[0].is_scatter:
        taps = (" : ".join(map(str, axis.taps_by_phase())) for axis in axes)
        table.add_row("taps by phase", *taps)
    table.add_row("shift", *(f"{axis.shift_px:+g} px" for axis in axes))
    return table


def _num_positions(axis: AxisGeometry) -> int:
    """Positions of the full output of a scatter, or of the padded input of a gather."""
    size = axis.output_size if axis.is_scatter else axis.input_size
    return size + axis.pad_before + max(axis.effective_pad_after, 0)


def _windows(layers: list[Convolution]) -> Table:
    """Where each output lies on the full output, or starts to read the input."""
    axes = [layer.geometry() for layer in layers]
    scatter = axes[0].is_scatter
    first = 0 if scatter else -max(axis.pad_before for axis in axes)
    positions = range(first, first + max(map(_num_positions, axes)))
    table = Table("full" if scatter else "input", box=None, padding=(0, 1, 0, 0))
    for position in positions:
        table.add_column(str(position), justify="right", style="cyan")
    for layer, axis in zip(layers, axes, strict=True):
        step = 1 if scatter else axis.stride
        offset = axis.pad_before if scatter else -axis.pad_before
        outputs = {offset + step * n: str(n) for n in range(axis.output_size)}
        table.add_row(layer.framework, *(outputs.get(at, ".") for at in positions))
    return table


def _matrix(axis: AxisGeometry, num_axes: int) -> Table:
    """The matrix with the names of the kernel's weights in it."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    inputs = list(product(range(axis.input_size), repeat=num_axes))
    for name in ("", *(_name("x", j) for j in inputs)):
        table.add_column(name, justify="right")
    for n in product(range(axis.output_size), repeat=num_axes):
        terms = product(*(axis.terms[index] for index in n))
        pairs = [tuple(zip(*term, strict=True)) for term in terms]
        weights = {j: _name("w", taps) for j, taps in pairs}
        table.add_row(_name("y", n), *(weights.get(j, ".") for j in inputs))
    return table


def _name(letter: str, index: tuple[int, ...]) -> str:
    return letter + ",".join(map(str, index))


def _short(values: Sequence[float]) -> str:
    """Values as text, the middle of a long row left out."""
    words = [f"{value:g}" for value in values]
    return " ".join(words if len(words) < 64 else [*words[:16], "...", *words[-16:]])
