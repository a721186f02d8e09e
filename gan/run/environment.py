"""What decides the bits of a run besides its configuration."""

import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def describe(replicas: int = 1) -> dict[str, Any]:
    """Versions, devices and numerics on which a bit-exact resume depends.

    Args:
        replicas: into how many parts a batch is divided.
    """
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    return {
        "python": sys.version.split()[0],
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "device": device(),
        "replicas": replicas,
        "threads": threads or len(os.sched_getaffinity(0)),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
        "xla_flags": os.environ.get("XLA_FLAGS", "default"),
        "processor": processor(),
    }


def device() -> str:
    """Model of each GPU, else "CPU": another one rounds in other places."""
    found = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in found]
    return ", ".join(d.get("device_name", "GPU") for d in details) or "CPU"


def processor() -> str:
    """Model name of the CPU, on whose vector units kernels are chosen."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    return names[0].strip() if names else platform.machine()


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """One line for each fact that was recorded and is different now."""
    return [
        f"{key}: {old[key]} -> {new[key]}"
        for key in new
        if key in old and old[key] != new[key]
    ]


def peak_memory_bytes() -> int:
    """Peak memory of the GPU, where there is one, else of this process."""
    if tf.config.list_physical_devices("GPU"):
        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
