"""Trains a DCGAN: `python train.py --upsample transpose`.

The same command again continues an unfinished run exactly where it stopped. This file
turns flags into a Config and makes one call; TensorFlow is imported only after the
flags have been checked.
"""

import dataclasses
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from config.loader import load_config, to_dict, with_budget
from config.schema import (
    PRECISIONS,
    STRATEGIES,
    Config,
    ConfigError,
)
from config.upsamplers import UPSAMPLER_ALIASES, UPSAMPLERS
from gan.data.dataset import (
    BUNDLED_NAME,
    BUNDLED_TRAIN_IMAGES,
    DataError,
    Dataset,
    load_dataset,
)
from gan.run import backend
from gan.run.folder import RunError, RunFolder, default_name, run_directory
from gan.run.health import POLICIES

if TYPE_CHECKING:
    from gan.evaluation import Observer

GROUPS = {
    "What": ("upsample", "upsample_last", "dataset", "config", "seed"),
    "How long": ("epochs", "steps", "max_minutes"),
    "How": ("batch_size", "precision", "jit", "strategy", "replicas", "sets"),
    "Watching": ("observe", "on_alarm"),
    "Where": ("run", "runs_dir", "dry_run"),
}


@dataclasses.dataclass(frozen=True)
class Call:
    """What holds for one call of the command and is no setting of the run."""

    max_minutes: float | None
    observe: bool
    on_alarm: str
    strategy: str
    replicas: int

    def __post_init__(self) -> None:
        """Refuses what cannot work.

        Raises:
            ConfigError: naming the flag.
        """
        if self.max_minutes is not None and not self.max_minutes > 0:  # NaN fails too
            raise ConfigError(
                f"--max-minutes: received {self.max_minutes:g}, expected more than 0"
            )
        if self.replicas and self.strategy != "mirrored":
            raise ConfigError(
                f"--replicas: received with --strategy {self.strategy}, expected with "
                "mirrored"
            )
        if self.on_alarm == "rollback" and self.strategy == "multiworker":
            raise ConfigError(
                "--on-alarm rollback goes back in one process; with --strategy "
                "multiworker use stop"
            )


class GroupedCommand(click.Command):
    """A command whose help lists the options in named groups."""

    def format_options(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Writes one section for each group."""
        by_name = {parameter.name: parameter for parameter in self.get_params(ctx)}
        for title, names in GROUPS.items():
            with formatter.section(title):
                options = [by_name[name] for name in names]
                records = [option.get_help_record(ctx) for option in options]
                formatter.write_dl([record for record in records if record])


@click.command(cls=GroupedCommand)
@click.option(
    "--upsample",
    type=click.Choice([*UPSAMPLERS, *UPSAMPLER_ALIASES]),
    help="how the generator doubles height and width",
)
@click.option(
    "--upsample-last",
    type=click.Choice([*UPSAMPLERS, *UPSAMPLER_ALIASES]),
    help="the same of the last stage alone",
)
@click.option(
    "--dataset",
    metavar="NAME|PATH",
    help="fashion_mnist (bundled), a tensorflow-datasets name, a folder, .npz or .npy",
)
@click.option(
    "--config", metavar="PRESET", default="", help="preset in config/, or a TOML file"
)
@click.option("--seed", type=int, help="of weights, order and noise")
@click.option("--epochs", type=float, help="budget in passes over the data")
@click.option("--steps", type=int, help="budget in steps")
@click.option(
    "--max-minutes",
    type=float,
    help="save and stop after this time; the same command continues",
)
@click.option("--batch-size", type=int, help="images a step")
@click.option("--precision", type=click.Choice(PRECISIONS), help="numerics of layers")
@click.option("--jit/--no-jit", default=None, help="compile the step with XLA")
@click.option(
    "--strategy",
    type=click.Choice(STRATEGIES),
    default="one",
    show_default=True,
    help="devices: one; mirrored: the GPUs here; multiworker: as TF_CONFIG says",
)
@click.option(
    "--replicas",
    type=click.IntRange(0),
    default=0,
    help="of mirrored: how many GPUs, or parts of the CPU; 0: all GPUs",
)
@click.option(
    "--set", "sets", metavar="KEY=VALUE", multiple=True, help="any section.key=value"
)
@click.option(
    "--observe/--no-observe",
    default=True,
    show_default=True,
    help="log quality and checkerboards, keep the best",
)
@click.option(
    "--on-alarm",
    type=click.Choice(POLICIES),
    default="warn",
    show_default=True,
    help="stop: save, exit code 3; rollback: go back and halve the learning rates",
)
@click.option("--run", metavar="NAME", help="name of the run folder")
@click.option(
    "--runs-dir",
    type=Path,
    default="checkpoints",
    show_default=True,
    metavar="DIR",
    help="where run folders are",
)
@click.option("--dry-run", is_flag=True, help="print what would be done, and stop")
def main(
    sets: tuple[str, ...],
    run: str | None,
    runs_dir: Path,
    dry_run: bool,
    **flags: Any,
) -> None:
    """Trains a DCGAN on real images, or continues an unfinished run.

    Every setting is in config/schema.py; --set reaches those without a flag. Watch with
    `tensorboard --logdir checkpoints`.

    Example: python train.py --upsample transpose
    """
    console = Console()
    try:
        call = Call(**{f.name: flags.pop(f.name) for f in dataclasses.fields(Call)})
        config = resolve(flags, sets)
        directory = run_directory(
            runs_dir, run or default_name(config, flags["config"])
        )
        if dry_run:
            show_plan(console, config, directory, call.max_minutes)
            return
        exit_code = start(config, directory, console, call)
    except (ConfigError, DataError, RunError, OSError) as error:
        fail(error)
    sys.exit(exit_code)


def resolve(flags: dict[str, Any], sets: tuple[str, ...]) -> Config:
    """Preset, flags and --set to a Config; of --steps and --epochs the given one."""
    if flags["steps"] is not None and flags["epochs"] is not None:
        raise ConfigError("received --steps and --epochs, expected one of them")
    num_steps = 0 if flags["epochs"] is not None else flags["steps"]
    if flags["steps"] is not None and flags["steps"] < 1:
        raise ConfigError(f"--steps: received {num_steps}, expected at least 1")
    given = {
        "model.upsample": flags["upsample"],
        "model.upsample_last": flags["upsample_last"],
        "data.dataset": flags["dataset"],
        "run.seed": flags["seed"],
        "train.epochs": flags["epochs"],
        "train.num_steps": num_steps,
        "train.batch_size": flags["batch_size"],
        "train.precision": flags["precision"],
        "train.jit": flags["jit"],
    }
    return load_config(flags["config"], given, sets)


def show_plan(
    console: Console, config: Config, directory: Path, max_minutes: float | None
) -> None:
    """Prints resolved settings, run folder and budget."""
    title = escape(f"run folder: {directory}")
    table = Table("setting", "value", title=title, title_style="")
    for section, settings in to_dict(config).items():
        for key, value in settings.items():
            table.add_row(f"{section}.{key}", escape(str(value)))
    console.print(table)
    known = config.data.dataset == BUNDLED_NAME and not config.data.limit
    if known:
        config = with_budget(config, BUNDLED_TRAIN_IMAGES)
    steps = config.train.num_steps or "epochs x images / batch size"
    limit = f", at most {max_minutes:g} minutes in this call" if max_minutes else ""
    console.print(
        f"budget: {steps} steps of {config.train.batch_size} images{limit}",
        highlight=False,
    )


def start(config: Config, directory: Path, console: Console, call: Call) -> int:
    """Loads the images, trains, and returns the exit code."""
    dataset = load_dataset(config.data)
    config = with_budget(config, len(dataset.images_uint8))
    for note in dataset.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)

    backend.prepare()
    from gan.devices import Processes, check_fits, make_strategy
    from gan.training import train

    strategy = make_strategy(call.strategy, call.replicas)
    check_fits(config, strategy)
    limits = {
        "max_seconds": call.max_minutes * 60 if call.max_minutes else None,
        "strategy": strategy,
    }
    if not Processes(strategy).is_chief:
        with TemporaryDirectory() as scratch, RunFolder(Path(scratch)) as folder:
            with one_line_failures():
                return train(config, dataset, folder, **limits).exit_code
    with RunFolder(directory) as folder, one_line_failures():
        console.print(
            f"{dataset.name}: {len(dataset.images_uint8)} images "
            f"-> {directory}; watch: tensorboard --logdir {directory.parent}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        observers = partial(make_observers, config, dataset, console)
        outcome = train(
            config,
            dataset,
            folder,
            make_observers=observers if call.observe else tuple,
            console=console,
            on_alarm=call.on_alarm,
            **limits,
        )
    command = shlex.join(["python", *sys.argv])
    text = (
        f"{outcome.stop} after step {outcome.step}; continue with: {command}"
        if outcome.stop
        else f"finished: {outcome.step} steps; samples and generator in {directory}"
    )
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    return outcome.exit_code


@contextmanager
def one_line_failures() -> Iterator[None]:
    """Ends the program in one line where training cannot go on."""
    from gan import devices, launch
    from gan.run.checkpoint import CheckpointError
    from gan.training import TrainingError

    try:
        yield
    except (CheckpointError, TrainingError) as error:
        fail(error)
    except devices.PEER_LOST:
        text = "another worker has gone; start all again to continue the run"
        fail(RuntimeError(text), launch.PEER_LOST)


def make_observers(
    config: Config, dataset: Dataset, console: Console
) -> "list[Observer]":
    """What looks at samples during training, as far as the images allow it."""
    from analysis.observers import SpectrumObserver
    from analysis.quality_observer import QualityObserver

    observers: list[Any] = []
    for make in (
        lambda: SpectrumObserver(dataset.images_uint8),
        lambda: QualityObserver(config.data),
    ):
        try:
            observers.append(make())
        except ValueError as error:
            console.print(f"note: not observed: {error}", markup=False, soft_wrap=True)
    return observers


def fail(error: Exception, exit_code: int = 1) -> NoReturn:
    """Ends the program with one line."""
    click.echo(f"error: {error}", err=True)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
