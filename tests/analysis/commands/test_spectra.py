"""`spectra` answers wrong options with what it received and what it expects."""

import numpy as np
import pytest
from click.testing import CliRunner

from analysis.__main__ import main
from gan.data.dataset import BUNDLED_FILE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strides", "1"], "received '1', expected numbers like 2,2, one above 1"),
        (["--strides", "1,1"], "received '1,1'"),
        (["--strides", "2,x"], "received '2,x'"),
        (["--strides", "0"], "received '0'"),
        (["--n", "-5"], "-5 is not in the range x>=1"),
        (["--n", "0"], "0 is not in the range x>=1"),
        (["--range", "1", "0"], "expected black first"),
    ],
)
def test_wrong_options_are_named(tmp_path, arguments, message):
    with np.load(BUNDLED_FILE, allow_pickle=False) as arrays:
        images = arrays["test_images"][:600] / np.float32(255)
    np.save(tmp_path / "x.npy", images)
    options = [] if "--range" in arguments else ["--range", "0", "1"]
    source = str(tmp_path / "x.npy")
    result = CliRunner().invoke(main, ["spectra", source, *options, *arguments])
    assert result.exit_code and message in result.stderr
