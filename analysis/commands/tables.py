"""The console on which the commands print their tables."""

from rich.console import Console


def table_console(min_columns: int = 160) -> Console:
    """A console that is so wide in a file or pipe that tables keep every digit."""
    # In a notebook, `dcgan` shows what is printed here.
    console = Console(highlight=False, force_jupyter=False)
    if not console.is_terminal:
        console.width = max(console.width, min_columns)
    return console
