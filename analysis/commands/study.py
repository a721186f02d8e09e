"""`python -m analysis study`: trains methods x seeds and writes a page about them."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich import box
from rich.console import Console
from rich.table import Table

from analysis.commands.options import FOLDER, option
from analysis.study.plan import (
    Plan,
    PlannedRun,
    StudyError,
    has_result,
    load_plan,
    load_results,
    make_plan,
)
from gan.command_line import Command
from gan.run.environment import prepare_tensorflow

if TYPE_CHECKING:  # it imports TensorFlow
    from analysis.study.run import JobResources

# Guesses of what a run takes to start, and to be measured at one step.
STARTING_SECONDS, MEASURING_SECONDS = 20.0, 10.0
DEFAULT_METHODS = (
    "transpose:5,transpose:4,resize-nearest:3,resize-bilinear:3,"
    "subpixel-icnr:3,transpose-balanced:5"
)


@click.command(name="study", cls=Command)
@option(
    "--methods",
    default=DEFAULT_METHODS,
    help="NAME[/LAST][:KERNEL], ...; the others are compared with the first.",
)
@option("--seeds", default=5, type=click.IntRange(1), help="Runs per method.")
@option(
    "--budget",
    type=float,
    help="Length of a run in passes over the data; default: that of --config.",
)
@option(
    "--match",
    type=click.Choice(["macs", "params", "none"]),
    default="macs",
    help="Cost that is made equal by the number of channels between the doublings.",
)
@option(
    *("--config", "preset"),
    default="study",
    help="Settings that all runs share: name of a preset, or a TOML file.",
)
@option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="As in train.py.")
@option(
    "--out",
    type=FOLDER,
    default="study",
    help="Folder of the plan, the results and the page.",
)
@option(
    "--runs-dir",
    type=FOLDER,
    help="Folder of the run folders; default: checkpoints/ and the name of --out.",
)
@option(
    "--jobs",
    type=click.IntRange(1),
    help="Runs at the same time; default: one per GPU, or one on all cores.",
)
@option(
    *("--n", "num_images"),
    type=click.IntRange(1),
    default=10_000,
    help="Samples per measurement.",
)
@option(
    "--plan", "only_plan", is_flag=True, help="Show the runs and their time, then stop."
)
@option("--only", hidden=True, help="Do this one planned run in this process.")
def command(  # noqa: PLR0913
    methods: str,
    seeds: int,
    budget: float | None,
    match: str,
    preset: str,
    sets: tuple[str, ...],
    out: Path,
    runs_dir: Path | None,
    jobs: int | None,
    num_images: int,
    only_plan: bool,
    only: str | None,
) -> None:
    """Trains every method with every seed, compares them, and writes a page.

    The same command continues an interrupted study. Methods and seeds may be added to
    a study. docs/method.md describes the protocol.
    """
    runs_dir = runs_dir or Path("checkpoints") / out.name
    prepare_tensorflow()
    import tensorflow as tf

    from analysis.study.run import divide_machine, train_and_measure

    if only:
        plan = load_plan(out)
        found = [run for run in plan.runs if run.name == only]
        if not found:
            raise StudyError(f"--only: {out} plans no run {only!r}")
        train_and_measure(found[0], out, runs_dir, plan.num_images)
        return
    if only_plan and jobs:
        # TensorFlow sizes its thread pools at its first operation, by the cores
        # that it may use then. Timed steps shall use those of one job.
        divide_machine(jobs, 0)[0].restrict_thread()
    names = methods.split(",")
    plan = make_plan(preset, sets, names, seeds, budget, match, num_images)
    results = load_results(out, plan)  # one that cannot be used is named at once
    plan.check_extends(out)
    num_gpus = len(tf.config.list_physical_devices("GPU"))
    resources = divide_machine(jobs or num_gpus or 1, num_gpus)
    print_plan(plan, out, timed=only_plan, num_jobs=len(resources))
    if only_plan:
        from analysis.study.page import describe_power

        if text := describe_power(plan, results):
            click.echo(text)
    else:
        plan.save(out)
        run_and_write_page(plan, out, runs_dir, resources)


def print_plan(plan: Plan, out: Path, *, timed: bool, num_jobs: int) -> None:
    """Prints the runs and their cost, and if `timed` how long they will take."""
    from analysis.study.run import time_step

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("method", "widths", "M params", "M MAC", "to do"):
        table.add_column(name, justify="left" if name == "method" else "right")
    if timed:
        table.add_column("minutes per run", justify="right")
    num_steps, seconds, to_do = plan.base.train.num_steps, 0.0, 0
    num_measured = len(plan.base.run.checkpoint_steps) + 2
    around = STARTING_SECONDS + num_measured * MEASURING_SECONDS
    for method in plan.methods:
        cost, widths = plan.costs[method.label], plan.widths[method.label]
        runs = [plan.run(method, seed) for seed in range(plan.num_seeds)]
        missing = sum(not has_result(out, run) for run in runs)
        row = [method.label, ", ".join(map(str, widths))]
        row += [f"{cost[key] / 1e6:.3f}" for key in ("params", "macs")]
        row.append(f"{missing} of {len(runs)}")
        if timed:
            one = num_steps * time_step(plan, method) + around
            seconds += one * missing
            row.append(f"{one / 60:.1f}")
        table.add_row(*row)
        to_do += missing
    console = Console(highlight=False)
    console.print(table)
    text = f"{to_do} runs of {num_steps:,} steps, {num_jobs} at a time -> {out}"
    console.print(text, soft_wrap=True)
    if timed:
        minutes = seconds / num_jobs / 60
        text = f"about {minutes:.0f} minutes, if all steps take as long as some that "
        text += f"were timed just now, and a run takes {around:.0f} s to "
        console.print(f"{text}start and to be measured")


def run_and_write_page(
    plan: Plan, out: Path, runs_dir: Path, resources: "list[JobResources]"
) -> None:
    """Does the runs that have no result, then writes the page of all results."""
    from analysis.study.page import write_page
    from analysis.study.run import run_missing

    num_left = sum(not has_result(out, run) for run in plan.runs)

    def report(run: PlannedRun, seconds: float, error: str) -> None:
        nonlocal num_left
        num_left -= not error
        end = error or f"done in {seconds:.0f} s"
        click.echo(f"{run.name}: {end}; {num_left} left")

    num_failed = run_missing(plan, out, runs_dir, resources, report)
    results = load_results(out, plan)
    if not results:
        raise StudyError("no run has a result; the lines above say why")
    typed = shlex.join(["python", "-m", "analysis", *sys.argv[1:]])
    page = write_page(out, plan, results, typed)
    click.echo(f"page: {page}")
    if num_failed:
        raise StudyError(f"{num_failed} runs failed; the same command tries them again")
