"""`python -m analysis report`: one page that shows what upsampling did to pictures."""

from pathlib import Path

import click

from gan.run.environment import prepare_tensorflow


@click.command(name="report")
@click.argument("sources", nargs=-1, required=True, type=click.Path(exists=True))
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default="report.html",
    show_default=True,
    help="The page.",
)
@click.option(
    "--n", "num_images", default=10_000, show_default=True, help="Images of each."
)
@click.option("--checkpoint", default="latest", help="Of runs: latest, best or a step.")
@click.option("--reference", help="Real images: .npz, folder or data set name.")
@click.option(
    "--figures",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write every figure there, too, as PNG and SVG.",
)
def command(
    sources: tuple[str, ...],
    out: Path,
    num_images: int,
    checkpoint: str,
    reference: str | None,
    figures: Path | None,
) -> None:
    """Writes one HTML page about SOURCES: runs, .npz files or folders of images.

    The controls of the meter run first; if one fails, the page says so at its top and
    the exit status is 1.
    """
    prepare_tensorflow()
    from analysis.checkerboard.controls import run_controls
    from analysis.report.comparison import is_measurement, load_subjects
    from analysis.report.page import make_page
    from analysis.samples import SampleError, load_reference

    try:
        for source in filter(is_measurement, sources):
            raise SampleError(f"{source}: a saved result; a report needs the images")
        for folder in filter(None, (out.parent, figures)):
            folder.mkdir(parents=True, exist_ok=True)
        subjects = load_subjects(sources, num_images, checkpoint, reference)
        real = load_reference(reference, subjects[0].samples)
        controls = run_controls(real.images_uint8)
        page, plates = make_page(subjects, real, controls)
        out.write_text(page, encoding="utf-8")
        if figures:
            for plate in plates:
                plate.save(figures)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{out}: {len(subjects)} sources, {len(plates)} figures")
    failed = [control.name for control in controls if not control.passed]
    if failed:
        raise click.ClickException(f"failed controls: {', '.join(failed)}")
