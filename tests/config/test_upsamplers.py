"""The registry of upsampling methods: one entry is enough, and the documents agree."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from config.upsamplers import UPSAMPLER_ALIASES, UPSAMPLERS

ROOT = Path(__file__).parents[2]
ENTRY = '"zero-order-hold": Upsampler("each pixel twice", "0", "", aliases=("hold",)),'
BUILDER = '''
def zero_order_hold(x, kinds, name, **options):
    """Repeats each pixel, then mixes the channels."""
    x = layers.UpSampling2D(2, name=f"{name}_hold", dtype=options["dtype"])(x)
    options |= {"kernel_size": 1, "name": f"{name}_mix"}
    return kinds.plain(**options)(x)
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the sources with one more method."""
    folder = tmp_path_factory.mktemp("project")
    ignored = shutil.ignore_patterns("assets", "__pycache__")
    for name in ("config", "gan", "analysis"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        if (ROOT / name / "assets").exists():
            (folder / name / "assets").symlink_to(ROOT / name / "assets")
    shutil.copy(ROOT / "train.py", folder)
    registry = folder / "config" / "upsamplers.py"
    start = "UPSAMPLERS = {\n"
    registry.write_text(registry.read_text().replace(start, f"{start}    {ENTRY}\n"))
    builders = folder / "gan" / "upsampling.py"
    builders.write_text(builders.read_text() + BUILDER)
    return folder


def output(project, *arguments):
    environment = os.environ | {"COLUMNS": "200", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


def test_a_method_of_one_entry_is_a_choice_of_the_flags(project):
    text = output(project, "train.py", "--help")
    assert text.count("zero-order-hold") == 2 and "hold|" in text.replace("]", "|")
    text = output(project, "train.py", "--upsample", "hold", "--dry-run")
    assert "zero-order-hold" in text
    text = output(project, "train.py", "--set", "model.upsample=holds", "--dry-run")
    assert "received 'holds', expected one of zero-order-hold, transpose" in text


def test_a_method_of_one_entry_is_built_and_audited(project):
    text = output(project, "-m", "analysis", "layers", "hold", "--json")
    layers = {layer["name"]: layer for layer in json.loads(text)["layers"]}
    for stage in (2, 3):
        assert layers[f"stage{stage}_upsample_hold"]["strides"] == [2, 2]
        assert layers[f"stage{stage}_upsample_mix"]["checked"]
    study = "from analysis.study.plan import Method; print(Method.parse('hold:4'))"
    assert "zero-order-hold" in output(project, "-c", study)


def test_aliases_mean_one_method_each():
    given = [alias for entry in UPSAMPLERS.values() for alias in entry.aliases]
    assert len(given) == len(set(given)) and not set(given) & set(UPSAMPLERS)
    assert UPSAMPLER_ALIASES == {"resize": "resize-nearest"}


def test_the_table_of_the_method_page_is_the_registry():
    page = (ROOT / "docs" / "method.md").read_text()
    table, _, _ = page[page.index("| name | operation | cost |") :].partition("\n\n")
    assert table.splitlines()[2:] == [
        f"| `{name}` | {entry.operation} | {entry.cost} | {entry.artifacts} |"
        for name, entry in UPSAMPLERS.items()
    ]
