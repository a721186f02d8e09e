"""Options that several commands have in common, as decorators, and their types."""

from functools import partial
from pathlib import Path

import click

from gan.command_line import RunPath

TORCH_FILES = (".pt2", ".pt", ".pth")  # suffixes
FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)

option = partial(click.option, show_default=True)
sources = click.argument("sources", nargs=-1, required=True, type=RunPath(exists=True))
num_images = option(
    *("--n", "num_images"),
    type=click.IntRange(1),
    default=10_000,
    help="Number of images per source.",
)
checkpoint = option(
    "--checkpoint",
    default="latest",
    help="Checkpoint of a run: latest, best or a step.",
)
reference = option("--reference", help="Real images: file, folder or data set name.")
value_range = option(
    *("--range", "value_range"),
    type=(float, float),
    metavar="BLACK WHITE",
    help="Range of the values in arrays of floats, for example 0 1. [default: -1 1]",
    show_default=False,
)
as_json = option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
figure_folder = option(
    *("--figures", "figure_folder"),
    type=FOLDER,
    help="Also write every figure into this folder, as PNG and SVG.",
)
