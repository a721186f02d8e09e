"""Which file may import which, read from the sources with `ast`."""

import ast
import graphlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"config", "gan", "analysis", "train", "dcgan", "tools", "tests", "benchmarks"}
COMMANDS = {"train", "gan.__main__", "gan.command_line", "analysis.__main__"}
# They stand above the commands of the analysis.
TOP = {"dcgan", "analysis.__main__"}
# What each chapter of the analysis may import of the others.
CHAPTERS = {
    "geometry": set(),
    "checkerboard": {"geometry"},
    "quality": set(),
    "report": {"geometry", "checkerboard", "quality"},
    "study": {"geometry", "checkerboard", "quality"},
    "commands": {"geometry", "checkerboard", "quality", "report", "study"},
}


def sources(*places):
    """Paths of the files below some folders, or of single files, by module name."""
    found = {}
    for place in places:
        root = ROOT / place
        for path in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = sources("config", "gan", "analysis", "train.py", "dcgan.py")
LIBRARY = {
    name: path
    for name, path in MODULES.items()
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


def import_graph(modules):
    """The modules that each of some modules imports, as sets of names by name."""
    return {name: imported(path) & set(modules) for name, path in modules.items()}


GRAPH = import_graph(MODULES)


def circle(graph):
    """Modules that import one another in a circle, the first one repeated, or []."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def reached(name):
    """A module and all that it imports, directly or through others."""
    waiting, found = {name}, set()
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= GRAPH[name] - found
    return found


def foreign(name):
    """Top-level packages outside the standard library that a module imports."""
    tops = {module.partition(".")[0] for module in imported(MODULES[name])}
    return tops - sys.stdlib_module_names


def chapter(name):
    """The chapter of the analysis to which a module belongs, or ""."""
    package, _, rest = name.partition(".")
    part = rest.partition(".")[0]
    return part if package == "analysis" and part in CHAPTERS else ""


def test_every_form_of_import_is_read(tmp_path):
    path = tmp_path / "example.py"
    path.write_text("import a.b\ndef f():\n    from c import d\nimport e as g\n")
    assert imported(path) == {"a.b", "c", "c.d", "e"}
    assert {"gan.training", "config.schema", "gan.data", "train"} <= set(MODULES)
    assert "gan.data.source" in GRAPH["gan.data.tfds"]


def test_no_files_import_one_another_in_a_circle():
    assert circle(GRAPH) == []


def test_a_circle_is_found_even_if_an_import_is_inside_a_function(tmp_path):
    texts = {
        "a": "import b",
        "b": "def f():\n    from c import g",
        "c": "import a",
        "d": "import a",
    }
    modules = {name: tmp_path / f"{name}.py" for name in texts}
    for name, text in texts.items():
        modules[name].write_text(text)
    assert set(circle(import_graph(modules))) == {"a", "b", "c"}
    modules["c"].write_text("import os")
    assert circle(import_graph(modules)) == []


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("config", {"config"}),
        ("gan", {"config", "gan"}),
        ("analysis", {"config", "gan", "analysis"}),
        ("train.py", {"config", "gan", "analysis"}),
        ("dcgan.py", {"config", "gan", "analysis"}),
    ],
)
def test_packages_import_in_one_direction(package, allowed):
    for name in sources(package):
        assert foreign(name) & OURS <= allowed, name


def wrong_direction(user, used):
    """Whether an import goes against the order of the chapters."""
    if used in COMMANDS | {"dcgan"}:
        return user not in COMMANDS and chapter(user) != "commands"
    if chapter(used) == "commands":
        return user not in TOP and chapter(user) != "commands"
    own = chapter(user)
    return bool(own and chapter(used)) and chapter(used) not in {own, *CHAPTERS[own]}


def test_chapters_import_in_one_direction():
    wrong = {
        (a, b) for a, found in GRAPH.items() for b in found if wrong_direction(a, b)
    }
    assert not wrong


def test_what_chapters_share_imports_no_chapter():
    """`analysis/*.py` serves the chapters, but for the observers, which use them."""
    users = {"analysis.observers", "analysis.__main__"}
    for name in set(GRAPH) - users:
        if name.startswith("analysis.") and not chapter(name):
            assert not any(map(chapter, reached(name))), name


@pytest.mark.parametrize(
    ("user", "used", "wrong"),
    [
        ("analysis.geometry.audit", "analysis.checkerboard.meter", True),
        ("analysis.quality.metrics", "analysis.checkerboard.meter", True),
        ("analysis.report.page", "analysis.study.plan", True),
        ("analysis.study.run", "analysis.commands.layers", True),
        ("gan.training", "gan.__main__", True),
        ("analysis.observers", "dcgan", True),
        ("analysis.study.run", "analysis.checkerboard.meter", False),
        ("analysis.study.run", "analysis.study.plan", False),
        ("analysis.study.run", "analysis.samples", False),
        ("analysis.commands.quality", "analysis.commands.tables", False),
    ],
)
def test_a_wrong_direction_is_found(user, used, wrong):
    assert wrong_direction(user, used) == wrong


@pytest.mark.parametrize(
    "name",
    [
        "config.schema",
        "config.loader",
        "analysis.geometry.arithmetic",
        "analysis.geometry.resizing",
    ],
)
def test_settings_and_geometry_need_the_standard_library_alone(name):
    for module in reached(name):
        assert foreign(module) <= {"config", "analysis"}, module


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("analysis.checkerboard.moments", {"analysis"}),
        ("analysis.checkerboard.meter", {"analysis"}),
        ("analysis.statistics", {"analysis"}),
        ("analysis.quality.metrics", {"analysis", "gan", "PIL"}),
    ],
)
def test_meter_and_metrics_take_arrays_and_know_nothing_of_runs(name, packages):
    """The same holds for everything that they import."""
    for module in reached(name):
        assert foreign(module) <= {"numpy", "scipy"} | packages, module
        runs = module == "analysis.samples" or module.startswith(("config", "gan"))
        assert not runs or module in {"gan.data", "gan.data.images"}, module


def test_the_library_never_imports_click_and_never_prints():
    for name, path in LIBRARY.items():
        assert "click" not in foreign(name), name
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if is_print(n)]
        assert not calls, f"{name}, line {calls[0].lineno}: print"


def is_print(node):
    called = node.func if isinstance(node, ast.Call) else None
    return isinstance(called, ast.Name) and called.id == "print"


def test_a_call_of_print_is_found():
    tree = ast.parse("console.print(1)\nif x:\n    print(2)")
    assert [n.lineno for n in ast.walk(tree) if is_print(n)] == [3]


def test_no_command_loads_a_model_file_as_a_program():
    """`load_model` executes what a file holds; models are built, weights loaded."""
    for name, path in sources("config", "gan", "analysis").items():
        attributes = {
            getattr(n, "attr", getattr(n, "id", ""))
            for n in ast.walk(ast.parse(path.read_text()))
        }
        assert "load_model" not in attributes, name
        assert not attributes & {"pickle", "eval", "exec"}, name
