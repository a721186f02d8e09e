"""`python -m analysis explain`: the sizes of layers, with numbers put in."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from itertools import product
from typing import Any, get_args

import click
from click.core import ParameterSource
from rich.console import Console
from rich.table import Table

from analysis.commands.options import option
from analysis.geometry.arithmetic import (
    INTERPOLATIONS,
    AxisGeometry,
    chain_margins,
    chain_output_field,
    chain_overlap,
    chain_shift,
    findings,
)
from analysis.geometry.formulas import (
    REFUSED,
    Convolution,
    counterparts,
    keras_refuses,
    same_pixels,
)
from analysis.geometry.resizing import Coordinates, Resize, same_resizes

CONVOLVING = ("kernel", "stride", "padding", "output_padding", "dilation")
RESIZING = ("factor", "interpolation", "coordinates", "cubic_a")
Layers = Sequence[Convolution] | Sequence[Resize]
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


def layer_options(
    command: Callable[..., None], resizes: bool = False
) -> Callable[..., None]:
    """The options that describe one layer, for `explain` and `draw`.

    `resizes` adds those of a resize, which takes no kernel.
    """
    operation = click.Choice(["transpose", "conv", *["resize"] * resizes])
    words = PairType(0, "same", "valid")
    rules = "A word follows TensorFlow's rules, a number of pixels PyTorch's."
    added = "Pixels added to the size at the end."
    cubic, rule = click.Choice(["-0.5", "-0.75"]), click.Choice(get_args(Coordinates))
    where = "Where outputs lie on the input."
    resizing: dict[str, dict[str, Any]] = {
        "cubic-a": {
            "type": cubic,
            "default": "-0.5",
            "help": "Parameter a of bicubic interpolation.",
        },
        "coordinates": {"type": rule, "default": "half-pixel", "help": where},
        "interpolation": {"type": click.Choice(INTERPOLATIONS), "default": "nearest"},
        "factor": {"type": PairType(1), "help": "Factor of a resize."},
    }
    options: dict[str, dict[str, Any]] = {  # the last one becomes the first in --help
        **(resizing if resizes else {}),
        "dilation": {
            "type": PairType(1),
            "default": "1",
            "help": "Pixels between two taps.",
        },
        "output-padding": {"type": PairType(0), "help": added},
        "op": {"type": operation, "default": "transpose"},
        "padding": {"type": words, "default": "same", "help": rules},
        "stride": {"type": PairType(1), "default": "1", "help": "Stride, pixels."},
        "kernel": {
            "type": PairType(1),
            "required": not resizes,
            "help": "Kernel size, taps.",
        },
        "input": {"type": PairType(1), "required": True, "help": "Input size, pixels."},
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
@click.pass_context
@partial(layer_options, resizes=True)
@option(
    *("--then", "texts"),
    multiple=True,
    metavar="TEXT",
    help="A layer behind the others: --then 'op=conv kernel=3'.",
)
def command(context: click.Context, texts: Sequence[str], **options: Any) -> None:
    """Prints the sizes, crop, overlap and matrix of one layer, or a chain of layers.

    A convolution is shown beside the one of the other framework that gives the same
    size, because the same size does not mean the same pixels. A resize is shown with
    the inputs and the weights of each output. A size may differ between height and
    width: --kernel 5x3.
    """
    console = Console(highlight=False)
    if texts:
        _explain_chain(_chain(context, texts), console)
        return
    layers = _layers(context, options["input_size"])
    for resize in dict.fromkeys(_resizes(layers)):
        _explain_resize(resize, console)
    convolutions = [layer for layer in layers if isinstance(layer, Convolution)]
    others = counterparts(convolutions) if convolutions else None
    pairs = zip(convolutions, others or (None, None), strict=False)
    for layer, other in dict.fromkeys(pairs):
        _explain(layer, other, console)
    console.print(f"\n{_same(layers)}", markup=False)


def _resizes(layers: Layers) -> list[Resize]:
    return [layer for layer in layers if isinstance(layer, Resize)]


def _layers(context: click.Context, input_size: tuple[int, int]) -> Layers:
    """The layers along height and width that the options in `context` describe."""
    op = what = context.params["op"]
    own: tuple[str, ...] = CONVOLVING
    if op == "resize":
        what = f"{context.params['interpolation']} resize"
        own = RESIZING if what.startswith("bicubic") else RESIZING[:-1]
    for name in (*CONVOLVING, *RESIZING):
        given = context.get_parameter_source(name) != ParameterSource.DEFAULT
        if given and name not in own:
            text = f"{what} does not use {name}, but {', '.join(own)}: leave it out"
            raise click.ClickException(text.replace("_", "-"))
    values = {name: context.params[name] for name in own}
    if values[own[0]] is None:
        raise click.ClickException(f"{what} needs {own[0]}, a whole number: give it")
    if op != "resize":
        return checked_layers({"op": op, "input_size": input_size, **values})
    sizes = zip(input_size, values.pop("factor"), strict=True)
    values["cubic_a"] = Fraction(context.params["cubic_a"])
    layers = [Resize(i, i * factor, **values) for i, factor in sizes]
    for layer in layers:
        if layer.output_size > MAX_PX:
            where = f"{layer.constructor_call()} on {layer.input_size} px"
            text = f"{where}: the output is larger than {MAX_PX} px"
            raise click.ClickException(text)
    return layers


def _chain(context: click.Context, texts: Sequence[str]) -> list[Layers]:
    """The layer of the options and those of `--then`, each along height and width."""
    own = (*CONVOLVING, *RESIZING, "op")
    parameters = [p for p in context.command.params if p.name in own]
    layers: list[Layers] = []
    size = context.params["input_size"]
    for number, text in enumerate(["", *texts], start=1):
        try:
            if number > 1:
                context = _parsed(text, parameters)
            layers.append(_layers(context, size))
        except click.ClickException as error:
            text = f"layer {number}: {error.format_message()}"
            raise click.ClickException(text) from error
        size = tuple(_output(layer)[0] for layer in layers[-1])
    return layers


def _parsed(text: str, parameters: list[click.Parameter]) -> click.Context:
    """The options of a layer from a text such as "kernel=5 stride=2"."""
    words, known = text.split(), [p.opts[0].removeprefix("--") for p in parameters]
    names = [word.partition("=")[0] for word in words]
    for word, name in zip(words, names, strict=True):
        if name not in known or "=" not in word or names.count(name) > 1:
            text = f"{word!r} is not expected: give words such as kernel=5"
            raise click.ClickException(
                f"{text}, each of {', '.join(known)} at most once"
            )
    layer = click.Command("layer", params=parameters, add_help_option=False)
    return layer.make_context("layer", [f"--{word}" for word in words])


def _same(layers: Layers) -> str:
    """Says line by line which frameworks compute the same as a layer."""
    if resizes := _resizes(layers):
        return "\n".join(same_resizes(resizes))
    axes = [layer.geometry() for layer in layers]
    return same_pixels(axes, "Keras", "PyTorch", "ONNX").replace("; ", "\n")


def _explain_resize(layer: Resize, console: Console) -> None:
    size, call = layer.output_size, layer.constructor_call()
    console.print(f"{call}: {layer.input_size} to {size} px\n")
    console.print("\n".join(layer.formulas()))
    console.print(f"The image is shifted by {layer.shift_px:+g} px.\n")
    if size > MAX_POSITIONS:
        return
    table = Table("", "x", "value", box=None, padding=(0, 1, 0, 0))
    for n, weights in enumerate(layer.table()):
        value = " + ".join(f"{weight} x{j}" for j, weight in weights.items())
        x = str(layer.coordinate(n))
        table.add_row(f"y{n}", x, value.replace("+ -", "- "))
    console.print(table)


def _output(layer: Convolution | Resize) -> tuple[int, str, float]:
    """Size of a layer's output, what it pads or crops, and its shift."""
    if isinstance(layer, Resize):
        return layer.output_size, "none", layer.shift_px
    axis = layer.geometry()
    return axis.output_size, layer.formulas()[-1], axis.shift_px


def _explain_chain(layers: list[Layers], console: Console) -> None:
    chains = list(dict.fromkeys(zip(*layers, strict=True)))
    for chain, side in zip(chains, ("height", "width"), strict=False):
        if len(chains) > 1:
            console.print(f"Along the {side}:")
        table = Table("", show_lines=True)
        for heading in ("layer", "input", "output", "pads or crop", "shift"):
            table.add_column(heading, overflow="fold")
        for number, layer in enumerate(chain, start=1):
            size, pads, shift = _output(layer)
            sizes = f"{layer.input_size} px", f"{size} px"
            call = layer.constructor_call()
            table.add_row(f"{number}", call, *sizes, pads, f"{shift:+g} px")
        console.print(table)
        _explain_whole(chain, console)
    for number, pair in enumerate(layers, start=1):
        console.print(f"\nLayer {number}:\n{_same(pair)}", markup=False)


def _explain_whole(chain: Sequence[Convolution | Resize], console: Console) -> None:
    """Prints what a chain of layers does along one axis."""
    axes = []
    for number, layer in enumerate(chain, start=1):
        try:
            axes.append(layer.geometry())
        except ValueError as error:
            what = "Overlap, shift, output field and border are not given"
            console.print(f"{what}, because of layer {number}: {error}.")
            return
    before, after = chain_margins(axes)
    console.print(f"overlap: {_short(chain_overlap(axes))}")
    console.print(f"shift: {chain_shift(axes):+g} px")
    console.print(f"An input reaches at most {chain_output_field(axes)} outputs.")
    border = f"{before} outputs at the start and {after} at the end"
    console.print(f"{border} depend on a border.")


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
