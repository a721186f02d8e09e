"""`python -m analysis study`: methods x seeds, from nothing to a page."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gan.run.environment import prepare_tensorflow

if TYPE_CHECKING:
    from analysis.study.jobs import Share
    from analysis.study.plan import Plan, Run

MEASURING_SECONDS = 40.0  # of a run, start included: a guess for --plan, said so there
DEFAULTS = "transpose:5,transpose:4,resize-nearest:3,resize-bilinear:3,"
DEFAULTS += "subpixel-icnr:3,transpose-balanced:5"


@click.command(name="study")
@click.option(
    "--methods",
    default=DEFAULTS,
    show_default=True,
    help="NAME[/LAST][:KERNEL], ...; others are compared with the first.",
)
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(1))
@click.option(
    "--budget", type=float, help="Passes over the data; default: the preset's."
)
@click.option(
    "--match",
    type=click.Choice(["macs", "params", "none"]),
    default="macs",
    show_default=True,
    help="What all methods cost alike, by the channels between the doublings.",
)
@click.option("--config", "preset", default="study", show_default=True)
@click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="As in train.py."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="study",
    show_default=True,
    help="Plan, results, page.",
)
@click.option(
    "--runs-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Run folders; default: checkpoints/ and the name of --out.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    help="Runs side by side; default: one a GPU, else one on all cores.",
)
@click.option("--n", "num_images", default=10_000, show_default=True, help="Samples.")
@click.option("--plan", "only_plan", is_flag=True, help="Show runs and time; stop.")
@click.option("--only", hidden=True, help="Name of the one run to do in this process.")
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
    """Trains every method with every seed, measures, compares, writes a page.

    The same command continues an interrupted study; more methods and seeds may be
    added to one. docs/method.md is the protocol.
    """
    runs_dir = runs_dir or Path("checkpoints") / out.name
    try:
        if only:
            perform_one(out, runs_dir, only)
            return
        # Before TensorFlow starts: it sizes its threads by the cores it may use.
        if only_plan and jobs:
            from analysis.study.jobs import shares

            shares(jobs, 0)[0].enter()
        prepare_tensorflow()
        from analysis.study.plan import make_plan

        names = methods.split(",")
        plan = make_plan(preset, sets, names, seeds, budget, match, num_images)
        places = divide(jobs)
        print_plan(plan, out, timed=only_plan, num_jobs=len(places))
        if not only_plan:
            plan.save(out)
            finish(plan, out, runs_dir, places)
    except (ValueError, OSError, RuntimeError) as error:
        raise click.ClickException(str(error)) from None


def divide(jobs: int | None) -> "list[Share]":
    """What each of the jobs may use."""
    import tensorflow as tf

    from analysis.study.jobs import shares

    num_gpus = len(tf.config.list_physical_devices("GPU"))
    return shares(jobs or num_gpus or 1, num_gpus)


def perform_one(out: Path, runs_dir: Path, name: str) -> None:
    """Does one run of a plan that was written before."""
    prepare_tensorflow()
    from analysis.study.plan import StudyError, load_plan
    from analysis.study.run import perform

    plan = load_plan(out)
    found = [run for run in plan.runs if run.name == name]
    if not found:
        raise StudyError(f"--only: {out} plans no run {name!r}")
    perform(found[0], out, runs_dir, plan.num_images)


def print_plan(plan: "Plan", out: Path, *, timed: bool, num_jobs: int) -> None:
    """Prints what will be run at which cost; if `timed`, and how long it will take."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from analysis.study.jobs import seconds_per_step
    from analysis.study.plan import has_result

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("method", "widths", "M params", "M MAC", "to do"):
        table.add_column(name, justify="left" if name == "method" else "right")
    if timed:
        table.add_column("minutes a run", justify="right")
    steps, seconds, to_do = plan.base.train.num_steps, 0.0, 0
    for method in plan.methods:
        cost, widths = plan.costs[method.label], plan.widths[method.label]
        runs = [plan.run(method, seed) for seed in range(plan.num_seeds)]
        missing = sum(not has_result(out, run) for run in runs)
        row = [method.label, ", ".join(map(str, widths))]
        row += [f"{cost[key] / 1e6:.3f}" for key in ("params", "macs")]
        row.append(f"{missing} of {len(runs)}")
        if timed:
            one = steps * seconds_per_step(plan, method) + MEASURING_SECONDS
            seconds += one * missing
            row.append(f"{one / 60:.1f}")
        table.add_row(*row)
        to_do += missing
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"{to_do} runs of {steps:,} steps, {num_jobs} at a time -> {out}",
        soft_wrap=True,
    )
    if timed:
        console.print(
            f"about {seconds / num_jobs / 60:.0f} minutes by the time that some steps "
            f"took just now, and {MEASURING_SECONDS:.0f} s a run to start and measure"
        )


def finish(plan: "Plan", out: Path, runs_dir: Path, places: "list[Share]") -> None:
    """Runs what is missing and writes the page."""
    from analysis.study.jobs import run_missing
    from analysis.study.page import write_page
    from analysis.study.plan import StudyError, has_result
    from analysis.study.results import load_results

    left = sum(not has_result(out, run) for run in plan.runs)

    def report(run: "Run", seconds: float, error: str) -> None:
        nonlocal left
        left -= not error
        click.echo(f"{run.name}: {error or f'done in {seconds:.0f} s'}; {left} left")

    num_failed = run_missing(plan, out, runs_dir, places, report)
    results = load_results(out, plan)
    if not results:
        raise StudyError("no run has a result; the lines above say why")
    page = write_page(out, plan, results, invocation())
    click.echo(f"page: {page}")
    if num_failed:
        raise StudyError(f"{num_failed} runs failed; the same command tries them again")


def invocation() -> str:
    """The command as it was typed."""
    words: list[Any] = ["python", "-m", "analysis", *sys.argv[1:]]
    return shlex.join(words)
