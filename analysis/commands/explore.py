"""`python -m analysis explore`: a page that explains transposed convolution."""

import shutil
from pathlib import Path

import click

from gan.command_line import Command

PAGE = Path(__file__).parents[1] / "assets" / "explorer.html"


@click.command("explore", cls=Command)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("explorer.html"),
    show_default=True,
    help="File to write.",
)
def command(out: Path) -> None:
    """Writes an interactive page about one layer, for any browser.

    It shows the arithmetic of convolution and transposed convolution step by step, by
    the rules of Keras, PyTorch and ONNX. It is one file and needs no network.
    """
    shutil.copyfile(PAGE, out)
    click.echo(f"{out}: open it in a browser")
