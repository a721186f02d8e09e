"""A study is planned, run, continued, compared and written to a page."""

import csv
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from analysis.__main__ import main
from analysis.statistics import detectable_difference, provable_margin
from analysis.study import run as study_run
from analysis.study.page import (
    compare_methods,
    describe_power,
    gain_cell,
    make_page,
    mean_text,
    quality_is_kept,
    write_page,
)
from analysis.study.plan import (
    RESULTS_FOLDER,
    Method,
    RunResult,
    StudyError,
    generator_cost,
    has_result,
    load_plan,
    load_results,
    make_plan,
    match_widths,
)
from analysis.study.run import (
    CHECKERBOARD_KEYS,
    QUALITY_KEYS,
    JobResources,
    divide_machine,
    run_missing,
    train_and_measure,
)
from config.loader import load_config
from gan.models import build_generator
from gan.run.folder import RunFolder

ROOT = Path(__file__).parents[3]
SMALL = [
    "data.limit=1200",
    "model.generator_widths=[16, 8, 8]",
    "model.discriminator_widths=[4, 8]",
    "model.latent_dim=8",
    "train.batch_size=16",
    "train.num_steps=40",
]
METHODS = ("transpose:5", "resize-nearest:3", "transpose-balanced")


def planned(methods=METHODS, num_seeds=2, match="macs", sets=()):
    return make_plan("study", [*SMALL, *sets], methods, num_seeds, None, match, 500)


@pytest.fixture(scope="module")
def plan():
    return planned()


@pytest.fixture(scope="module")
def result(plan, tmp_path_factory):
    """The result of the only run that this file really trains and measures."""
    folder = tmp_path_factory.mktemp("study")
    train_and_measure(plan.runs[0], folder, folder / "runs", plan.num_images)
    plan.save(folder)
    return load_results(folder, plan)[0]


def made_up(plan, values, endpoint="floored_gain_db"):
    """Returns results with given values of one end point: one per label and seed."""
    return [
        RunResult(
            run="",
            method=label,
            seed=seed,
            trained=dict.fromkeys((*CHECKERBOARD_KEYS, *QUALITY_KEYS), 0.0)
            | {endpoint: value},
            course=[],
            readings={},
            floors_db={"floored_gain_db": -67.0, "floored_gain_before_db": -57.0},
            seconds_per_step=0.1,
            measurement=None,
        )
        for label, row in values.items()
        for seed, value in enumerate(row)
    ]


def test_methods_are_read_and_named():
    method = Method.parse("transpose/resize:4")
    assert method == Method("transpose", "resize-nearest", 4)
    assert method.label == "transpose/resize-nearest k4"
    assert method.file_name == "transpose-last_resize-nearest-k4"
    assert Method.parse("subpixel").label == "subpixel k5"
    for bad in ("pixels", "transpose/pixels", "transpose:x", "", "transpose:-3"):
        with pytest.raises(StudyError, match="--methods: received"):
            Method.parse(bad)


@pytest.mark.parametrize("match", ["macs", "params"])
def test_widths_make_the_costs_equal_up_to_one_channel(match):
    methods = (*METHODS, "transpose:4", "subpixel-icnr:3", "resize-bilinear:5")
    plan = planned(methods, match=match, sets=["model.generator_widths=[32,32,64]"])
    goal = plan.costs["transpose k5"][match]
    for run in plan.runs[: len(methods)]:
        model = run.config.model
        cost = plan.costs[run.method][match]
        wider = dataclasses.replace(
            model, generator_widths=(32, 32, model.generator_widths[2] + 1)
        )
        one_channel = generator_cost(wider, (28, 1))[match] - cost
        assert abs(cost - goal) <= one_channel / 2 + 1
    # Nothing is matched unless asked for: 4 x 9 products against 25.
    free = planned(("transpose:5", "resize-nearest:3"), match="none")
    assert free.widths["resize-nearest k3"] == free.widths["transpose k5"]
    ratio = free.costs["resize-nearest k3"]["macs"] / free.costs["transpose k5"]["macs"]
    assert ratio > 1.05


def test_three_doublings_are_matched_by_all_widths_between_them():
    """Nine products take the place of 25 at a quarter of the pixels each: 36 to 25."""
    base = load_config("study", sets=[*SMALL, "model.generator_widths=[16,16,32,32]"])
    shape = 32, 1
    widths, goal = match_widths(base, Method.parse("transpose:5"), shape, "macs", None)
    assert widths == (16, 16, 32, 32)
    resize = Method.parse("resize-nearest:3")
    found, cost = match_widths(base, resize, shape, "macs", goal)
    assert found[:2] == (16, 16) and 20 <= found[2] < 32 and 20 <= found[3] < 32
    assert abs(cost["macs"] / goal["macs"] - 1) < 0.02


def test_one_doubling_has_no_width_to_match():
    base = load_config("study", sets=[*SMALL, "model.generator_widths=[16,16]"])
    with pytest.raises(StudyError, match="one doubling, expected two or more"):
        match_widths(base, Method.parse("resize:3"), (8, 1), "macs", {"macs": 9})


def test_cost_of_one_generator_by_hand():
    """Dense, stride 1, and two transposed convolutions: inputs x taps x channels."""
    method = Method("transpose", "", 5)
    model = planned(["transpose:5"]).run(method, 0).config.model
    macs = 8 * 7 * 7 * 16 + 25 * (49 * 16 * 8 + 49 * 8 * 8 + 14 * 14 * 8)
    assert generator_cost(model, (28, 1))["macs"] == macs


def test_runs_of_one_seed_have_the_same_budget_and_first_layers(plan):
    first, second, third, other = plan.runs[:4]
    assert [run.config.run.seed for run in plan.runs] == [0, 0, 0, 1, 1, 1]
    assert len({run.config.train for run in plan.runs}) == 1
    weights = [
        {
            v.path: v.value.numpy()
            for v in build_generator(run.config.model, seed=run.config.run.seed).weights
        }
        for run in (first, second, third, other)
    ]
    for path in ("base_dense/kernel", "stage1_conv/kernel"):
        assert (weights[0][path] == weights[1][path]).all()
        assert (weights[0][path] == weights[2][path]).all()
        assert not (weights[0][path] == weights[3][path]).all()


def test_a_plan_may_grow_but_not_change(plan, tmp_path):
    plan.save(tmp_path)
    assert load_plan(tmp_path) == plan
    grown = planned((*METHODS, "transpose:4"), num_seeds=3)
    grown.save(tmp_path)
    with pytest.raises(StudyError, match="plans transpose-k4-seed0, which this call"):
        plan.save(tmp_path)
    often = planned((*METHODS, "transpose:4"), 3, sets=["run.log_every_steps=7"])
    often.save(tmp_path)  # it changes no bit of a run
    with pytest.raises(StudyError, match=r"settings \(train.num_steps: 40 -> 41\)"):
        planned((*METHODS, "transpose:4"), 3, sets=["train.num_steps=41"]).save(
            tmp_path
        )
    with pytest.raises(StudyError, match="--match macs, --n 500; choose another --out"):
        planned((*METHODS, "transpose:4"), 3, match="params").save(tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(StudyError, match="plan.json is damaged"):
        load_plan(tmp_path)
    with pytest.raises(StudyError, match="holds no study"):
        load_plan(tmp_path / "nowhere")


def test_a_real_run_is_measured_before_during_and_after_training(plan, result):
    assert (result.method, result.seed) == ("transpose k5", 0)
    assert set(result.untrained) == {*CHECKERBOARD_KEYS, "step"}
    assert set(result.trained) == {*CHECKERBOARD_KEYS, *QUALITY_KEYS}
    assert [row["step"] for row in result.course] == [0, 10, 30, 40]
    assert list(result.readings) == ["0", "10", "30", "40"]
    assert {len(readings) for readings in result.readings.values()} == {9}
    last = {name: result.course[-1][name] for name in CHECKERBOARD_KEYS}
    assert last == {name: result.trained[name] for name in CHECKERBOARD_KEYS}
    # Independent weights: 0.75 on average; 64 channel pairs are close to it.
    assert result.untrained["eta_prev"] == pytest.approx(0.75, abs=0.1)
    assert result.measurement.facts["num_images"]["samples"] == 500
    assert len(result.measurement.arrays["examples"]) == 256


def test_end_points_are_those_readings_and_the_floor_is_below_a_real_pattern(result):
    """An untrained transposed convolution leaves a strong checkerboard."""
    for row in result.course:
        by_place = {
            (r["row"], r["column"]): r for r in result.readings[str(row["step"])]
        }
        corner = by_place[0.5, 0.5]
        floor = result.floors_db["floored_gain_db"]
        assert row["floored_gain_db"] == max(corner["imaging_gain_db"], floor)
        assert row["fixed_pattern_levels"] == corner["fixed_pattern_levels"]["value"]
        off_axes = [(0.25, 0.25), (0.25, 0.5), (0.25, -0.25), (0.5, 0.25)]
        before = max(by_place[place]["imaging_gain_db"] for place in off_axes)
        floor = result.floors_db["floored_gain_before_db"]
        assert row["floored_gain_before_db"] == max(before, floor)
    assert (
        result.untrained["floored_gain_db"] > result.floors_db["floored_gain_db"] + 20
    )
    assert result.readings["40"] == result.measurement.as_dict()["alphas"]


def test_a_result_is_saved_and_loaded_and_damage_is_named(plan, result, tmp_path):
    result.save(tmp_path / RESULTS_FOLDER)
    [again] = load_results(tmp_path, plan)
    assert again.trained == result.trained and again.course == result.course
    assert again.readings == result.readings and again.floors_db == result.floors_db
    (tmp_path / RESULTS_FOLDER / f"{result.run}.npz").write_bytes(b"PK")
    with pytest.raises(StudyError, match="remove it, and the study makes it again"):
        load_results(tmp_path, plan)


def test_comparisons_are_not_paired_and_are_corrected(plan):
    """By hand, n = 3: equal variances of 1 and of 4, so four degrees of freedom.

    For the difference of 9 the standard error is sqrt(2 / 3). Holm takes the smallest
    p-value four times.
    """
    plan = dataclasses.replace(plan, num_seeds=3)
    reference = np.array([-1.0, 0, 1])
    values = {
        "transpose k5": reference,
        "resize-nearest k3": reference[::-1] - 9,  # the order of the seeds is no matter
        "transpose-balanced k5": 2 * reference + 1,
    }
    found = {
        (row.method, row.endpoint): row
        for row in compare_methods(plan, made_up(plan, values))
    }
    row = found["resize-nearest k3", "floored_gain_db"]
    assert row.difference.value == pytest.approx(-9)
    half = 2.776445 * np.sqrt(2 / 3)
    assert row.difference.low == pytest.approx(-9 - half, rel=1e-6)
    assert row.adjusted == pytest.approx(4 * row.p_value) and row.significant
    control = found["transpose-balanced k5", "floored_gain_db"]
    assert not control.significant and control.difference.low < 0
    # Fewer runs where one is missing; no comparison where one is left.
    some = [
        r for r in made_up(plan, values) if (r.method, r.seed) != ("transpose k5", 2)
    ]
    assert {row.num_runs for row in compare_methods(plan, some)} == {(3, 2)}
    assert compare_methods(plan, [r for r in some if r.seed == 0]) == []


def test_the_plan_says_what_its_seeds_can_show(plan):
    """By hand: spreads of 1 and of a tenth, two end points and two comparisons each."""
    plan = dataclasses.replace(plan, num_seeds=8)
    values = {"transpose k5": [-1, 0, 1], "resize-nearest k3": [5, 5, 5]}
    results = made_up(plan, values)
    for result in results:
        result.trained["fcd"] = 20 + 2 * (result.seed - 1)
    text = describe_power(plan, results)
    found, margin = detectable_difference(1, 8, 4), provable_margin(0.1, 8)
    assert f"imaging gain, dB: {found:.2g} (spread 1); fixed pattern" in text
    assert text.endswith(f"differ by less than {margin:.0%} (spread 10%).")
    assert describe_power(plan, results[:1]) == ""


def test_quality_is_kept_where_two_tests_show_it():
    """The margin is a tenth of 20."""
    first = np.array([19.0, 20, 21, 20, 20])
    assert quality_is_kept(first + 0.5, first) == "yes"
    assert quality_is_kept(first - 9, first) == "no, lower"
    assert quality_is_kept(first + 9, first) == "no, higher"
    assert quality_is_kept(first + 1.9, first) == "not shown"
    assert quality_is_kept(first[:2], first[2:]) == "not shown"


def test_methods_that_differ_by_noise_alone_seldom_show_a_difference(plan):
    """With Holm about 5 % of studies have a false finding; these are 200 studies."""
    plan = dataclasses.replace(plan, num_seeds=5)
    random = np.random.default_rng(0)
    labels = [method.label for method in plan.methods]
    false = 0
    for _ in range(200):
        values = {label: random.standard_normal(5) for label in labels}
        results = made_up(plan, values)
        for r in results:
            r.trained["fixed_pattern_levels"] = random.standard_normal()
        false += any(row.significant for row in compare_methods(plan, results))
    assert 0 < false <= 20


def test_the_page_says_what_was_found_and_what_was_not(plan, result, tmp_path):
    shifts = {"transpose k5": 0, "resize-nearest k3": -3, "transpose-balanced k5": 0}
    random = np.random.default_rng(0)
    results = []
    for label, shift in shifts.items():
        for seed in range(2):
            gain = -30 + shift + 1e-4 * random.standard_normal()
            trained = result.trained | {"floored_gain_db": gain}
            name = f"{label}-{seed}"
            changed = {"run": name, "method": label, "seed": seed, "trained": trained}
            results.append(dataclasses.replace(result, **changed))
    page = write_page(tmp_path, plan, results, "python -m analysis study").read_text()
    assert "6 of 6 runs: 3 methods, 2 seeds, 40 steps of 16 images (640 in all)" in page
    gains, fixed = page.splitlines()[2:4]
    start = "- Imaging gain at (1/2, 1/2) after training: `transpose k5` -30.0 ("
    assert gains.startswith(start) and "Lower: `resize-nearest k3` -33.0 (" in gains
    assert "No difference shown: `transpose-balanced k5` -30.0 (" in gains
    start = "- Fixed pattern at (1/2, 1/2) after training: `transpose k5` "
    assert fixed.startswith(start) and "No difference shown: `resize-nea" in fixed
    assert "visible in the samples of `transpose k5` (2 of 2 runs), `resize" in page
    assert "- FCD within 10% of that of `transpose k5`: shown for `resize-near" in page
    assert "| resize-nearest k3 | imaging gain, dB | -3.00 (" in page
    assert "| 16, 8, 8 |" in page
    for name in ("headline", "before-after", "course", "price"):
        assert f"(figures/{name}.png)" in page
        assert (tmp_path / "figures" / f"{name}.png").read_bytes()[1:4] == b"PNG"
    with (tmp_path / "runs.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["step"] for row in rows] == ["0", "10", "30", "40"] * 6
    ends = [row for row in rows if row["fcd"]]
    assert [float(row["floored_gain_db"]) for row in ends] == [
        result.trained["floored_gain_db"] for result in results
    ]
    assert {row["step"] for row in ends} == {"40"}
    alone = make_page(plan, results[:1], "x")
    assert "Two runs of each method are needed to comp" in alone and "nan" not in alone
    assert "`transpose k5`, to which the other methods are" in make_page(
        plan, results[2:], "x"
    )


def test_gains_at_the_floor_are_limits_and_show_no_difference(plan):
    floor = -67.0
    labels = [method.label for method in plan.methods]
    results = made_up(plan, {label: [floor, floor] for label in labels})
    assert gain_cell("floored_gain_db")(results[:2]) == "at most -67.0"
    results[0].trained["floored_gain_db"] = -57.0
    assert gain_cell("floored_gain_db")(results[:2]).startswith("-62.0 (")
    results[0].trained["floored_gain_db"] = floor
    for row in compare_methods(plan, results):
        assert row.p_value == row.adjusted == 1 and not row.significant


@pytest.mark.parametrize("args", [[], ["--plan"]])
def test_results_of_an_earlier_meter_are_refused_before_anything_runs(tmp_path, args):
    """The results of docs/study are such; `--out docs/study` must not change them."""
    shutil.copytree(ROOT / "docs" / "study", tmp_path / "study")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    call = ["study", "--out", str(tmp_path / "study"), "--methods", "transpose:5"]
    found = CliRunner().invoke(main, [*call, *args])
    assert found.exit_code == 1
    [line] = found.output.strip().splitlines()
    assert "transpose-k5-seed0.json was measured by an earlier meter" in line
    assert line.endswith("choose a new folder with --out")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_single_run_has_no_interval():
    assert mean_text(np.array([1.5])) == "1.50"
    assert mean_text(np.array([1.0, 2, 3])) == "2.00 (-0.48 … 4.48)"


def test_the_machine_is_divided_among_jobs():
    cores = sorted(os.sched_getaffinity(0))
    assert divide_machine(1, 0) == [JobResources(None, ())]
    assert [job.gpu for job in divide_machine(3, 2)] == [0, 1, 0]
    environment = divide_machine(2, 2)[1].environment
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    two = divide_machine(2, 0)
    if len(cores) >= 2:
        assert not set(two[0].cores) & set(two[1].cores)
        assert len(two[0].cores) == len(two[1].cores) == len(cores) // 2


def test_a_run_that_fails_is_reported_and_the_others_go_on(plan, result, tmp_path):
    """Two of six runs are done; each of the others finds a broken run folder."""
    for run in plan.runs[:2]:
        dataclasses.replace(result, run=run.name).save(tmp_path / RESULTS_FOLDER)
    plan.save(tmp_path)
    reports = []
    runs_dir = tmp_path / "runs"
    for run in plan.runs[2:]:
        (runs_dir / run.name).mkdir(parents=True)
        (runs_dir / run.name / "config.json").write_text("no json")
    short = dataclasses.replace(plan, num_seeds=1)
    failed = run_missing(
        short, tmp_path, runs_dir, divide_machine(1, 0), lambda *a: reports.append(a)
    )
    assert failed == len(reports) == 1
    run, _, error = reports[0]
    assert run.name == plan.runs[2].name
    assert "exit code 1: Error:" in error and "config.json is damaged" in error


def test_bad_calls_get_one_line(tmp_path):
    def said(*args):
        result = CliRunner().invoke(main, ["study", "--out", str(tmp_path), *args])
        assert result.exit_code != 0 and "Traceback" not in result.output
        return result.output.strip().splitlines()[-1]

    assert "received 'pixels', expected NAME" in said("--methods", "pixels")
    assert "one of them twice" in said("--methods", "transpose,transpose:5")
    assert "unknown key train.stepz" in said("--set", "train.stepz=3")
    assert "holds no study" in said("--only", "transpose-k5-seed0")
    assert not list(tmp_path.iterdir())


def test_plan_shows_cost_and_time_and_starts_nothing(tmp_path):
    args = ["study", "--plan", "--out", str(tmp_path / "out"), "--seeds", "3"]
    args += ["--methods", "transpose:5"]
    for setting in SMALL:
        args += ["--set", setting]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    assert "3 runs of 40 steps, 1 at a time" in result.output
    text = " ".join(result.output.split())
    assert "minutes, if all steps take as long as some that were timed just now" in text
    assert "3 of 3" in result.output and "16, 8, 8" in result.output
    assert not (tmp_path / "out").exists()


def command(folder, runs_dir):
    words = [sys.executable, "-m", "analysis", "study", "--out", str(folder)]
    words += ["--runs-dir", str(runs_dir), "--seeds", "2", "--n", "500"]
    words += ["--methods", "transpose:5,resize-nearest:3"]
    for setting in SMALL:
        words += ["--set", setting]
    return words


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_study_killed_at_any_moment_ends_with_the_same_tables(tmp_path):
    """Kills the study three times at random moments, then lets it run to its end."""
    delays = np.random.default_rng().uniform(8, 40, 3)
    print("killed after seconds:", delays)
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    for number, delay in enumerate(delays):
        process = subprocess.Popen(
            command(killed, tmp_path / "a"), cwd=ROOT, start_new_session=True
        )
        time.sleep(delay)
        if number:
            os.killpg(process.pid, signal.SIGKILL)
        else:  # its child process lives on, and the next call must wait for it
            process.kill()
        process.wait()
    for folder, runs_dir in ((killed, tmp_path / "a"), (straight, tmp_path / "b")):
        done = subprocess.run(command(folder, runs_dir), cwd=ROOT, text=True)
        assert done.returncode == 0
    plan = load_plan(straight)
    for one, other in zip(
        load_results(killed, plan), load_results(straight, plan), strict=True
    ):
        assert (one.run, one.trained) == (other.run, other.trained)
        assert one.course == other.course and one.readings == other.readings
        assert one.measurement.facts == other.measurement.facts
    assert all(has_result(killed, run) for run in plan.runs)
    pages = [(folder / "README.md").read_text() for folder in (killed, straight)]
    tables = [
        page.split("## What was compared")[0].split("in brackets")[1] for page in pages
    ]
    assert tables[0] == tables[1]


def test_a_run_folder_in_use_is_waited_for(plan, tmp_path, monkeypatch):
    waits = []

    def pause(seconds):
        waits.append(seconds)
        held.__exit__()

    monkeypatch.setattr(study_run.time, "sleep", pause)
    held = RunFolder(tmp_path / "run")
    held.__enter__()
    study_run.wait_until_free(tmp_path / "run")
    assert waits == [study_run.POLL_SECONDS]
    study_run.wait_until_free(tmp_path / "never-there")


def test_a_result_is_complete_when_its_json_appears(result, tmp_path, monkeypatch):
    """A kill between the two files of a result leaves a run without a result."""

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        result.save(tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npz"]
