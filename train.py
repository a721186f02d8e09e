"""Trains a DCGAN: `python train.py --upsample transpose`.

This file turns flags into a Config and calls `gan.training.train`; TensorFlow is
imported only after the flags have been checked.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from config.loader import load_config, to_dict
from config.schema import Config, ConfigError, UserError
from config.sizes import with_widths
from gan.command_line import Command, option, setting_options, start_options
from gan.data.dataset import BUNDLED
from gan.files import counted
from gan.run.environment import prepare_tensorflow, run_operations_side_by_side
from gan.run.folder import default_name, run_directory
from gan.run.health import POLICIES
from gan.run.listing import closing_lines
from gan.run.start import Origin, find_start, load_for_training

if TYPE_CHECKING:
    from gan.evaluation import Observer


class TrainCommand(Command):
    """The command, in which any other ValueError is a fault of the program."""

    user_errors = (UserError, OSError)


@click.command(cls=TrainCommand, context_settings={"show_default": True})
@setting_options
@option(
    "Experiment",
    "--config",
    "preset",
    metavar="PRESET",
    default="",
    help="Preset in config/, or the path of a TOML file.",
)
@option(
    "Experiment",
    "--set",
    "sets",
    metavar="KEY=VALUE",
    multiple=True,
    help="Value of any setting, as section.key=value.",
)
@option(
    "Budget",
    "--max-minutes",
    type=float,
    help="Save and stop after this time; the same command continues the run.",
)
@option(
    "Numerics and devices",
    "--strategy",
    type=click.Choice(["one", "mirrored", "multiworker"]),
    default="one",
    help="one: one device; mirrored: the GPUs of this machine; "
    "multiworker: the processes in TF_CONFIG.",
)
@option(
    "Numerics and devices",
    "--replicas",
    type=click.IntRange(0),
    default=0,
    help="Number of GPUs with mirrored, or of parts of the CPU; 0: all GPUs.",
)
@option(
    "Observation",
    "--observe/--no-observe",
    default=True,
    help="Log quality and checkerboards, and keep the best checkpoint.",
)
@option(
    "Observation",
    "--on-alarm",
    type=click.Choice(POLICIES),
    default="warn",
    help="warn: log it; stop: save the state and end with exit code 3.",
)
@start_options
@option("Output", "--run", "name", metavar="NAME", help="Name of the run folder.")
@option(
    "Output",
    "--runs-dir",
    type=Path,
    default="checkpoints",
    metavar="DIR",
    help="Folder that holds the run folders.",
)
@click.version_option(package_name="dcgan-seams")
@option("Output", "--dry-run", is_flag=True, help="Print the plan and stop.")
def main(preset: str, sets: tuple[str, ...], **options: Any) -> None:
    """Trains a DCGAN on real images, or continues an unfinished run.

    All settings are in config/schema.py; --set reaches those that have no flag. To see
    a run while it trains: tensorboard --logdir checkpoints

    Example: python train.py --upsample transpose
    """
    minutes, strategy = options["max_minutes"], options["strategy"]
    if minutes is not None and not minutes > 0:  # also refuses NaN
        raise ConfigError(f"--max-minutes: received {minutes:g}, expected more than 0")
    if options["replicas"] and strategy != "mirrored":
        raise ConfigError(
            f"--replicas: received with --strategy {strategy}, expected with mirrored"
        )
    origins = {key: options[key] for key in ("resume", "fork", "init_from")}
    start = find_start(options["runs_dir"], options["name"], **origins)
    config = start.check(read_options(preset, options, sets, start.settings))
    name = options["name"] or default_name(config, preset)
    directory = start.directory or run_directory(options["runs_dir"], name)
    if options["dry_run"]:
        if start.origin:
            click.echo(start.origin.parent)
        show_plan(config, directory, minutes)
    else:
        sys.exit(run(config, directory, start.origin, options))


def read_options(
    preset: str, options: dict[str, Any], sets: Sequence[str], base: Config | None
) -> Config:
    """Makes the Config; either --steps or --epochs replaces the preset's budget."""
    # The options of settings have names such as train__batch_size.
    flags = {k.replace("__", "."): v for k, v in options.items() if "__" in k}
    num_steps, epochs = flags["train.num_steps"], flags["train.epochs"]
    if num_steps is not None and epochs is not None:
        raise ConfigError("received --steps and --epochs, expected one of them")
    if num_steps is not None and num_steps < 1:
        raise ConfigError(f"--steps: received {num_steps}, expected at least 1")
    if epochs is not None:
        flags["train.num_steps"] = 0
    return load_config(preset, flags, sets, base)


def run(
    config: Config, directory: Path, origin: Origin | None, options: dict[str, Any]
) -> int:
    """Loads the images, trains, and returns the exit code."""
    console = Console()
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    config, dataset = load_for_training(config)
    for note in dataset.notes:
        say(f"note: {note}")

    prepare_tensorflow()
    run_operations_side_by_side()
    from gan.devices import Processes, check_fits, make_strategy, process_folder
    from gan.training import train

    strategy = make_strategy(options["strategy"], options["replicas"])
    check_fits(config, strategy)
    console.quiet = not Processes(strategy).is_chief

    def observers() -> "list[Observer]":
        if not options["observe"]:
            return []
        from analysis.observers import make_observers

        return make_observers(config, dataset, say)

    with process_folder(directory, strategy) as folder:
        if not folder.is_locked:
            say(f"warning: {directory}: no locks here; do not start this run twice")
        say(
            f"{dataset.name}: {counted(len(dataset.images_uint8), 'image')} -> "
            f"{directory}; "
            f"watch: tensorboard --logdir {directory.parent}"
        )
        outcome = train(
            config,
            dataset,
            folder,
            make_observers=observers,
            max_seconds=60 * (options["max_minutes"] or 0),
            console=console,
            on_alarm=options["on_alarm"],
            strategy=strategy,
            origin=origin,
        )
    for line in closing_lines(directory):
        say(line)
    if outcome.stop:
        command = shlex.join(["python", *sys.argv])
        say(f"{outcome.stop} after step {outcome.step}; continue with: {command}")
    else:
        from analysis.samples import MIN_IMAGES

        enough = len(dataset.images_uint8) >= MIN_IMAGES
        measure = "spectra" if enough else "quality"
        say(f"measure them: python -m analysis {measure} {shlex.quote(str(directory))}")
        steps = counted(outcome.step, "step")
        say(f"finished: {steps}; samples and generator in {directory}")
    return outcome.exit_code


def show_plan(config: Config, directory: Path, max_minutes: float | None) -> None:
    """Prints all settings, the run folder and the budget."""
    size, name = config.data.image_size, config.data.dataset
    is_path = name.startswith((".", "~", "/")) or Path(name).expanduser().exists()
    if name in BUNDLED or is_path:
        config, dataset = load_for_training(config)
        images = f"{counted(len(dataset.images_uint8), 'image')} of {dataset.name}"
        notes = dataset.notes
    else:  # a data set of tensorflow-datasets is not downloaded for a plan
        images = f"{name}, which is looked up when training starts"
        notes = ()
        if size:
            config = replace(config, model=with_widths(config.model, size))
    console = Console(highlight=False)
    title = escape(f"run folder: {directory}")
    table = Table("setting", "value", title=title, title_style="")
    for section, settings in to_dict(config).items():
        for key, value in settings.items():
            table.add_row(f"{section}.{key}", escape(str(value)))
    console.print(table)
    for note in notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    console.print(f"images: {images}", markup=False, soft_wrap=True)
    train = config.train
    steps = f"{train.epochs:g} passes over the images, in steps"
    if train.num_steps:
        steps = counted(train.num_steps, "step")
    limit = f", at most {max_minutes:g} minutes in this call" if max_minutes else ""
    console.print(f"budget: {steps} of {counted(train.batch_size, 'image')}{limit}")


if __name__ == "__main__":
    main()
