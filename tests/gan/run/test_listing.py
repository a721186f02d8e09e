"""`python -m gan list` and `remove`: what they say, and what they leave alone."""

import json
import os
import shutil

import pytest
from click.testing import CliRunner

from gan.__main__ import main
from gan.run.folder import RunFolder
from gan.run.listing import closing_lines
from gan.run.manifest import checksum, verify
from tests.gan.run.test_checkpoint import flip


def call(*args, **options):
    result = CliRunner().invoke(main, [*map(str, args)], **options)
    assert not result.exception or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def listed(directory):
    """The rows of --json by name."""
    code, output = call("list", directory, "--json")
    assert code == 0
    return {row["name"]: row for row in json.loads(output)}


def content(directory):
    return {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def keep_best(run, **facts):
    """Makes a best checkpoint of the newest state, with a score."""
    path = shutil.copytree(run / "state/step-00000012", run / "best/step-00000012")
    manifest = verify(path) | {"facts": facts}
    text = json.dumps(manifest | {"sha256": checksum(manifest)})
    (path / "manifest.json").write_text(text)


def test_a_row_says_how_far_and_how_good_a_run_is(run):
    keep_best(run, score="fcd1k/fmnist-v1-validation", value=1.25)
    with (run / "log.jsonl").open("a") as log:
        for text in ("D-wins: the discriminator is always right", "ok", "D-wins: x"):
            log.write(json.dumps({"step": 12, "alarm": text}) + "\n")
    before = content(run)
    row = listed(run.parent)["run"]
    sizes = [len(data) for data in content(run).values()]
    assert content(run) == before and row["num_bytes"] == sum(sizes)
    assert (row["state"], row["step"], row["num_steps"]) == ("finished", 12, 12)
    assert (row["score"][:3], row["value"]) == ("fcd", 1.25)
    assert row["alarms"] == ["D-wins"] and row["parent"] == row["problem"] == ""
    _, output = call("list", run.parent)
    assert "finished" in output and "12/12" in output and "FCD 1.25" in output
    assert max(map(len, output.splitlines())) <= 80
    assert list(listed(run)) == ["run"]  # the folder itself


def test_running_stopped_and_damaged_runs_are_told_apart(run, tmp_path):
    name = "a-name-that-is-longer-than-a-line-of-a-terminal-which-has-only-80-columns"
    stopped = shutil.copytree(run, tmp_path / "study" / name)  # one folder deeper
    shutil.rmtree(stopped / "state" / "step-00000012")
    broken = {key: shutil.copytree(run, tmp_path / key) for key in "abc"}
    (broken["a"] / "config.json").write_text("{")
    flip(broken["b"] / "state" / "step-00000012" / "ckpt.index")
    for path in (broken["c"] / "state").iterdir():
        path.rename(path.with_name(f"corrupt-{path.name}"))
    (tmp_path / "link").symlink_to(run)
    (tmp_path / "samples").mkdir()  # a folder that is no run
    with RunFolder(run):
        rows = listed(tmp_path)
    states = {key: row["state"] for key, row in rows.items()}
    damaged = dict.fromkeys("abc", "damaged")
    assert states == {"run": "running", f"study/{name}": "stopped"} | damaged
    assert rows[f"study/{name}"]["step"] == 10
    assert "config.json is damaged" in rows["a"]["problem"]
    assert "step-00000012: ckpt.index differs" in rows["b"]["problem"]
    assert rows["c"]["problem"] == "no valid checkpoint is left"
    _, output = call("list", tmp_path)
    table, _, problems = output.partition("\na: ")
    assert name in table and "config.json" in problems  # it can be copied


def test_a_hostile_folder_stops_nothing(run):
    for name in (".lock", "log.jsonl"):
        (run / name).unlink()
        os.mkfifo(run / name)  # which has no end
    (run / "best" / "step-00000012").mkdir(parents=True)
    row = listed(run.parent)["run"]
    assert (row["state"], row["alarms"], row["value"]) == ("finished", [], None)
    os.unlink(run / "log.jsonl")
    (run / "log.jsonl").write_bytes(b"\xff\n[]\n" + b"[" * 100_000 + b'\n{"step": 3}')
    assert listed(run.parent)["run"]["step"] == 12


def test_a_run_is_removed_after_a_question(run, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("precious")
    (run / "state" / "step-00000012" / "link").symlink_to(tmp_path / "other")
    before = content(tmp_path)
    code, output = call("remove", run, input="n\n")
    assert code == 0 and content(tmp_path) == before
    assert output.endswith("nothing was removed\n")
    assert "run, finished at step 12, " in output and " MB? [y/N]" in output
    code, output = call("remove", run, input="y\n")
    assert code == 0 and "removed " in output and not run.exists()
    assert (tmp_path / "other" / "file").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_damaged_run_can_be_removed(run):
    (run / "corrupt-abc-generator.keras").write_text("x")
    (run / "config.json").unlink()
    assert call("remove", "--yes", run)[0] == 0 and not run.exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "thesis.tex").write_text("precious"), "thesis.tex was not"),
        (lambda run: (run / "report").mkdir(), "report was not written by a run"),
        (lambda run: shutil.rmtree(run / "state") or shutil.rmtree(run / "samples"),
         "is not a run folder; nothing was removed"),
        (lambda run: (run / "best").symlink_to(run.parent), "best is a link"),
        (lambda run: run.rename(run.parent / "r") and run.symlink_to(run.parent / "r"),
         "run is a link; give the folder to which it leads"),
    ],
)  # fmt: skip
def test_nothing_else_is_removed(run, spoil, message):
    spoil(run)
    before = content(run.parent)
    code, output = call("remove", "--yes", run)
    assert code == 1 and message in output and len(output.splitlines()) == 1
    assert set(content(run.parent)) - {run / ".lock"} == set(before) - {run / ".lock"}


def test_a_run_in_use_is_not_removed(run):
    with RunFolder(run):
        code, output = call("remove", "--yes", run)
    assert code == 1 and "is in use; stop that process first" in output
    assert (run / "state" / "step-00000012").exists()


def test_a_run_ends_with_its_best_step_and_its_alarms(run):
    grid = f"newest samples: {run / 'samples' / 'step-00000012.png'}"
    assert closing_lines(run) == [grid]
    keep_best(run, score="fcd1k/x-validation", value=1.25)
    with (run / "log.jsonl").open("a") as log:
        for values in (
            {"fcd1k/x-validation": 1.25, "fcd1k/x-validation-floor": 0.75},
            {"fcd1k/x-validation": 2.5, "alarm": "D-wins: x"},
        ):
            log.write(json.dumps({"step": 12} | values) + "\n")
    best, alarm, last = closing_lines(run)
    assert best == "best: fcd1k 1.25 at step 12 (last 2.5, real images 0.75)"
    assert alarm.startswith("warning: alarms in this run: D-wins;") and last == grid
