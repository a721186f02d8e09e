"""The training loop, read from top to bottom.

Observers plug in here: they see a step number, pictures and the state, and return named
scalars and pictures. They never feed the training.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import tensorflow as tf
from rich.console import Console

from config.loader import to_dict
from config.schema import Config
from gan import checkpoint
from gan.data import Dataset, batch_indices, latents, latents_from_seeds
from gan.environment import changes, describe, peak_memory_bytes
from gan.files import write_atomically
from gan.images import tile
from gan.runfolder import RunFacts, RunFolder
from gan.runlog import RunLog
from gan.sampling import renderer
from gan.state import TrainState, build_state
from gan.step import METRICS, make_train_steps
from gan.wallclock import Clock, StopSignals, stop_reason


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what was kept."""


@dataclass(frozen=True)
class Observation:
    """What an observer returns.

    Attributes:
        scalars: name to value, logged as they are.
        pictures: name to uint8 (height, width, channels).
    """

    scalars: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)


class Observer(Protocol):
    """Looks at samples while training goes on.

    Attributes:
        num_images: how many samples of the averaged generator it wants.
    """

    num_images: int

    def observe(
        self, step: int, images_uint8: np.ndarray, state: TrainState
    ) -> Observation:
        """Called before the first step and at every evaluation.

        Args:
            step: number of finished steps.
            images_uint8: (num_images, height, width, channels), of the same latents at
                every call.
            state: to be looked at, not changed.
        """
        ...


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    Attributes:
        step: finished steps.
        stop: why before the end of the budget, in words; empty at its end.
        exit_code: for the shell.
    """

    step: int
    stop: str = ""
    exit_code: int = 0


class Evaluation:
    """Grids of fixed latents, and the observers."""

    def __init__(
        self,
        log: RunLog,
        state: TrainState,
        observers: Sequence[Observer],
        config: Config,
    ) -> None:
        """Compiles the samplers; the latents are those of the seeds 0, 1, 2, ..."""
        self.log, self.state, self.observers = log, state, observers
        self.num_grid, self.histograms = config.run.grid_images, config.run.histograms
        num_images = max([self.num_grid, *(o.num_images for o in observers)])
        self.latents = latents_from_seeds(range(num_images), config.model.latent_dim)
        self.render_average = renderer(state.ema_generator)
        self.render_raw = renderer(state.generator)

    def __call__(self, step: int) -> None:
        """Evaluates the state after `step` steps."""
        images_uint8 = self.render_average(self.latents)
        self.log.grid(step, tile(images_uint8[: self.num_grid]))
        raw = self.render_raw(self.latents[: self.num_grid])
        self.log.picture(step, "samples/raw", tile(raw))
        if self.histograms:
            self.log.histograms(step, self.state.variables())
        for observer in self.observers:
            seen = observer.observe(
                step, images_uint8[: observer.num_images], self.state
            )
            if seen.scalars:
                self.log.scalars(step, seen.scalars)
            for name, picture in seen.pictures.items():
                self.log.picture(step, name, picture)


def train(
    config: Config,
    dataset: Dataset,
    folder: RunFolder,
    *,
    observers: Sequence[Observer] = (),
    max_seconds: float | None = None,
    console: Console | None = None,
) -> Outcome:
    """Trains a run, or continues it exactly where its newest checkpoint stands.

    Args:
        config: with `train.num_steps` resolved.
        dataset: the training images.
        folder: the run folder, entered (locked) by the caller.
        observers: called at evaluations.
        max_seconds: wall time after which this call saves and returns.
        console: where messages and progress go; none: nowhere.

    Returns:
        The outcome; its state is on disk.

    Raises:
        RunError: when the folder belongs to another configuration.
        CheckpointError: when no valid checkpoint is left, or the last cannot be saved.
        TrainingError: on a loss or gradient that is not finite.
    """
    deadline = time.monotonic() + max_seconds if max_seconds else None
    facts = run_facts(config, dataset)
    folder.claim(facts)
    state = build_state(config, *dataset.images_uint8.shape[2:])
    restored = checkpoint.restore_newest(folder.state, state.checkpoint)
    console = console or Console(quiet=True)
    with RunLog(folder.directory, config.train.num_steps, console) as log:
        log.begin(restored.step if restored else -1, to_dict(config), tables(state))
        announce(log, restored, facts)
        with StopSignals() as signals:
            saver = Saver(folder, state, facts, log)
            outcome = loop(
                config,
                dataset,
                state,
                observers,
                saver,
                lambda: stop_reason(signals, deadline),
            )
    return outcome


def loop(
    config: Config,
    dataset: Dataset,
    state: TrainState,
    observers: Sequence[Observer],
    saver: "Saver",
    wish_to_stop: Callable[[], tuple[str, int] | None],
) -> Outcome:
    """Steps, logs, evaluates and saves until the budget or a wish ends it."""
    settings, cadence, log = config.train, config.run, saver.log
    images_uint8 = tf.constant(dataset.images_uint8)
    train_steps = make_train_steps(config, state)
    evaluate = Evaluation(log, state, observers, config)
    clock, window = Clock(), []
    first = step = int(state.step.numpy())
    if step == 0:
        with clock.measure("evaluate"):
            evaluate(step)

    while step < settings.num_steps:
        # Input: order and noise are pure functions of seed and step.
        with clock.measure("input"):
            count = steps_until_boundary(step, config)
            indices, noise = draw(config, range(step, step + count), len(images_uint8))

        # As many steps as the cadence allows, in one call.
        with clock.measure("compile" if step == first else "step", count):
            metrics = train_steps(images_uint8, indices, noise).numpy()
        refuse_non_finite(metrics, step, settings.precision)
        window.extend(metrics)
        step += count
        last = step == settings.num_steps

        # Scalars: means over the steps since the last line.
        if last or step % cadence.log_every_steps == 0:
            with clock.measure("log"):
                values = summarize(window, clock, settings.batch_size)
                log.losses(step, values)
                log.progress(step, values)
            window, clock.step_seconds = [], []

        # Pictures and observers.
        if last or step % cadence.evaluate_every_steps == 0:
            with clock.measure("evaluate"):
                evaluate(step)

        # State, also when asked to stop.
        stop = None if last else wish_to_stop()
        if last or stop or step % cadence.checkpoint_every_steps == 0:
            with clock.measure("checkpoint"):
                saver.save(step, required=last or stop is not None)
        if stop:
            return Outcome(step, *stop)
    saver.export()
    return Outcome(step)


class Saver:
    """Commits checkpoints and the exported generator of one run."""

    def __init__(
        self, folder: RunFolder, state: TrainState, facts: RunFacts, log: RunLog
    ) -> None:
        """Names what is saved and where."""
        self.folder, self.state, self.facts, self.log = folder, state, facts, log

    def save(self, step: int, required: bool) -> None:
        """Commits the state; unless `required`, a full disk is only a warning."""
        try:
            checkpoint.save(
                self.folder.state,
                step,
                self.state.checkpoint,
                {"environment": self.facts.environment},
                self.facts.config.run.keep_checkpoints,
            )
        except checkpoint.CheckpointError as error:
            if required:
                raise
            self.log.say(f"warning: {error}; training goes on, the next one is tried")

    def export(self) -> None:
        """Writes generator.keras with the averaged weights."""
        path = self.folder.directory / "generator.keras"
        try:
            write_atomically(path, self.state.ema_generator.save)
        except OSError as error:
            raise checkpoint.CheckpointError(f"{path} not written: {error}") from error


def run_facts(config: Config, dataset: Dataset) -> RunFacts:
    """What config.json will hold."""
    num_images, size, _, channels = dataset.images_uint8.shape
    description = {
        "name": dataset.name,
        "digest": dataset.digest,
        "num_images": num_images,
        "image_size": size,
        "channels": channels,
    }
    return RunFacts(config, description, describe())


def announce(
    log: RunLog, restored: checkpoint.Restored | None, facts: RunFacts
) -> None:
    """Says where the run stands, and what may keep a resume from being bit-exact."""
    if restored is None:
        return
    for warning in restored.warnings:
        log.say(f"warning: {warning}")
    log.say(f"continuing after step {restored.step} of {facts.config.train.num_steps}")
    if changed := changes(restored.facts.get("environment", {}), facts.environment):
        log.say(
            "warning: not bit-exact from here, the environment has changed: "
            + "; ".join(changed)
        )


def steps_until_boundary(step: int, config: Config) -> int:
    """Steps in the next call: up to steps_per_call, not past any cadence."""
    run = config.run
    cadences = (
        run.log_every_steps,
        run.evaluate_every_steps,
        run.checkpoint_every_steps,
    )
    boundaries = [every - step % every for every in cadences]
    left = config.train.num_steps - step
    return min(config.train.steps_per_call, left, *boundaries)


def draw(
    config: Config, steps: Sequence[int], num_images: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices int64 (K, B) and noise float32 (K, B, latent_dim) of `steps`."""
    seed, size = config.run.seed, config.train.batch_size
    indices = [batch_indices(seed, step, size, num_images) for step in steps]
    noise = [latents(seed, step, size, config.model.latent_dim) for step in steps]
    return np.stack(indices), np.stack(noise)


def refuse_non_finite(metrics: np.ndarray, step: int, precision: str) -> None:
    """Stops before a state that is not finite reaches a checkpoint.

    With float16 an infinite gradient norm is normal: loss scaling skips that update.
    """
    names = [
        name
        for name in METRICS
        if precision != "mixed_float16" or not name.startswith("grad_norm")
    ]
    columns = [METRICS.index(name) for name in names]
    bad = ~np.isfinite(metrics[:, columns])
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise TrainingError(
            f"{names[column]} is not finite at step {step + row + 1}; the last "
            "checkpoint is kept; try a lower learning rate or --precision float32"
        )


def summarize(
    window: Sequence[np.ndarray], clock: Clock, batch_size: int
) -> dict[str, float]:
    """Means of the metrics, speed, times by kind, memory."""
    means = np.mean(np.asarray(window, dtype=np.float64), axis=0)
    values = dict(zip(METRICS, means.tolist(), strict=True))
    # Nothing but the compiling call in the window: its time is the best estimate.
    per_step = clock.step_seconds or [clock.seconds["compile"] / len(window)]
    seconds = float(np.mean(per_step))
    values["speed/seconds_per_step"] = seconds
    values["speed/images_per_second"] = batch_size / seconds
    for kind, total in clock.seconds.items():
        values[f"time/{kind}_seconds"] = total
    values["memory/peak_mib"] = peak_memory_bytes() / 2**20
    return values


def tables(state: TrainState) -> str:
    """Layer tables of both networks as text."""
    lines: list[str] = []
    for model in (state.generator, state.discriminator):
        model.summary(print_fn=lambda line, **_: lines.append(line), line_length=80)
    return "\n".join(lines)
