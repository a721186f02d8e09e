"""What `python -m analysis spectra` is told by its user."""

import numpy as np
import pytest
from click.testing import CliRunner

from analysis.commands.spectra import command, parse_strides


def test_strides_are_read():
    assert parse_strides("2,2") == (2, 2)
    assert parse_strides("1,2") == (1, 2)


@pytest.mark.reported
@pytest.mark.parametrize("text", ["1", "1,1", "0", "-2", "2,", "two"])
def test_strides_that_enlarge_nothing_are_refused(text):
    with pytest.raises(ValueError, match="--strides: received"):
        parse_strides(text)


@pytest.mark.reported
@pytest.mark.parametrize("number", ["0", "-5"])
def test_a_number_of_images_below_one_is_refused(tmp_path, number):
    result = CliRunner().invoke(command, [str(tmp_path), "--n", number])
    assert result.exit_code == 2
    assert (
        f"Invalid value for '--n': {number} is not in the range x>=1" in result.output
    )


def test_a_range_begins_with_black(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((600, 8, 8), np.float32))
    options = ["--range", "1", "0"]
    result = CliRunner().invoke(command, [str(tmp_path / "x.npy"), *options])
    assert result.exit_code == 1 and "expected black first" in result.stderr
