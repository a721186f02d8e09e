"""The training loop, read from top to bottom.

Observers (`gan.evaluation`) are shown pictures at evaluations; none feeds the training.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf
from rich.console import Console

from config.loader import to_dict
from config.schema import Config
from gan.data.dataset import Dataset
from gan.devices import Processes
from gan.evaluation import Evaluation, Observer, generator_weights
from gan.replay import Incident, record
from gan.run import checkpoint
from gan.run.environment import changes, describe, peak_memory_bytes
from gan.run.folder import RunFacts, RunFolder
from gan.run.health import Watch
from gan.run.log import RunLog
from gan.run.saver import Saver
from gan.state import TrainState, build_state
from gan.step import METRICS, batch_inputs, make_train_steps
from gan.wallclock import Clock, StopSignals, stop_reason


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what was kept."""


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
) -> Outcome:
    """Trains a run, or continues it exactly where its newest checkpoint stands.

    Args:
        config: with `train.num_steps` resolved.
        dataset: the training images.
        folder: the run folder, entered (locked) by the caller.
        make_observers: makes what evaluations call, once the first step is done.
        max_seconds: wall time after which this call saves and returns.
        console: where messages and progress go; none: nowhere.
        on_alarm: "warn"; "stop", saving the state; or "rollback", to the newest
            checkpoint before the alarm with half the learning rates.
        strategy: devices, see `gan.devices`; none: one. Of several processes each
            calls this, all but the chief with a run folder of no account.

    Returns:
        The outcome; its state is on disk.

    Raises:
        RunError: when the folder belongs to another configuration.
        CheckpointError: when no valid checkpoint is left, or the last cannot be saved.
        TrainingError: on a loss or gradient that is not finite.
        gan.devices.PEER_LOST: when another worker is no longer there.
    """
    strategy = strategy or tf.distribute.get_strategy()
    processes = Processes(strategy)
    deadline = time.monotonic() + max_seconds if max_seconds else None
    facts = run_facts(config, dataset, strategy.num_replicas_in_sync)
    folder.claim(facts)
    _, size, _, channels = dataset.images_uint8.shape
    state = build_state(config, size, channels, strategy)
    restored = checkpoint.restore_newest(folder.state, state.checkpoint)
    processes.share(state.raw_variables())
    watch = Watch(config.train.loss, on_alarm)
    environment = recall(restored, watch) if restored else {}
    console = console or Console(quiet=True)
    with RunLog(folder.directory, config.train.num_steps, console) as log:
        log.begin(restored.step if restored else -1, to_dict(config), tables(state))
        announce(log, restored, config, changes(environment, facts.environment))
        with StopSignals() as signals:
            saver = Saver(folder, state, facts, log, watch)
            return loop(
                config,
                dataset,
                make_observers,
                saver,
                processes,
                lambda: stop_reason(signals, deadline),
            )


def loop(
    config: Config,
    dataset: Dataset,
    make_observers: Callable[[], Sequence[Observer]],
    saver: Saver,
    processes: Processes,
    wish_to_stop: Callable[[], tuple[str, int] | None],
) -> Outcome:
    """Steps, logs, evaluates and saves until the budget or a wish ends it."""
    settings, cadence = config.train, config.run
    state, log, watch = saver.state, saver.log, saver.watch
    images_uint8 = tf.constant(dataset.images_uint8)
    train_steps = make_train_steps(config, state)
    clock, window = Clock(), []
    first = step = int(state.step.numpy())
    untrained = generator_weights(state) if step == 0 else None
    evaluate: Evaluation | None = None

    while step < settings.num_steps:
        # Input: order and noise are pure functions of seed and step.
        with clock.measure("input"):
            count = steps_until_boundary(step, config)
            steps = range(step, step + count)
            inputs = batch_inputs(config, steps, len(images_uint8))

        # As many steps as the cadence allows, in one call.
        with clock.measure("compile" if step == first else "step", count):
            metrics = train_steps(images_uint8, *inputs).numpy()
        if bad := first_non_finite(metrics, settings.precision):
            give_up(saver, step, explain(saver, dataset, step, inputs, metrics, bad))
        window.extend(metrics)
        step += count
        last = step == settings.num_steps

        # Scalars: means over the steps since the last line.
        if last or step % cadence.log_every_steps == 0:
            with clock.measure("log"):
                values = summarize(window, clock, settings.batch_size)
                watch.see_losses(step, values)
                log.losses(step, values | {"alarm/code": watch.code})
                log.progress(step, values)
            window, clock.step_seconds = [], []

        # Observers take seconds to prepare, which the first step does not wait for.
        if evaluate is None:
            with clock.measure("evaluate"):
                evaluate = Evaluation(saver, make_observers(), config)
                if untrained:
                    evaluate(0, untrained)
        # Pictures and observers.
        if last or step % cadence.evaluate_every_steps == 0:
            with clock.measure("evaluate"):
                evaluate(step)

        # State, also when an alarm or the user asks to stop.
        log.verdict(step, watch.verdict)
        stop = watch.wish_to_stop(1.0)
        stop = processes.agree(stop or (None if last else wish_to_stop()))
        if last or stop or step % cadence.checkpoint_every_steps == 0:
            with clock.measure("checkpoint"):
                if lost := state.non_finite():
                    give_up(saver, step, f"{lost[0]} is not finite after step {step}")
                saver.save(step, required=last or stop is not None)
        if stop:
            break
    else:
        stop = None
        saver.export()
    processes.agree(None)  # the chief's disk is slower than an exit
    return Outcome(step, *(stop or ()))


def run_facts(config: Config, dataset: Dataset, replicas: int) -> RunFacts:
    """What config.json will hold."""
    num_images, size, _, channels = dataset.images_uint8.shape
    description = {
        "name": dataset.name,
        "digest": dataset.digest,
        "num_images": num_images,
        "image_size": size,
        "channels": channels,
    }
    return RunFacts(config, description, describe(replicas))


def recall(restored: checkpoint.Restored, watch: Watch) -> dict[str, Any]:
    """Hands the evidence that a checkpoint keeps to `watch`.

    Returns:
        The environment of its writer.

    Raises:
        CheckpointError: when there is something else in its place.
    """
    try:
        if "alarms" in restored.facts:
            watch.recall(restored.facts["alarms"])
        return dict(restored.facts.get("environment", {}))
    except (KeyError, TypeError, AttributeError, ValueError):
        raise checkpoint.CheckpointError(
            f"checkpoint of step {restored.step}: the facts in its manifest are not "
            "those of a run; remove it or start a new run with --run NAME"
        ) from None


def announce(
    log: RunLog,
    restored: checkpoint.Restored | None,
    config: Config,
    changed: Sequence[str],
) -> None:
    """Says where the run stands, and what may keep a resume from being bit-exact."""
    if restored is None:
        return
    for warning in restored.warnings:
        log.say(f"warning: {warning}")
    log.say(f"continuing after step {restored.step} of {config.train.num_steps}")
    if changed:
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


def first_non_finite(metrics: np.ndarray, precision: str) -> tuple[int, str] | None:
    """Row and name of the first bad value of (K, len(METRICS)) metrics, if any.

    With float16 an infinite gradient norm is normal: loss scaling skips that update.
    """
    if np.isfinite(metrics).all():
        return None
    for row, values in enumerate(metrics):
        for name, value in zip(METRICS, values, strict=True):
            skipped = precision == "mixed_float16" and name.startswith("grad_norm")
            if not np.isfinite(value) and not skipped:
                return row, name
    return None


def explain(
    saver: Saver,
    dataset: Dataset,
    step: int,
    inputs: tuple[np.ndarray, np.ndarray],
    metrics: np.ndarray,
    bad: tuple[int, str],
) -> str:
    """Keeps the bad step of the call at `step`, and says in a line where it began."""
    row, name = bad
    reason = f"{name} is not finite at step {step + row + 1}"
    saver.log.say(f"{reason}; repeating the steps from the last checkpoint to see why")
    indices, noise = inputs[0][row], inputs[1][row]
    incident = Incident(
        saver.facts.config,
        step + row + 1,
        indices,
        dataset.images_uint8[indices],
        noise,
        metrics[: row + 1],
    )
    return f"{reason}; {record(incident, dataset, saver.folder)}"


def give_up(saver: Saver, step: int, reason: str) -> NoReturn:
    """Ends the call before a state that is not finite reaches a checkpoint.

    Raises:
        RollBack: if an alarm is to take the run back.
        TrainingError: else.
    """
    watch = saver.watch
    watch.see_non_finite(step, reason)
    watch.wish_to_stop(1.0)
    saver.log.verdict(step, watch.verdict, say=False)
    raise TrainingError(f"{reason}; try a lower learning rate or --precision float32")


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
