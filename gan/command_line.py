"""What commands share: errors of one line, and options in groups and from settings."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_type_hints

import click

from config.schema import Config

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


class Command(click.Command):
    """A command that ends with one line and an exit code where the user can act.

    All exceptions but `user_errors` are faults of the program and show a traceback.
    """

    user_errors: tuple[type[Exception], ...] = (ValueError, OSError)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command, and ends with one line after an error of the user."""
        try:
            return super().invoke(ctx)
        except self.user_errors as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(getattr(error, "exit_code", 1))

    def format_options(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Lists the options under the headings of their groups."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if record and isinstance(option, click.Option):
                name = getattr(option, "group", "Options")
                groups.setdefault(name, []).append(record)
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write_dl(records)


class RunPath(click.Path):
    """A path, or the name of a run in `checkpoints/`, which stands for its folder."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """The path that `run_path` finds."""
        from gan.run.folder import run_path  # needs NumPy, and --help does not

        return super().convert(str(run_path(value)), param, ctx)


def print_table(console: "Console", table: "Table", *optional: str) -> None:
    """Prints a table without cutting a cell off.

    On a terminal that is too narrow, columns are left out, the first heading of
    `optional` first, and named. A table that is still too wide is wrapped by the
    terminal.
    """
    from rich.measure import Measurement

    def width() -> int:
        unlimited = console.options.update(width=10_000)
        return Measurement.get(console, unlimited, table).maximum

    left_out = []
    for heading in optional:
        if width() <= console.width:
            break
        kept = [column for column in table.columns if column.header != heading]
        if len(kept) < len(table.columns):
            left_out.append(" ".join(heading.split()))
        table.columns = [
            dataclasses.replace(column, _index=n) for n, column in enumerate(kept)
        ]
    columns = console.width
    console.width = max(width(), columns)
    console.print(table)
    console.width = columns
    if left_out:
        names = ", ".join(left_out)
        console.print(f"Left out, because the terminal has {columns} columns: {names}.")


class Option(click.Option):
    """An option under the heading `group` of the help."""

    def __init__(self, *args: Any, group: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self.group = group


def option(group: str, *names: str, **options: Any) -> Callable[..., Any]:
    """A decorator that adds an option under the heading `group`."""
    return click.option(*names, cls=Option, group=group, **options)


def setting_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that adds an option for each setting that has a flag.

    The parameter of `train.batch_size` is `train__batch_size`, None if it is not given.
    """
    settings = [
        (f"{section}__{item.name}", item, get_type_hints(section_type)[item.name])
        for section, section_type in get_type_hints(Config).items()
        for item in dataclasses.fields(section_type)
        if item.metadata["flag"]
    ]
    for name, item, kind in reversed(settings):  # decorators apply from bottom to top
        rules = item.metadata
        flag, _, metavar = rules["flag"].partition(" ")
        default = f" [default: {item.default}]" if item.default else ""
        if rules["choices"]:
            kind = click.Choice([*filter(None, rules["choices"]), *rules["aliases"]])
        function = option(
            rules["group"],
            flag,
            name,
            type=kind,
            default=None,
            metavar=metavar or None,
            help=rules["help"] + default,
        )(function)
    return function


def start_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that adds the options with which a run starts from another one."""
    texts = {
        "--resume RUN": "Continue a run, which is a folder or a name in --runs-dir, "
        "with its own settings; only the budget and what is logged and kept may be "
        "given.",
        "--fork RUN[@STEP|@best]": "Start the run --run NAME from the state of RUN, "
        "with the settings of RUN where no others are given.",
        "--init-from RUN[@STEP|@best]": "The same from the weights of RUN's networks "
        "alone, at step 0.",
    }
    for text, help in reversed(texts.items()):
        flag, metavar = text.split()
        function = option("Start", flag, metavar=metavar, help=help)(function)
    return function
