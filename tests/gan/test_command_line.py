"""What all commands share: errors of one line, and options from the settings."""

import os

import click
import pytest
from click.testing import CliRunner
from rich.console import Console
from rich.table import Table

import train
from config.loader import to_dict
from config.schema import Config, ConfigError, UserError
from gan.command_line import Command, print_table
from gan.launch import WorkerLostError


def command_that_raises(error, cls=Command):
    @click.command(cls=cls)
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("train.loss: wrong"), 1),
        (FileNotFoundError(2, "No such file", "x"), 1),
        (ValueError("an array of another shape"), 1),
        (WorkerLostError(), 75),
    ],
)
def test_an_error_of_the_user_is_one_line_and_an_exit_code(error, code):
    result = CliRunner().invoke(command_that_raises(error), [])
    assert (result.exit_code, result.output) == (code, f"Error: {error}\n")


def test_a_fault_of_the_program_is_not_hidden():
    for error, cls in (
        (RuntimeError("fault"), Command),
        (ValueError("fault"), train.TrainCommand),
    ):
        result = CliRunner().invoke(command_that_raises(error, cls), [])
        assert result.exception is error
    assert issubclass(UserError, train.TrainCommand.user_errors)


def test_every_flag_of_the_schema_is_an_option_with_its_help():
    options = {option.name: option for option in train.main.params}
    found = 0
    for section, table in to_dict(Config()).items():
        fields = getattr(Config(), section).__dataclass_fields__
        for name in table:
            rules = fields[name].metadata
            assert rules["help"].endswith("."), name
            if rules["flag"]:
                option = options[f"{section}__{name}"]
                assert option.opts[0] == rules["flag"].split()[0].split("/")[0]
                assert option.help.startswith(rules["help"]) and option.default is None
                assert option.group == rules["group"]
                found += 1
    assert found == 10


def test_the_help_has_one_section_for_each_group():
    output = CliRunner().invoke(train.main, ["--help"]).output
    headings = [line for line in output.splitlines() if line[:1].isalpha()][1:]
    assert headings == [
        "Experiment:",
        "Numerics and devices:",
        "Budget:",
        "Observation:",
        "Start:",
        "Output:",
        "Options:",
    ]


@pytest.mark.parametrize("columns", [20, 40, 60, 200])
def test_no_cell_of_a_table_is_cut_off_on_any_terminal(columns):
    """Whole columns are left out and named, in the order that is asked for."""
    table = Table("name", "size", "more", "most")
    cells = ["fashion_mnist-transpose-seed0", "14x14x128", "0.63", "-50 (-51 … -49)"]
    table.add_row(*cells)
    console = Console(
        width=columns, record=True, quiet=False, file=open(os.devnull, "w")
    )
    print_table(console, table, "most", "more")
    console.file.close()
    text = console.export_text()
    shown, _, left_out = text.partition("Left out, because")
    assert cells[0] in shown and cells[1] in shown
    gone = [name for name in ("most", "more") if name in " ".join(left_out.split())]
    assert gone == {20: ["most", "more"], 40: ["most", "more"], 60: ["most"]}.get(
        columns, []
    )
    for name, cell in (("more", "0.63"), ("most", "-50 (-51 … -49)")):
        assert (cell in shown) == (name not in gone)
