"""Options that several commands have in common, as decorators."""

from pathlib import Path

import click

num_images = click.option(
    "--n",
    "num_images",
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
figure_folder = click.option(
    "--figures",
    "figure_folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Also write every figure into this folder, as PNG and SVG.",
)
