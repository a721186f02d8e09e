"""The run folder: which process owns it, and which configuration it belongs to."""

import fcntl
import json
import os
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from config.loader import differences, from_dict
from config.schema import Config, ModelConfig, UserError
from config.sizes import num_doublings, with_widths
from gan.files import read_text, remove_temporaries, write_atomically

RUNS_DIR = Path("checkpoints")
CONFIG = "config.json"
MAX_IMAGE_SIZE = 1024  # px, as `data.image_size` allows
MAX_WEIGHTS = 1 << 28  # in the largest layers together: 1 GiB in float32
# A larger step budget continues the same run.
EXTENDABLE = ("train.num_steps", "train.epochs")
# These change no bit of the state, so they may change while a run goes on: batches and
# noise depend on seed and step alone, evaluations render with networks of their own,
# and one trace of the step serves calls of any number of steps.
WATCHING = (
    "train.steps_per_call",
    "run.log_every_steps",
    "run.evaluate_every_steps",
    "run.checkpoint_every_steps",
    "run.keep_checkpoints",
    "run.checkpoint_steps",
    "run.grid_images",
    "run.histograms",
)
FORK, INIT = "fork", "init"  # kinds of parents: the whole state, or the networks alone


class RunError(UserError):
    """A run folder cannot be used."""


class RunInUse(RunError):
    """Another process owns the run folder."""


@dataclass(frozen=True)
class Parent:
    """The checkpoint of another run from which a run started."""

    kind: str  # FORK or INIT
    run: str  # the name of its folder
    step: int
    digest: str  # SHA-256 of its manifest

    def __str__(self) -> str:
        verb = "forked" if self.kind == FORK else "initialised"
        return f"{verb} from {self.run} at step {self.step} ({self.digest[:12]})"


@dataclass(frozen=True)
class RunRecord:
    """The content of config.json."""

    config: Config
    dataset: dict[str, Any]  # name, digest, num_images, image_size and channels
    environment: dict[str, Any]  # versions and devices where the run was started
    parent: Parent | None = None

    def to_json(self) -> dict[str, Any]:
        """The record as plain data; `parse_record` is the inverse."""
        return asdict(self)


def default_name(config: Config, preset: str = "") -> str:
    """The name of a run without --run: data, upsampler, seed, and what is unusual."""
    parts = [plain_name(config.data.dataset) or "data", config.model.upsample]
    if config.model.upsample_last not in ("", config.model.upsample):
        parts.append(f"last_{config.model.upsample_last}")
    if config.model.kernel_size != 5:
        parts.append(f"k{config.model.kernel_size}")
    parts.append(f"seed{config.run.seed}")
    if preset and Path(preset).stem != "fashion_mnist":
        parts.append(plain_name(Path(preset).stem) or "preset")
    return "-".join(parts)


def plain_name(path: str) -> str:
    """The last part of a path, with the characters that a run's name may have."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", Path(path).name).strip("._")


def run_path(text: str | Path) -> Path:
    """A path, if there is something; else that of the run in `checkpoints/`, if any."""
    path, named = Path(text), RUNS_DIR / text
    return named if not path.exists() and (named / CONFIG).is_file() else path


def run_directory(runs_dir: str | Path, name: str) -> Path:
    """The folder of the run `name`, which must be a plain name."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*", name):
        expected = "expected letters, digits, '-', '_', '.'"
        raise RunError(f"--run: received {name!r}, {expected}")
    return Path(runs_dir) / name


def read_run(directory: Path) -> RunRecord:
    """Reads config.json of a run folder."""
    path = directory / CONFIG
    try:
        return parse_record(json.loads(read_text(path)))
    except OSError:
        raise RunError(f"{directory} is not a run folder: no {CONFIG}") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error}") from None


def parse_record(content: Any) -> RunRecord:
    """Checks the content of config.json, sizes included, as it is not trusted.

    Raises:
        ValueError: with what is wrong in it.
    """
    try:
        dataset = content["dataset"]
        size, channels = dataset["image_size"], dataset["channels"]
        for key in ("image_size", "channels", "num_images"):
            if not isinstance(dataset[key], int) or dataset[key] < 1:
                raise ValueError(f"{key}: {dataset[key]!r}")
        environment = dict(content.get("environment", {}))
        config = from_dict(content["config"])
        parent = parse_parent(content.get("parent"))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not the record of a run: {error!r}") from None
    if size > MAX_IMAGE_SIZE or size % 4 or channels not in (1, 3):
        raise ValueError(f"received images of {size} px and {channels} channels")
    if (weights := num_weights(config.model, size)) > MAX_WEIGHTS:
        raise ValueError(f"{weights} weights, expected at most {MAX_WEIGHTS}")
    return RunRecord(config, dataset, environment, parent)


def parse_parent(content: Any) -> Parent | None:
    """Reads the parent in config.json; a run that started by itself has none."""
    if content is None:
        return None
    parent = Parent(**content)
    texts = parent.kind, parent.run, parent.digest
    if not all(isinstance(text, str) for text in texts) or type(parent.step) is not int:
        raise ValueError(f"parent: {content!r}")
    return parent


def num_weights(model: ModelConfig, image_size: int) -> int:
    """The approximate number of weights in the largest layers, without building any."""
    model = with_widths(model, image_size)
    base = image_size >> num_doublings(model, image_size)
    size = max(model.kernel_size, model.discriminator_kernel_size)
    networks = model.generator_widths, model.discriminator_widths
    convolutions = sum(a * b for widths in networks for a, b in pairwise(widths))
    return model.latent_dim * base**2 * networks[0][0] + size**2 * convolutions


class RunFolder:
    """A run folder that this process owns during a `with` block.

    The operating system releases its lock when the process ends in any way. Where the
    file system has no locks, `is_locked` is false.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.samples = directory / "samples"
        self.best = directory / "best"

    def __enter__(self) -> Self:
        try:
            self._is_new = not self.directory.exists()
            for path in (self.directory, self.state, self.samples):
                path.mkdir(parents=True, exist_ok=True)
            if not os.access(self.directory, os.W_OK):
                raise PermissionError("not writable")
            refuse_links(self.directory)
            self._lock = (self.directory / ".lock").open("a+")
        except OSError as error:
            raise RunError(
                f"cannot write to {self.directory}: {error.strerror or error}; "
                "choose another place with --runs-dir"
            ) from None
        self.is_locked = True
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "unknown"
            self._lock.close()
            raise RunInUse(
                f"{self.directory} is in use by process {owner}; "
                "wait for it or choose another name with --run"
            ) from None
        except OSError:  # some network file systems have no locks
            self.is_locked = False
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        for path in (self.directory, self.samples):
            remove_temporaries(path)
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_new and not (self.directory / CONFIG).exists():
            self._remove_empty()
        self._lock.close()

    def _remove_empty(self) -> None:
        """Removes a new folder that no run has claimed; one with other files stays."""
        with suppress(OSError):
            for path in (self.state, self.samples):
                path.rmdir()
            (self.directory / ".lock").unlink()
            self.directory.rmdir()

    def claim(self, record: RunRecord) -> tuple[RunRecord, list[str]]:
        """Connects the folder with a run, new or already in it.

        Returns:
            The record with its parent, and the settings that have changed since.

        Raises:
            RunError: with the list of differences, when it belongs to another run; and
                when it holds results but no checkpoint.
        """
        old = read_run(self.directory) if (self.directory / CONFIG).exists() else None
        if not [*self.state.glob("step-*"), *self.state.glob("corrupt-*")]:
            run = (old or record).config.run
            first = min((run.checkpoint_every_steps, *run.checkpoint_steps))
            self.refuse_lost_state(first)
        elif not old:
            raise RunError(
                f"{self.directory} has checkpoints but no {CONFIG} that describes "
                "them; put it back or choose another name with --run"
            )
        changes: list[str] = []
        if old:
            refuse_changes(self.directory, old, record)
            record = replace(record, parent=record.parent or old.parent)
            changes = differences(old.config, record.config)
        if not old or changes or record.parent != old.parent:
            self.write_config(record)
        return record, changes

    def refuse_lost_state(self, first_checkpoint: int) -> None:
        """Refuses to start over where a run has left results but no checkpoint.

        A run that was killed before its first checkpoint has no such results.

        Raises:
            RunError: naming one of the results.
        """
        grids = [
            path
            for path in sorted(self.samples.glob("step-*.png"))
            if path.stem > f"step-{first_checkpoint:08d}"
        ]
        exports = [self.directory / "generator.keras", *self.best.glob("step-*")]
        if left := [*filter(Path.exists, exports), *grids]:
            raise RunError(
                f"{self.directory} holds results such as {left[0].name} but no "
                "checkpoint in state/; put state/ back, choose another name with "
                "--run, or remove the folder to start over"
            )

    def write_config(self, record: RunRecord) -> None:
        """Writes config.json whole or not at all."""
        content = (json.dumps(record.to_json(), indent=2) + "\n").encode()
        write_atomically(
            self.directory / CONFIG, lambda path: path.write_bytes(content)
        )


def refuse_links(directory: Path) -> None:
    """Refuses a folder whose entries lead to files outside of it."""
    for path in sorted(directory.iterdir()):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise RunError(
                f"{path} is a link or a special file; a run folder holds only its own "
                "files, put a copy in its place"
            )


def refuse_changes(directory: Path, old: RunRecord, new: RunRecord) -> None:
    """Refuses to continue a run with other settings, and says where they can be used.

    Raises:
        RunError: with the list of differences.
    """
    changes = forbidden_changes(old, new)
    if len(changes) == 1 and changes[0].startswith("train.num_steps: "):
        raise RunError(
            f"{directory}: received a smaller budget ({changes[0]}), which can only "
            "grow; to end the run earlier, stop it with Ctrl-C or --max-minutes"
        )
    if changes:
        raise RunError(
            f"{directory} was made with other settings ({'; '.join(changes)}); to use "
            f"the new ones, start a new run with --run NAME, or go on from the state "
            f"of this one with --fork {directory} --run NAME"
        )


def forbidden_changes(old: RunRecord, new: RunRecord) -> list[str]:
    """Differences with which a run cannot be continued.

    Equal images may lie at another path.
    """
    allowed = set(WATCHING)
    if new.config.train.num_steps >= old.config.train.num_steps:
        allowed |= set(EXTENDABLE)
    digest = old.dataset.get("digest")
    same_images = digest == new.dataset.get("digest")
    if same_images and digest:  # without one, only the path tells images apart
        allowed.add("data.dataset")
    changes = [
        line
        for line in differences(old.config, new.config)
        if line.partition(":")[0] not in allowed
    ]
    if not same_images:
        changes.append("the images of the data set have changed")
    return changes
