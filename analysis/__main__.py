"""`python -m analysis`: the measuring commands.

Each command lives in `analysis.commands` and is imported when it is called, so that
`--help` answers without TensorFlow.
"""

import importlib

import click

COMMANDS = {
    "layers": "padding and shapes of every layer: predicted, built and computed",
    "probe": "which upsampling of a decoder makes a pattern",
    "draw": "one (transposed) convolution drawn step by step",
    "explore": "an interactive page that explains transposed convolution",
    "explain": "the size formulas with numbers put in",
    "spectra": "is there a checkerboard in one set of samples?",
    "compare": "the checkerboards of several sources side by side",
    "report": "one self-contained HTML page about several sources",
    "study": "methods x seeds, trained and compared under one protocol",
    "quality": "distances between samples and real images",
    "validate": "the controls that the checkerboard meter must pass",
}


class LazyGroup(click.Group):
    """A click group that imports a command's module only when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table above."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command `cmd_name` of the module of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(f"analysis.commands.{cmd_name}").command

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup)
@click.version_option(package_name="dcgan-seams")
def main() -> None:
    """Measures what a generator's upsampling does to its pictures."""


if __name__ == "__main__":
    main()
