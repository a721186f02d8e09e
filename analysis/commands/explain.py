"""`python -m analysis explain`: the sizes of one layer, with numbers put in."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from analysis.geometry.arithmetic import AxisPlan, findings
from analysis.geometry.explain import Layer

WIDEST_ROW = 24  # positions that fit a terminal
WIDEST_MATRIX = 16
LARGEST = 1024  # pixels on a side; the counts take time, not understanding


class PairType(click.ParamType):
    """A whole number, or two as `5x3` for height and width; words stay words."""

    def __init__(self, smallest: int, words: Sequence[str] = ()) -> None:
        self.smallest = smallest
        self.words = words
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
        if not all(self.smallest <= int(part) <= LARGEST for part in parts):
            self.fail(f"{value!r} is not in {self.smallest}..{LARGEST}", param, ctx)
        return int(parts[0]), int(parts[-1])


def layer_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that describe one layer, for `explain` and `draw`."""
    words = PairType(0, ("same", "valid"))
    rules = "a word for TensorFlow's rules, a number for PyTorch's"
    shown: dict[str, Any] = {"show_default": True}
    operation = click.Choice(["transpose", "conv"])
    for option in (
        click.option("--dilation", type=PairType(1), default="1", **shown),
        click.option("--output-padding", type=PairType(0)),
        click.option("--op", type=operation, default="transpose", **shown),
        click.option("--padding", type=words, default="same", help=rules, **shown),
        click.option("--stride", type=PairType(1), default="1", **shown),
        click.option("--kernel", type=PairType(1), required=True),
        click.option("--input", "input_size", type=PairType(1), required=True),
    ):
        command = option(command)
    return command


def checked_layers(options: dict[str, Any]) -> list[Layer]:
    """The layer along the height and the width, or one line saying what is wrong."""
    pairs = {key: value for key, value in options.items() if isinstance(value, tuple)}
    layers = []
    for axis in (0, 1):
        sizes = {key: pair[axis] for key, pair in pairs.items()}
        layer = Layer(**{**options, **sizes})
        try:
            if layer.plan().output_size > LARGEST:
                raise ValueError(f"the output is larger than {LARGEST} px")
        except ValueError as error:
            where = f"{layer.call()} on {layer.input_size} px"
            raise click.ClickException(f"{where}: {error}") from error
        layers.append(layer)
    return layers


@click.command("explain")
@layer_options
def command(**options: Any) -> None:
    """Prints sizes, crop, coverage and matrix of one layer.

    The layer is shown beside the one of the other framework that gives the same size,
    because the same size does not mean the same pixels. A size may differ between
    height and width: --kernel 5x3.
    """
    for layer in dict.fromkeys(checked_layers(options)):
        _explain(layer, Console(highlight=False))


def _explain(layer: Layer, console: Console) -> None:
    plan, other = layer.plan(), layer.counterpart()
    shown = [layer, *([other] if other else [])]
    shown.sort(key=lambda one: one.framework != "TensorFlow")
    plans = [one.plan() for one in shown]
    console.print(f"{layer.call()}: {plan.input_size} to {plan.output_size} px\n")
    console.print(_comparison(shown))
    if other is None:
        console.print("The other framework has no layer of these sizes.")
    elif plans[0].pad_before != plans[1].pad_before:
        console.print("[bold]Equal sizes, different pixels:[/] " + _offset(*shown))
    for finding in findings(plan):
        console.print(f"{finding.code} {finding.level}: {finding.text}")
    if max(map(_reach, plans)) <= WIDEST_ROW:
        what = "place in the full output" if plan.is_scatter else "first input"
        console.print(f"\nEach output's {what}:", _windows(shown), sep="\n")
    size = max(plan.input_size, plan.output_size)
    if size <= WIDEST_MATRIX:
        name = "C transposed" if plan.is_scatter else "C"
        console.print(f"\ny = {name} x, along one axis:", _matrix(plan, 1), sep="\n")
    if size**2 <= WIDEST_MATRIX:
        console.print("\nand in the plane, row by row:", _matrix(plan, 2), sep="\n")


def _comparison(layers: list[Layer]) -> Table:
    table = Table(show_lines=True)
    table.add_column("")
    plans = [layer.plan() for layer in layers]
    for layer in layers:
        table.add_column(layer.framework, overflow="fold")
    table.add_row("call", *(layer.call() for layer in layers))
    table.add_row("size", *("\n".join(layer.size_lines()) for layer in layers))
    table.add_row("coverage", *(_short(plan.coverage()) for plan in plans))
    if layers[0].op == "transpose":
        table.add_row(
            "taps by phase", *(" : ".join(map(str, plan.phases())) for plan in plans)
        )
    table.add_row("drift", *(f"{plan.drift_px:+g} px" for plan in plans))
    return table


def _offset(ours: Layer, theirs: Layer) -> str:
    shift = theirs.plan().pad_before - ours.plan().pad_before
    if ours.op == "transpose":
        return f"PyTorch's output n is TensorFlow's output n{shift:+d}."
    return f"PyTorch's windows start {shift} px before TensorFlow's."


def _reach(plan: AxisPlan) -> int:
    """Positions of the full output of a scatter, or of the padded input of a gather."""
    size = plan.output_size if plan.is_scatter else plan.input_size
    return size + plan.pad_before + max(plan.trailing, 0)


def _windows(layers: list[Layer]) -> Table:
    """Where each output lies on the full output, or starts to read the input."""
    plans = [layer.plan() for layer in layers]
    scatter = plans[0].is_scatter
    first = 0 if scatter else -max(plan.pad_before for plan in plans)
    positions = range(first, first + max(map(_reach, plans)))
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("full" if scatter else "input")
    for position in positions:
        table.add_column(str(position), justify="right", style="cyan")
    for layer, plan in zip(layers, plans, strict=True):
        step = 1 if scatter else plan.stride
        offset = plan.pad_before if scatter else -plan.pad_before
        at = {offset + step * n: str(n) for n in range(plan.output_size)}
        table.add_row(layer.framework, *(at.get(place, ".") for place in positions))
    return table


def _matrix(plan: AxisPlan, num_axes: int) -> Table:
    """The matrix with the names of the kernel's weights in it."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    inputs = list(product(range(plan.input_size), repeat=num_axes))
    for name in ("", *(_name("x", j) for j in inputs)):
        table.add_column(name, justify="right")
    for n in product(range(plan.output_size), repeat=num_axes):
        terms = product(*(plan.all_reads[axis] for axis in n))
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
