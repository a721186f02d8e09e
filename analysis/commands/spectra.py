"""`python -m analysis spectra`: one set of samples against real images."""

import json
from pathlib import Path
from typing import Any

import click


@click.command(name="spectra")
@click.argument("source", type=click.Path(exists=True))
@click.option(
    "--n", "num_images", default=10_000, show_default=True, help="Images used."
)
@click.option(
    "--checkpoint", default="latest", help="Of a run: latest, best or a step."
)
@click.option("--reference", help="Real images: .npz, folder or data set name.")
@click.option("--strides", default="2,2", show_default=True, help="First to last.")
@click.option(
    "--window", type=click.Choice(["hann", "rectangular", "kaiser"]), default="hann"
)
@click.option("--crop", "crop_px", default=0, help="Central square in pixels; 0: all.")
@click.option("--seed", default=0, help="Of the resampling.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="An .npz.")
@click.option("--figure", type=click.Path(dir_okay=False), help="Spectra as a picture.")
@click.option("--json", "as_json", is_flag=True, help="Print numbers as JSON.")
def command(  # noqa: PLR0913
    source: str,
    num_images: int,
    checkpoint: str,
    reference: str | None,
    strides: str,
    window: str,
    crop_px: int,
    seed: int,
    out: Path | None,
    figure: str | None,
    as_json: bool,
) -> None:
    """Measures the checkerboard in SOURCE: a run, an .npz or a folder of images.

    Without --reference the real images are those the run was trained on, else the
    bundled Fashion-MNIST. Half of them are the reference, the other half tells what
    two sets without artifact differ by.
    """
    from analysis.checkerboard.figures import draw_spectra
    from analysis.checkerboard.layout import Protocol
    from analysis.checkerboard.measurement import measure_samples
    from analysis.samples import load_reference, load_samples

    try:
        protocol = Protocol(window, parse_strides(strides), crop_px)
        samples = load_samples(source, num_images, checkpoint)
        real = load_reference(reference, samples)
        result = measure_samples(samples, real, protocol, seed)
        if out:
            result.save(out)
        if figure:
            powers = result.arrays["power"], result.arrays["real_power"]
            draw_spectra(*powers, result.layout, samples.name).savefig(figure, dpi=150)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(json.dumps(result.summary, indent=2))
    else:
        print_table(result.summary)


def parse_strides(text: str) -> tuple[int, ...]:
    """Reads "2,2"."""
    parts = text.split(",")
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"--strides: received {text!r}, expected numbers like 2,2")
    return tuple(int(part) for part in parts)


def print_table(summary: dict[str, Any]) -> None:
    """Prints what a reader needs first."""
    from rich.console import Console
    from rich.table import Table

    sides = summary["samples"], summary["reference"]
    title = " against ".join(f"{side['name']} ({side['size']})" for side in sides)
    table = Table("", "value", "95 % interval", "detection limit", title=title)
    rows = {
        label: summary[key]
        for key, label in (("a_last", "A last, grey levels"), ("a_prev", "A prev"))
        if key in summary
    }
    rows |= {f"delta PNR ({k}), dB": v for k, v in summary["delta_pnr_db"].items()}
    for label, item in rows.items():
        limit = f"{item['detection_limit']:.2f}" if "detection_limit" in item else ""
        interval = f"{item['low']:+.2f} .. {item['high']:+.2f}"
        table.add_row(label, f"{item['value']:+.2f}", interval, limit)
    console = Console()
    console.print(table)
    distance = summary["log_spectral_distance_db"]
    console.print(
        f"log-spectral distance {distance['value']:.2f} dB "
        f"(real against real {distance['null']:.2f})"
    )
    for note in [note for side in sides for note in side["notes"]]:
        console.print(f"Note: {note}")
