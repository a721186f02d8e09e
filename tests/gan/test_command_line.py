"""What all commands share: errors of one line, and options from the settings."""

import click
import pytest
from click.testing import CliRunner

import train
from config.loader import to_dict
from config.schema import Config, ConfigError, UserError
from gan.command_line import Command
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
