"""`python -m analysis draw`: one convolution step by step, as PNG or GIF."""

from pathlib import Path
from typing import Any

import click

from analysis.commands.explain import checked_layers, layer_options
from analysis.commands.options import FILE, option
from analysis.geometry.formulas import Convolution, counterparts
from gan.command_line import Command


@click.command("draw", cls=Command)
@layer_options
@option("--out", type=FILE, required=True, help="File to write: .png or .gif.")
@option(
    "--framework",
    type=click.Choice(["tensorflow", "torch"]),
    help="Draw this framework's layer of the same sizes.",
)
def command(out: Path, framework: str | None, **options: Any) -> None:
    """Draws one layer step by step; --out names a .png or .gif file.

    A size may differ between height and width: --kernel 5x3.
    """
    from analysis.geometry import draw

    savers = {".png": draw.save_picture, ".gif": draw.save_animation}
    if out.suffix not in savers:
        raise click.BadParameter(f"{out} does not end in {', '.join(savers)}")
    layers = checked_layers(options)
    if framework and not layers[0].framework.lower().endswith(framework):
        layers = _in_other_framework(layers, framework)
    savers[out.suffix](draw.Scene(*layers), out)
    click.echo(out)


def _in_other_framework(layers: list[Convolution], framework: str) -> list[Convolution]:
    """The axes of the layer of the same sizes in `framework`."""
    found = counterparts(layers)
    if found is None:
        sizes = (f"{a.input_size} to {a.geometry().output_size} px" for a in layers)
        text = " and ".join(dict.fromkeys(sizes))
        raise ValueError(f"{framework} has no such layer of {text}")
    return found
