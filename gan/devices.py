"""One device or several: the strategy of a run, and the processes that share it.

Every replica computes the gradients of its part of one global batch, and their sum
updates every copy of the weights, so that N replicas train as one device does. The
failures of `tf.distribute` described here were observed with TensorFlow 2.21 on CPUs.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import tensorflow as tf

from config.schema import Config, ConfigError
from gan.launch import START_TIMEOUT, WorkerLostError
from gan.run.folder import RunFolder

DEFAULT_START_TIMEOUT = 300.0  # seconds
LOST_WORKER_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)
# A process that ends its parent after some seconds, unless it is ended before.
END_PARENT = """
import os, signal, sys, time
parent, seconds, text = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
time.sleep(seconds)
if os.getppid() == parent:
    os.write(2, text.encode())
    os.kill(parent, signal.SIGKILL)
"""


def make_strategy(name: str, replicas: int = 0) -> tf.distribute.Strategy:
    """Chooses devices; it must be called before TensorFlow has used any device.

    Args:
        name: "one" device; "mirrored", the GPUs of this machine; or "multiworker", the
            processes that TF_CONFIG lists.
        replicas: number of GPUs of "mirrored", or of equal parts of the CPU on a
            machine without GPU; 0: all GPUs.
    """
    if name == "one":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(local_devices(replicas))
    with limited_start(read_num_workers()):
        return tf.distribute.MultiWorkerMirroredStrategy()


def local_devices(replicas: int) -> list[str]:
    """Names of the devices for the strategy "mirrored"."""
    if gpus := tf.config.list_physical_devices("GPU"):
        if replicas > len(gpus):
            raise ConfigError(
                f"--replicas: received {replicas}, expected at most {len(gpus)}, the "
                "GPUs of this machine"
            )
        return [f"GPU:{i}" for i in range(replicas or len(gpus))]
    if replicas < 2:
        raise ConfigError(
            "--strategy mirrored: no GPU found; --replicas 2 divides the CPU, to try it"
        )
    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * replicas
    tf.config.set_logical_device_configuration(cpu, parts)
    return [f"CPU:{i}" for i in range(replicas)]


def read_num_workers() -> int:
    """Checks the environment variable TF_CONFIG, and counts the workers in it."""
    text = os.environ.get("TF_CONFIG", "")
    try:
        content = json.loads(text)
        workers, task = content["cluster"]["worker"], content["task"]
        texts = all(isinstance(worker, str) for worker in workers)
        if texts and task["type"] == "worker" and task["index"] in range(len(workers)):
            return len(workers)
        raise ValueError
    except (ValueError, KeyError, TypeError, IndexError):
        raise ConfigError(
            f"--strategy multiworker: received TF_CONFIG={text!r}, expected "
            '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", '
            '"index": 0}}; on one machine: python -m gan launch --workers 2 -- ...'
        ) from None


@contextmanager
def limited_start(num_workers: int) -> Iterator[None]:
    """Ends this process when the other workers do not start in time.

    TensorFlow would wait for more than ten minutes, with the interpreter's lock, so
    that only another process can end this one.
    """
    given = os.environ.get(START_TIMEOUT, DEFAULT_START_TIMEOUT)
    try:
        seconds = float(given)
    except ValueError:
        message = f"{START_TIMEOUT}: received {given!r}, expected seconds"
        raise ConfigError(message) from None
    text = (
        f"Error: not all of {num_workers} workers were there after {seconds:g} s; "
        "start them all again: the same command continues the run\n"
    )
    program = [sys.executable, "-S", "-c", END_PARENT]
    with subprocess.Popen([*program, str(os.getpid()), str(seconds), text]) as timer:
        try:
            yield
        finally:
            timer.kill()


def check_fits(config: Config, strategy: tf.distribute.Strategy) -> None:
    """Refuses settings that work on one device and not on several."""
    replicas, size = strategy.num_replicas_in_sync, config.train.batch_size
    if size % replicas:
        raise ConfigError(
            f"train.batch_size: received {size}, expected a multiple of {replicas}, "
            "the number of replicas"
        )
    group = config.model.minibatch_stddev
    if group and math.gcd(size, group) != math.gcd(size // replicas, group):
        raise ConfigError(
            f"train.batch_size: received {size} for {replicas} replicas, expected a "
            f"multiple of {replicas * group}, so that each has whole groups of "
            f"model.minibatch_stddev={group}"
        )
    if replicas > 1 and config.train.jit:
        raise ConfigError(
            f"--jit: received {replicas} replicas, expected one; XLA cannot compile a "
            "step that reaches several devices"
        )


def part_of_replica(global_batch: tf.Tensor) -> tf.Tensor:
    """The images or latents of the calling replica; all parts have equal size."""
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync
    if replicas == 1:
        return global_batch
    size = global_batch.shape[0] // replicas
    first = size * context.replica_id_in_sync_group
    return global_batch[first : first + size]


def sum_of_replicas(
    strategy: tf.distribute.Strategy,
    values: Sequence[Any],
    variables: Sequence[keras.Variable],
) -> list[Any]:
    """Sums the values of all replicas, on the devices of the variables."""
    pairs = [(v, variable.value) for v, variable in zip(values, variables, strict=True)]
    return list(strategy.extended.batch_reduce_to(tf.distribute.ReduceOp.SUM, pairs))


def one_copy(strategy: tf.distribute.Strategy, values: Sequence[Any]) -> list[Any]:
    """Values that are equal on all devices, as they are on the first device."""
    return [strategy.experimental_local_results(value)[0] for value in values]


@contextmanager
def process_folder(
    directory: Path, strategy: tf.distribute.Strategy
) -> Iterator[RunFolder]:
    """Enters the run folder on the chief, and a temporary folder in other processes."""
    processes = Processes(strategy)
    try:
        with TemporaryDirectory() as scratch:
            own = directory if processes.is_chief else Path(scratch)
            with RunFolder(own) as folder:
                yield folder
    except LOST_WORKER_ERRORS as error:
        if processes.count == 1:
            raise
        raise WorkerLostError from error


class Processes:
    """The processes that train together: one, unless the strategy is "multiworker"."""

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        resolver = strategy.cluster_resolver
        self.count = resolver.cluster_spec().num_tasks("worker") if resolver else 1
        self.rank = resolver.task_id if resolver else 0
        self.is_chief = self.rank == 0
        self._strategy = strategy
        self._max = tf.function(lambda codes: tf.reduce_max(self._sum(codes)))

    def broadcast(self, variables: Sequence[tf.Variable]) -> None:
        """Copies the chief's values to every process, bit for bit.

        Only the chief reads checkpoints, so that no file system has to be shared. The
        bits are added as integers, and those of all other processes are 0.
        """
        if self.count == 1:
            return

        @tf.function
        def copy() -> None:
            for variable in variables:
                bits = tf.bitcast(variable.read_value(), tf.int32)
                shared = self._sum(bits if self.is_chief else tf.zeros_like(bits))
                variable.assign(tf.bitcast(shared, variable.dtype))

        copy()

    def agree_to_stop(self, stop: tuple[str, int] | None) -> tuple[str, int] | None:
        """Waits for all processes; returns the reason and exit code that one gave."""
        if self.count == 1:
            return stop
        code = stop[1] + 1 if stop else 0
        codes = tf.one_hot(self.rank, self.count, code, 0, dtype=tf.int32)
        if most := int(self._max(codes)):
            return stop or ("stopped by another worker", most - 1)
        return None

    def wait(self) -> None:
        """Returns when all processes have called it."""
        self.agree_to_stop(None)

    def _sum(self, value: tf.Tensor) -> tf.Tensor:
        """The sum of one int32 tensor of each process."""
        each = self._strategy.num_replicas_in_sync // self.count

        def from_first_replica() -> tf.Tensor:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            return value * tf.cast(replica % each == 0, tf.int32)

        summed = self._strategy.run(from_first_replica)
        return self._strategy.reduce("SUM", summed, axis=None)
