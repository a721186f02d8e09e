"""The console on which the commands print their tables."""

from rich.console import Console


def table_console(min_columns: int = 160) -> Console:
    """Returns a console whose tables keep every digit in a file or pipe.

    Args:
        min_columns: least width when the output is no terminal, in characters.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, min_columns))
    return console
