"""How a call of train.py starts: a new run, one that goes on, or one with a parent.

`--resume RUN` continues a run with the settings in its config.json. `--fork RUN` starts
a new run from the whole state of another one, `--init-from RUN` from the weights of its
networks alone. In all three, each setting that is not given is that of RUN.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from config.schema import Config, ConfigError
from config.sizes import resolve
from gan.data.dataset import BUNDLED, Dataset, load_dataset
from gan.run.folder import (
    CONFIG,
    FORK,
    INIT,
    Parent,
    RunError,
    RunRecord,
    read_run,
    refuse_changes,
    run_directory,
)
from gan.run.manifest import CheckpointError, available, checksum, verify

FEW_IMAGES = 10_000  # fewer ones give a short training at the usual number of passes
KINDS = {"--fork": FORK, "--init-from": INIT}


@dataclass(frozen=True)
class Origin:
    """A verified checkpoint of another run, from which a new run starts."""

    path: Path
    record: RunRecord  # of the other run
    parent: Parent  # what the new run remembers of it


@dataclass(frozen=True)
class Start:
    """The run that a call of train.py continues, or the origin of a new run.

    Both are None for a new run without a parent, and for the command that may continue
    one without naming it.
    """

    directory: Path | None = None
    continued: RunRecord | None = None
    origin: Origin | None = None

    @property
    def settings(self) -> Config | None:
        """The settings that hold unless others are given."""
        known = self.continued or (self.origin and self.origin.record)
        return known.config if known else None

    def check(self, config: Config) -> Config:
        """Resolves the budget of a run that goes on; refuses settings it cannot have.

        Where the images may have changed, `RunFolder.claim` decides.
        """
        if not self.continued or not self.directory:
            return config
        data = self.continued.dataset
        config = resolve(config, data["num_images"], data["image_size"])
        new = replace(self.continued, config=config)
        refuse_changes(self.directory, self.continued, new)
        return config


def find_start(
    runs_dir: Path,
    name: str | None = None,
    resume: str | None = None,
    fork: str | None = None,
    init_from: str | None = None,
) -> Start:
    """Finds what a call starts from.

    Args:
        runs_dir: the folder that holds the run folders.
        name: the name of the run, if --run was given.
        resume: the run given with --resume, if any.
        fork: the run given with --fork, perhaps with @STEP or @best.
        init_from: the run given with --init-from, in the same way.

    Raises:
        ConfigError: when the flags do not fit each other.
        RunError: when there is no such run or checkpoint, or the name is taken.
    """
    options = {"--resume": resume, "--fork": fork, "--init-from": init_from}
    given = [(flag, text) for flag, text in options.items() if text is not None]
    if not given:
        return Start()
    if len(given) > 1:
        flags = " and ".join(flag for flag, _ in given)
        raise ConfigError(f"received {flags}, expected one of them")
    [(flag, text)] = given
    if flag == "--resume":
        if name:
            raise ConfigError("received --resume and --run, expected one of them")
        directory = find_run(text, runs_dir)
        return Start(directory, read_run(directory))
    if not name:
        raise ConfigError(f"{flag}: expected a name for the new run, with --run NAME")
    directory, kind = run_directory(runs_dir, name), KINDS[flag]
    run, which = split_checkpoint(text)
    if (directory / CONFIG).exists():
        old = read_run(directory)
        check_parent(directory, old.parent, kind, Path(run).resolve().name, which)
        if [*directory.glob("state/step-*"), *directory.glob("state/corrupt-*")]:
            return Start(directory, old)  # the same command again continues the run
    return Start(directory, origin=find_origin(kind, find_run(run, runs_dir), which))


def find_run(text: str, runs_dir: Path) -> Path:
    """The run folder at a path, or of a name below `runs_dir`."""
    for directory in (Path(text).expanduser(), runs_dir / text):
        if (directory / CONFIG).exists():
            return directory
    raise RunError(
        f"{text}: no run folder at this path or in {runs_dir}; list the runs with "
        f"python -m gan list {runs_dir}"
    )


def split_checkpoint(text: str) -> tuple[str, str]:
    """Splits RUN@STEP or RUN@best; without either, the newest checkpoint is meant."""
    run, at, which = text.rpartition("@")
    if at and (which.isdecimal() or which in ("best", "latest")):
        return run, which
    return text, "latest"


def check_parent(
    directory: Path, parent: Parent | None, kind: str, run: str, which: str
) -> None:
    """Refuses the name of a run that did not start from the given parent."""
    step = int(which) if which.isdecimal() and parent else None
    if parent and (kind, run) == (parent.kind, parent.run):
        if step in (None, parent.step):
            return
    history = f"was {parent}" if parent else "has no parent"
    raise RunError(
        f"--run: {directory} is there already and {history}; choose another name, or "
        f"continue it with --resume {directory}"
    )


def find_origin(kind: str, directory: Path, which: str) -> Origin:
    """Verifies the checkpoint `which` of a run: "latest", "best" or a step number."""
    record = read_run(directory)
    found = available(directory / ("best" if which == "best" else "state"))
    kept = ", ".join(str(step) for step, _ in available(directory / "state")) or "none"
    if which.isdecimal():
        found = [(step, path) for step, path in found if step == int(which)]
    problems = []
    for step, path in found:
        try:
            manifest = verify(path)
        except CheckpointError as error:
            problems.append(f"{path.name}: {error}")
            continue
        if which == "best" and "config" not in manifest["facts"]:
            problems.append("an earlier version kept only the averaged generator")
            continue
        name = directory.resolve().name
        parent = Parent(kind, name, step, checksum(manifest))
        return Origin(path, record, parent)
    reason = "; ".join(problems) or f"steps: {kept}"
    raise RunError(f"{directory} has no usable checkpoint {which!r} ({reason})")


def load_for_training(config: Config) -> tuple[Config, Dataset]:
    """Loads the training images, and sets what depends on them.

    Returns:
        The settings with the number of steps, the widths and an absolute path, and the
        images, with advice among their notes.

    Raises:
        UserError: if the images cannot be read, or the network does not fit their size.
    """
    dataset = load_dataset(config.data)
    notes = *dataset.notes, *advice(config, dataset.images_uint8)
    config = resolve(config, *dataset.images_uint8.shape[:2])
    path = Path(config.data.dataset).expanduser()
    if config.data.dataset not in BUNDLED and path.exists():
        # The run can then be measured from any folder.
        data = replace(config.data, dataset=str(path.resolve()))
        config = replace(config, data=data)
    return config, replace(dataset, notes=notes)


def advice(config: Config, images_uint8: np.ndarray) -> list[str]:
    """Says what helps when a budget in passes over few images gives few steps."""
    num_images = len(images_uint8)
    if config.train.num_steps or num_images >= FEW_IMAGES:
        return []
    num_steps = resolve(config, *images_uint8.shape[:2]).train.num_steps
    num_copies = num_images - len({image.tobytes() for image in images_uint8})
    return [
        f"{num_images} images ({num_copies} of them exact copies of others) are few, "
        f"so that {config.train.epochs:g} passes are only {num_steps} steps; give the "
        "budget with --steps and try --augment colour,translation,cutout, or take the "
        "recipe --config emoji"
    ]
