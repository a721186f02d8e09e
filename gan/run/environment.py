"""The software and hardware of a process.

TensorFlow is imported inside the functions, so that commands answer `--help` at once.
"""

import os
import platform
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from config.schema import ConfigError


def stop_signals() -> list[signal.Signals]:
    """Signals on which a run saves and ends.

    Batch systems send SIGUSR1 before the end of a job. A terminal that is closed sends
    SIGHUP, which `nohup` has ignored.
    """
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers


def prepare_tensorflow() -> None:
    """Imports TensorFlow and Keras with the options that every run uses."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise ConfigError(f"KERAS_BACKEND: received {backend!r}, expected tensorflow")
    with silent_stderr():
        import keras  # noqa: F401
        import tensorflow as tf

        tf.config.list_physical_devices()  # missing drivers are reported here
    # The remapper tries to fuse the bias and the LeakyReLU of the discriminator. It
    # fails, because the gradient needs the sum between them, and prints a message on
    # the terminal at every start.
    tf.config.optimizer.set_experimental_options({"remapping": False})


def usable_cores() -> list[int]:
    """Numbers of the cores that this process may use; [] where no system call tells."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return sorted(os.sched_getaffinity(0))
    return []


def run_operations_side_by_side() -> None:
    """Gives each operation of a training step one of two cores, instead of both.

    The discriminator's passes over real and over generated images do not depend on each
    other, nor do the gradients of maps and of kernels. On two cores it is faster to
    compute two such operations at the same time than to divide each of them
    (docs/performance.md), and a run gives the bits of a run on one core. TensorFlow
    decides where there are more cores, which was not measured. Call this before
    TensorFlow computes anything: later it has no effect.
    """
    import tensorflow as tf

    is_chosen = "TF_NUM_INTRAOP_THREADS" in os.environ
    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    if len(usable_cores()) == 2 and not has_gpu and not is_chosen:
        with suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(2)


def make_gpu_deterministic() -> bool:
    """Lets every operation on a GPU give equal bits each time, as those on a CPU do.

    Returns:
        Whether there is a GPU.
    """
    import tensorflow as tf

    if has_gpu := bool(tf.config.list_physical_devices("GPU")):
        tf.config.experimental.enable_op_determinism()
    return has_gpu


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Holds back what native code prints to file descriptor 2, unless the block fails.

    TensorFlow writes several lines before any log level applies.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(saved, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def describe_environment(replicas: int = 1) -> dict[str, Any]:
    """Versions, devices and options on which a bit-exact resume depends."""
    import keras
    import numpy as np
    import tensorflow as tf

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return {
        "python": sys.version.split()[0],
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "device": ", ".join(d.get("device_name", "GPU") for d in details) or "CPU",
        "replicas": replicas,
        "threads": threads or len(usable_cores()) or os.cpu_count(),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
        "xla_flags": os.environ.get("XLA_FLAGS", "default"),
        # Its vector units decide which kernels are used.
        "processor": names[0].strip() if names else platform.machine(),
    }


def peak_memory_bytes() -> int:
    """Peak memory of the GPU, or of this process where there is no GPU."""
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
