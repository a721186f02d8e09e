"""The console on which the commands print their tables."""

import sys

from rich.console import Console


def table_console(min_columns: int = 160) -> Console:
    """A console that is so wide in a file or pipe that tables keep every digit."""
    # A notebook, which calls itself a terminal with colors, gets plain text by `dcgan`.
    console = Console(
        highlight=False, force_jupyter=False, force_terminal=sys.stdout.isatty()
    )
    if not console.is_terminal:
        console.width = max(console.width, min_columns)
    return console
