"""`python -m analysis validate`: the meters, tried on what is known."""

import json
from typing import Any

import click

from gan.run.environment import prepare_tensorflow


@click.command(name="validate")
@click.option("--reference", help="Real images: .npz, folder or data set name.")
@click.option(
    "--quality", is_flag=True, help="Also the controls of the quality meters."
)
@click.option("--seed", default=0, help="Of noise, signs and resampling.")
@click.option("--json", "as_json", is_flag=True, help="Print results as JSON.")
def command(reference: str | None, quality: bool, seed: int, as_json: bool) -> None:
    """Runs the controls that the meters must pass; exit code 1 if one fails."""
    from analysis.checkerboard.controls import run_controls
    from analysis.samples import load_reference

    try:
        real = load_reference(reference)
        controls: list[Any] = run_controls(real.images_uint8, seed)
        if quality:
            prepare_tensorflow()
            from analysis.quality.controls import run_controls as run_quality_controls

            controls += run_quality_controls()
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        rows = [item._asdict() | {"passed": bool(item.passed)} for item in controls]
        click.echo(json.dumps(rows, indent=2))
    else:
        print_controls(controls)
    if not all(item.passed for item in controls):
        raise SystemExit(1)


def print_controls(controls: list[Any]) -> None:
    """Prints one row a control."""
    from rich.console import Console
    from rich.table import Table

    table = Table("control", "", "measured", "expected")
    for item in controls:
        verdict = "[green]passed[/]" if item.passed else "[bold red]FAILED[/]"
        table.add_row(item.name, verdict, item.measured, item.expected)
    Console().print(table)
