"""One device or several: the strategy of a run, and what its processes must agree on.

Every replica computes the gradients of its part of one global batch; their sum updates
every copy of the weights, so that N replicas train as one device does. Checkpoints,
logs and pictures belong to the chief alone. Facts about `tf.distribute`, its
failures and its waiting: TensorFlow 2.21, tried out on CPUs.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from config.schema import Config, ConfigError
from gan.launch import START_TIMEOUT

DEFAULT_START_TIMEOUT = 300.0  # seconds
WATCH = """
import os, signal, sys, time
parent, seconds, text = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
time.sleep(seconds)
if os.getppid() == parent:
    os.write(2, text.encode())
    os.kill(parent, signal.SIGKILL)
"""
# What TensorFlow raises in a worker whose peer died, was frozen or restarted.
PEER_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


def make_strategy(name: str, replicas: int = 0) -> tf.distribute.Strategy:
    """Chooses devices; called before TensorFlow has used any.

    Args:
        name: "one" device; "mirrored", the GPUs of this machine; or "multiworker", the
            processes that TF_CONFIG lists.
        replicas: of "mirrored": the first so many GPUs, or, on a machine without, so
            many equal parts of the CPU; 0: all GPUs.

    Raises:
        ConfigError: when there are too few devices, or TF_CONFIG is missing or wrong.
    """
    if name == "one":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(local_devices(replicas))
    workers = read_tf_config()
    with patience(len(workers)):
        return tf.distribute.MultiWorkerMirroredStrategy()


def local_devices(replicas: int) -> list[str]:
    """Names of the devices of "mirrored"."""
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


def read_tf_config() -> list[str]:
    """Addresses of all workers from TF_CONFIG.

    Raises:
        ConfigError: when it is not there or not as TensorFlow documents it.
    """
    text = os.environ.get("TF_CONFIG", "")
    try:
        content = json.loads(text)
        workers, task = content["cluster"]["worker"], content["task"]
        if task["type"] != "worker" or not all(isinstance(w, str) for w in workers):
            raise ValueError
        if task["index"] not in range(len(workers)):
            raise ValueError
    except (ValueError, KeyError, TypeError, IndexError):
        raise ConfigError(
            f"--strategy multiworker: received TF_CONFIG={text!r}, expected "
            '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", '
            '"index": 0}}; on one machine: python -m gan launch --workers 2 -- ...'
        ) from None
    return list(workers)


@contextmanager
def patience(num_workers: int) -> Iterator[None]:
    """Ends the process when the other workers do not come in time.

    TensorFlow would wait for more than ten minutes, holding the interpreter's lock, so
    that no thread or handler of this process can end it.
    """
    given = os.environ.get(START_TIMEOUT, DEFAULT_START_TIMEOUT)
    try:
        seconds = float(given)
    except ValueError:
        raise ConfigError(
            f"{START_TIMEOUT}: received {given!r}, expected seconds"
        ) from None
    text = (
        f"error: not all of {num_workers} workers were there after {seconds:g} s; "
        "start them all again: the same command continues the run\n"
    )
    arguments = [str(os.getpid()), str(seconds), text]
    watch = subprocess.Popen([sys.executable, "-S", "-c", WATCH, *arguments])
    try:
        yield
    finally:
        watch.kill()
        watch.wait()


def check_fits(config: Config, strategy: tf.distribute.Strategy) -> None:
    """Refuses what one device can do and several cannot.

    Raises:
        ConfigError: for a batch that has no equal parts, or for XLA.
    """
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
    """The images or latents of the calling replica: equal, consecutive parts."""
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
    """Sums what each replica computed; the sums are where `variables` are."""
    pairs = [(v, variable.value) for v, variable in zip(values, variables, strict=True)]
    return list(strategy.extended.batch_reduce_to(tf.distribute.ReduceOp.SUM, pairs))


def one_copy(strategy: tf.distribute.Strategy, values: Sequence[Any]) -> list[Any]:
    """Of values that all devices hold, those of the first device here."""
    return [strategy.experimental_local_results(value)[0] for value in values]


class Processes:
    """The processes that train together, one unless the strategy is "multiworker".

    Attributes:
        count: how many.
        is_chief: whether this one owns the run folder.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        """Looks up who there is."""
        resolver = strategy.cluster_resolver
        self.count = resolver.cluster_spec().num_tasks("worker") if resolver else 1
        self.rank = resolver.task_id if resolver else 0
        self.is_chief = self.rank == 0
        self._strategy = strategy
        self._max = tf.function(lambda codes: tf.reduce_max(self._sum(codes)))

    def share(self, variables: Sequence[tf.Variable]) -> None:
        """Gives every process the chief's values, bit for bit.

        Only the chief reads checkpoints: no file system has to be shared. Sums of
        integers, all but the chief's being 0, keep the bits of any number.
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

    def agree(self, stop: tuple[str, int] | None) -> tuple[str, int] | None:
        """Makes the wish of one process, in words and exit code, the wish of all.

        Also a barrier: it returns when all processes have come.
        """
        if self.count == 1:
            return stop
        code = stop[1] + 1 if stop else 0
        codes = tf.one_hot(self.rank, self.count, code, 0, dtype=tf.int32)
        if most := int(self._max(codes)):
            return stop or ("stopped by another worker", most - 1)
        return None

    def _sum(self, value: tf.Tensor) -> tf.Tensor:
        """Sums one int32 tensor a process over all processes."""
        each = self._strategy.num_replicas_in_sync // self.count

        def bring() -> tf.Tensor:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            return value * tf.cast(replica % each == 0, tf.int32)  # once a process

        return self._strategy.reduce("SUM", self._strategy.run(bring), axis=None)
