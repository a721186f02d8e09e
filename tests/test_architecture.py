"""Which module may import which, read from the sources."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"config", "gan", "analysis", "train", "tools", "tests", "benchmarks"}
CONFIG = ("config.schema", "config.loader", "config.upsamplers")
COMMANDS = {"gan.__main__", "analysis.__main__"}


def sources(package):
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in sorted((ROOT / package).rglob("*.py"))
    }


LIBRARY = {
    name: path
    for package in ("config", "gan", "analysis")
    for name, path in sources(package).items()
    if name not in COMMANDS and not name.startswith("analysis.commands.")
}


def imported(path):
    """Full names of all modules that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module}
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def tops(path):
    return {name.partition(".")[0] for name in imported(path)}


def test_the_reader_sees_every_form_of_import(tmp_path):
    path = tmp_path / "example.py"
    path.write_text("import a.b\ndef f():\n    from c import d\nimport e as g\n")
    assert imported(path) == {"a.b", "c", "c.d", "e"}
    assert {"gan.training", "config.schema", "analysis.geometry.arithmetic"} <= set(
        LIBRARY
    )


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("config", {"config"}),
        ("gan", {"config", "gan"}),
        ("analysis", {"config", "gan", "analysis"}),
    ],
)
def test_imports_point_one_way(package, allowed):
    for name, path in sources(package).items():
        assert tops(path) & OURS <= allowed, name


def test_settings_and_geometry_need_the_standard_library_alone():
    for name in (*CONFIG, "analysis.geometry.arithmetic"):
        foreign = tops(LIBRARY[name]) - sys.stdlib_module_names - {"config"}
        assert not foreign, name


def test_spectra_take_arrays_and_know_nothing_of_runs():
    """Nor does anything that they import."""
    waiting, seen = {"analysis.checkerboard.spectrum", "analysis.statistics"}, set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        foreign = tops(LIBRARY[name]) - sys.stdlib_module_names
        assert foreign <= {"numpy", "scipy", "analysis"}, name
        waiting |= (imported(LIBRARY[name]) & set(LIBRARY)) - seen


def test_the_library_never_speaks_to_the_terminal():
    for name, path in LIBRARY.items():
        assert "click" not in tops(path), name
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if is_print(n)]
        assert not calls, f"{name}, line {calls[0].lineno}: print"


def is_print(node):
    called = node.func if isinstance(node, ast.Call) else None
    return isinstance(called, ast.Name) and called.id == "print"


def test_a_call_of_print_would_be_seen():
    tree = ast.parse("console.print(1)\nif x:\n    print(2)")
    assert [n.lineno for n in ast.walk(tree) if is_print(n)] == [3]


def test_no_command_loads_a_model_file_as_a_program():
    """`load_model` executes what a file holds; models are built, weights loaded."""
    for package in ("config", "gan", "analysis"):
        for name, path in sources(package).items():
            attributes = {
                getattr(n, "attr", getattr(n, "id", ""))
                for n in ast.walk(ast.parse(path.read_text()))
            }
            assert "load_model" not in attributes, name
            assert not attributes & {"pickle", "eval", "exec"}, name
