"""The training loop, and what it needs besides the step."""

import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import tensorflow as tf
from rich.console import Console

from config.loader import to_dict
from config.schema import Config, UserError
from gan.augment import preview
from gan.data.dataset import Dataset
from gan.devices import Processes
from gan.evaluation import EARLY_GRIDS, Evaluation, Observer
from gan.run import checkpoint, environment
from gan.run.checkpoint import Restored
from gan.run.folder import RunFolder, RunRecord
from gan.run.health import Alarms
from gan.run.log import RunLog
from gan.run.manifest import CheckpointError, available
from gan.run.start import Origin
from gan.state import TrainState, build_state
from gan.step import METRICS, batch_inputs, make_train_steps

# Measured on an H200, see docs/performance.md.
GPU_ADVICE = (
    "there is a GPU; on it a new run with --jit --set train.steps_per_call=50 is "
    "several times as fast"
)


class TrainingError(UserError):
    """Training cannot go on; the message says why and what was kept."""


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended."""

    step: int
    stop: str = ""  # why it stopped before the end of the budget
    exit_code: int = 0


def train(  # noqa: PLR0913
    config: Config,
    dataset: Dataset,
    folder: RunFolder,
    *,
    make_observers: Callable[[], Sequence[Observer]] = tuple,
    max_seconds: float | None = None,
    console: Console | None = None,
    on_alarm: str = "warn",
    strategy: tf.distribute.Strategy | None = None,
    origin: Origin | None = None,
) -> Outcome:
    """Trains a run, or continues it exactly from its newest checkpoint.

    Args:
        config: the settings, with `train.num_steps` resolved.
        dataset: the training images.
        folder: the run folder, entered (locked) by the caller.
        make_observers: makes the observers of evaluations, after the first step.
        max_seconds: wall time after which this call saves the state and returns.
        console: shows messages and progress; None: nothing is shown.
        on_alarm: "warn", or "stop" after saving the state.
        strategy: the devices, see `gan.devices`; each process calls this function.
        origin: the checkpoint of another run from which a new run starts.

    Raises:
        RunError: when the folder belongs to another configuration, or the networks
            are not those of `origin`.
        CheckpointError: when no checkpoint is valid, or the last one cannot be saved.
        TrainingError: when a loss, a gradient or a variable is not finite.
    """
    stop_signals = StopSignals(max_seconds)
    has_gpu = environment.make_gpu_deterministic()
    strategy = strategy or tf.distribute.get_strategy()
    processes = Processes(strategy)
    if not processes.is_chief:  # workers only compute; the chief reports and decides
        make_observers, console, on_alarm, origin = tuple, None, "warn", None

    # State: new, that of the newest checkpoint, or that of another run.
    _, size, _, channels = dataset.images_uint8.shape
    state = build_state(config, size, channels, strategy)
    record = make_record(config, dataset, strategy.num_replicas_in_sync, origin)
    record, changes, restored = checkpoint.connect(folder, record, state, origin)
    alarms = Alarms(config.train.loss, on_alarm)
    old_environment = read_facts(restored, alarms) if restored else {}
    processes.broadcast(state.raw_variables())
    first = step = int(state.step.numpy())

    with RunLog(folder.directory, config.train.num_steps, console) as log, stop_signals:
        log.begin(restored.step if restored else -1, to_dict(config), tables(state))
        announce_start(log, restored, old_environment, record, changes, has_gpu)
        show_augmented(log, restored, config, dataset.images_uint8)
        checkpoints = checkpoint.RunCheckpoints(folder, state, record, log.say)
        evaluation = Evaluation(config, state, log, alarms, checkpoints)
        images_uint8 = tf.constant(dataset.images_uint8)
        train_steps = make_train_steps(config, state)
        clock = Clock()
        window: list[np.ndarray] = []  # metrics of the steps since the last log line
        stop: tuple[str, int] | None = None  # reason and exit code

        while step < config.train.num_steps and not stop:
            # Inputs: the batch and the noise depend on the seed and the step alone.
            with clock.measure("input"):
                count = steps_until_boundary(step, config)
                steps = range(step, step + count)
                inputs = batch_inputs(config, steps, len(images_uint8))

            # Steps: one call of the compiled function does `count` of them.
            with clock.measure("compile" if step == first else "step", count):
                metrics = train_steps(images_uint8, *inputs).numpy()
            if bad := first_non_finite(metrics, config.train.precision):
                row, name = bad
                reason = f"{name} is not finite at step {step + row + 1}"
                raise training_error(reason, step, folder, log, alarms)
            window.extend(metrics)
            step += count
            last = step == config.train.num_steps

            # Scalars: means over the steps since the last log line.
            if last or step % config.run.log_every_steps == 0:
                with clock.measure("log"):
                    values = summarize(window, clock, config.train.batch_size)
                    alarms.add_losses(step, values)
                    log.losses(step, values | {"alarm/code": alarms.code})
                    log.progress(step, values)
                window, clock.step_seconds = [], []

            # Pictures and observers. The first step does not wait for the seconds that
            # observers take to prepare.
            if not evaluation.is_ready:
                with clock.measure("evaluate"):
                    evaluation.prepare(make_observers())
            complete = last or step % config.run.evaluate_every_steps == 0
            if complete or step in EARLY_GRIDS:
                with clock.measure("evaluate"):
                    evaluation(step, grid_only=not complete)

            # Checkpoints, also when an alarm, the user or the clock ends the run.
            log.status(step, alarms.status)
            stop = alarms.stop_request() or (None if last else stop_signals.request())
            stop = processes.agree_to_stop(stop)
            is_due = step % config.run.checkpoint_every_steps == 0
            if last or stop or is_due or step in config.run.checkpoint_steps:
                with clock.measure("checkpoint"):
                    if bad_names := state.non_finite():
                        reason = f"{bad_names[0]} is not finite after step {step}"
                        raise training_error(reason, step, folder, log, alarms)
                    required = last or stop is not None
                    checkpoints.save(step, alarms.state_dict(), required=required)

        if stop:
            evaluation(step, grid_only=True)
        checkpoints.export()
        processes.wait()  # until the chief has written its files
    return Outcome(step, *(stop or ()))


def make_record(
    config: Config, dataset: Dataset, replicas: int, origin: Origin | None
) -> RunRecord:
    """Collects the content of config.json."""
    num_images, size, _, channels = dataset.images_uint8.shape
    description = {"name": dataset.name, "digest": dataset.digest}
    shape = {"num_images": num_images, "image_size": size, "channels": channels}
    software = environment.describe_environment(replicas)
    parent = origin.parent if origin else None
    return RunRecord(config, description | shape, software, parent)


def read_facts(restored: Restored, alarms: Alarms) -> dict[str, Any]:
    """Gives `alarms` its counts from a checkpoint; returns the writer's environment."""
    try:
        if "alarms" in restored.facts:
            alarms.load_state_dict(restored.facts["alarms"])
        else:  # a run that has just started from another one
            alarms.step = restored.step
        return dict(restored.facts.get("environment", {}))
    except (KeyError, TypeError, AttributeError, ValueError):
        raise CheckpointError(
            f"checkpoint of step {restored.step}: the facts in its manifest are not "
            "those of a run; remove it or start a new run with --run NAME"
        ) from None


def announce_start(
    log: RunLog,
    restored: Restored | None,
    old: dict[str, Any],
    record: RunRecord,
    changes: Sequence[str],
    has_gpu: bool,
) -> None:
    """Says from where a run starts or continues, and what is not as it was.

    `old` is the environment in which the checkpoint was written, and `changes` are the
    settings that have changed since the last call.
    """
    is_alone = record.environment["replicas"] == 1  # XLA compiles for one GPU
    if has_gpu and is_alone and not record.config.train.jit:
        log.say(f"note: {GPU_ADVICE}")
    if record.parent:
        log.say(str(record.parent))
    moved = [line for line in changes if line.startswith("data.dataset: ")]
    for line in moved:
        log.say(f"data found at another path: {line.partition(': ')[2]}")
    if others := [line for line in changes if line not in moved]:
        log.say(f"settings changed: {'; '.join(others)}")
    if restored is None:
        return
    for warning in restored.warnings:
        log.say(f"warning: {warning}")
    num_steps, new = record.config.train.num_steps, record.environment
    if restored.step:
        log.say(f"continuing after step {restored.step} of {num_steps}")
    changed = [key for key in new if key in old and old[key] != new[key]]
    if differences := [f"{key}: {old[key]} -> {new[key]}" for key in changed]:
        text = "not bit-exact from here, the environment has changed"
        log.say(f"warning: {text}: {'; '.join(differences)}")


def show_augmented(
    log: RunLog, restored: Restored | None, config: Config, images_uint8: np.ndarray
) -> None:
    """Logs once, in a new run, what the discriminator sees of real images."""
    is_changed = config.train.augment != "none" or config.data.flip
    if restored is None and is_changed:
        log.picture(0, "real/augmented", preview(config, images_uint8[:8]))


def steps_until_boundary(step: int, config: Config) -> int:
    """Number of steps in the next call: `steps_per_call`, or up to the next event."""
    run, left = config.run, config.train.num_steps - step
    cadences = run.log_every_steps, run.evaluate_every_steps, run.checkpoint_every_steps
    boundaries = [every - step % every for every in cadences]
    single = *EARLY_GRIDS, *run.checkpoint_steps
    boundaries += [event - step for event in single if event > step]
    return min(config.train.steps_per_call, left, *boundaries)


def first_non_finite(metrics: np.ndarray, precision: str) -> tuple[int, str] | None:
    """Row and name of the first value that is not finite, or None.

    With float16 an infinite gradient norm is normal: loss scaling skips that update.
    """
    for row, column in np.argwhere(~np.isfinite(metrics)):
        name = METRICS[column]
        if precision != "mixed_float16" or not name.startswith("grad_norm"):
            return int(row), name
    return None


def training_error(
    reason: str, step: int, folder: RunFolder, log: RunLog, alarms: Alarms
) -> TrainingError:
    """Logs the alarm "diverged", and makes the error that names the last checkpoint.

    The state is not saved, so that no checkpoint ever holds a value that is not finite.
    """
    alarms.add_non_finite(reason)
    log.status(step, alarms.status, say=False)
    kept = [path.name for _, path in available(folder.state)]
    return TrainingError(
        f"{reason}; last good checkpoint: {kept[0] if kept else 'none yet'}; "
        "try a lower learning rate or --precision float32"
    )


def summarize(
    window: Sequence[np.ndarray], clock: "Clock", batch_size: int
) -> dict[str, float]:
    """Means of the metrics, speed, seconds by kind of work, and peak memory."""
    means = np.mean(np.asarray(window, dtype=np.float64), axis=0)
    values = dict(zip(METRICS, means.tolist(), strict=True))
    # If only the compiling call is in the window, its time is the best estimate.
    per_step = clock.step_seconds or [clock.seconds["compile"] / len(window)]
    seconds = float(np.mean(per_step))
    values["speed/seconds_per_step"] = seconds
    values["speed/images_per_second"] = batch_size / seconds
    for kind, total in clock.seconds.items():
        values[f"time/{kind}_seconds"] = total
    values["memory/peak_mib"] = environment.peak_memory_bytes() / 2**20
    return values


def tables(state: TrainState) -> str:
    """Layer tables of both networks as text."""
    lines: list[str] = []
    for model in (state.generator, state.discriminator):
        model.summary(print_fn=lambda line, **_: lines.append(line), line_length=80)
    return "\n".join(lines)


class Clock:
    """Measures the wall time of each kind of work, such as compile, input and step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.step_seconds: list[float] = []  # of each step since the last log line

    @contextmanager
    def measure(self, kind: str, num_steps: int = 0) -> Iterator[None]:
        """Adds the duration of a `with` block, which does `num_steps` steps."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self.seconds[kind] += seconds
        if kind == "step":
            self.step_seconds += [seconds / num_steps] * num_steps


class StopSignals:
    """Notes a signal that asks to stop, and the end of the allowed time.

    A second signal has its usual effect, for users who cannot wait for the step.
    """

    def __init__(self, max_seconds: float | None = None) -> None:
        self.deadline = time.monotonic() + max_seconds if max_seconds else None
        self.received = 0

    def __enter__(self) -> "StopSignals":
        self._terminals = [output for output in (1, 2) if os.isatty(output)]
        numbers = environment.stop_signals()
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number
        if number == signal.SIGINT:  # print is not safe in a signal handler
            os.write(2, b"\nstopping: this step ends and the state is saved\n")
        signal.signal(number, self._before[signal.Signals(number)])
        if number == signal.SIGHUP:  # writing to a terminal that is gone is an error
            nothing = os.open(os.devnull, os.O_WRONLY)
            for output in self._terminals:
                os.dup2(nothing, output)

    def request(self) -> tuple[str, int] | None:
        """Reason and exit code, if the run is to stop now."""
        if self.received:
            name = signal.Signals(self.received).name
            return f"stopped by {name}", 128 + self.received
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return "time limit reached", 0
        return None
