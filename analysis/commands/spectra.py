"""`python -m analysis spectra`: is there a checkerboard in one set of samples?"""

import json
from pathlib import Path

import click

from gan.command_line import Command


@click.command(name="spectra", cls=Command)
@click.argument("source", type=click.Path(exists=True))
@click.option(
    "--n", "num_images", default=10_000, show_default=True, help="Number of images."
)
@click.option(
    "--checkpoint",
    default="latest",
    help="Checkpoint of a run: latest, best or a step.",
)
@click.option("--reference", help="Real images: .npz, folder or data set name.")
@click.option(
    "--strides",
    metavar="S,S,...",
    help="Strides of the upsamplings, first to last. Default: those of the run's "
    "generator; for other images the periods 2, 4 and 8 are tried.",
)
@click.option("--seed", default=0, help="Seed of the noise that the meter is tried on.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write all readings to this .npz, for `compare`.",
)
@click.option(
    "--figure", type=click.Path(dir_okay=False), help="Draw the spectra here."
)
@click.option("--json", "as_json", is_flag=True, help="Print the readings as JSON.")
def command(  # noqa: PLR0913
    source: str,
    num_images: int,
    checkpoint: str,
    reference: str | None,
    strides: str | None,
    seed: int,
    out: Path | None,
    figure: str | None,
    as_json: bool,
) -> None:
    """Looks for a checkerboard in SOURCE: a run, an .npz or a folder of images.

    Without --reference the real images are those the run was trained on, else the
    bundled Fashion-MNIST. Half of them are the reference; the other half is read as the
    samples are, and stands beside every reading.
    """
    from analysis.checkerboard.figures import draw_spectra
    from analysis.checkerboard.measurement import measure_samples
    from analysis.samples import load_reference, load_samples

    given = parse_strides(strides) if strides else None
    samples = load_samples(source, num_images, checkpoint)
    real = load_reference(reference, samples)
    result = measure_samples(samples, real, given, seed)
    if out:
        result.save(out)
    if figure:
        power, real_power = (result.arrays[k] for k in ("power", "real_power"))
        drawn = draw_spectra(power, real_power, result.layout, samples.name)
        drawn.savefig(figure, dpi=150)
    if as_json:
        click.echo(json.dumps(result.as_dict(), indent=2))
    else:
        from analysis.commands.readings import print_measurement

        print_measurement(result)


def parse_strides(text: str) -> tuple[int, ...]:
    """Reads "2,2"."""
    parts = text.split(",")
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"--strides: received {text!r}, expected numbers like 2,2")
    return tuple(int(part) for part in parts)
