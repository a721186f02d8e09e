"""The notebook docs/tour.ipynb: what is stored in it, and that it runs."""

import os
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "tour.ipynb"
PARAMETERS = """
SETTINGS = {
    "train.num_steps": 6,
    "model.generator_widths": [8, 8, 4],
    "model.discriminator_widths": [4, 8],
    "run.log_every_steps": 2,
}
NUM_IMAGES = 500
RUNS_DIR = %r
"""


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """What a cell shows: its streams, and the richest form of its results.

    Keras shows an empty text for each summary of a network.
    """
    found = set()
    for output in cell.outputs:
        assert output.output_type != "error", output.evalue
        forms = output.get("data", {})
        richest = [form for form in ("image/png", "text/html", *forms) if form in forms]
        if output.output_type == "stream":
            found.add(output.name)
        elif forms["text/plain"]:
            found.add(richest[0])
    return found


def test_the_stored_outputs_are_of_one_whole_run():
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1))
    assert NOTEBOOK.stat().st_size < 1_000_000
    shown = [kind for cell in cells for kind in kinds(cell)]
    assert shown.count("image/png") == 5 and shown.count("text/html") == 5
    assert "stderr" not in shown


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tour_runs_from_the_first_cell_to_the_last(tmp_path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, 4)
    stored = [kinds(cell) for cell in code_cells(notebook)]
    (parameters,) = [
        cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])
    ]
    parameters.source = PARAMETERS % str(tmp_path)
    for cell in code_cells(notebook):
        cell.outputs = []
    resources = {"metadata": {"path": str(ROOT)}}
    NotebookClient(notebook, timeout=300, resources=resources).execute()
    assert [kinds(cell) for cell in code_cells(notebook)] == stored
    assert sorted(os.listdir(tmp_path)) == ["ipython", "tour-resize", "tour-transpose"]
