"""Options that several commands have in common, as decorators, and types of options."""

from pathlib import Path

import click

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)

sources = click.argument(
    "sources", nargs=-1, required=True, type=click.Path(exists=True)
)
num_images = click.option(
    *("--n", "num_images"),
    default=10_000,
    show_default=True,
    help="Number of images per source.",
)
checkpoint = click.option(
    "--checkpoint",
    default="latest",
    show_default=True,
    help="Checkpoint of a run: latest, best or a step.",
)
reference = click.option(
    "--reference", help="Real images: .npz file, folder or data set name."
)
as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print the numbers as JSON."
)
figure_folder = click.option(
    *("--figures", "figure_folder"),
    type=FOLDER,
    help="Also write every figure into this folder, as PNG and SVG.",
)
