"""`python -m analysis validate`: the checkerboard meter, tried on known images."""

import json

import click
from rich.table import Table

from analysis.commands import options
from analysis.commands.tables import table_console
from gan.command_line import Command


@click.command(name="validate", cls=Command)
@options.reference
@click.option(
    "--full",
    is_flag=True,
    help="Repeat each control 100 times for rates; this takes some 8 minutes.",
)
@click.option("--seed", default=0, help="Seed of the images and the noise drawn.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def command(reference: str | None, full: bool, seed: int, as_json: bool) -> None:
    """Runs the controls that the meter must pass; the exit code is 1 if one fails."""
    from analysis.checkerboard.controls import run_controls
    from analysis.samples import load_reference

    real = load_reference(reference)
    draws = 100 if full else 1
    found = run_controls(real.images_uint8, real.labels, num_draws=draws, seed=seed)
    controls = list(found)
    if as_json:
        click.echo(json.dumps([control._asdict() for control in controls], indent=2))
    else:
        table = Table("control", "", "measured", "expected")
        for item in controls:
            verdict = "[green]passed[/]" if item.passed else "[bold red]FAILED[/]"
            table.add_row(item.name, verdict, item.measured, item.expected)
        table_console().print(table)
    if not all(control.passed for control in controls):
        raise SystemExit(1)
