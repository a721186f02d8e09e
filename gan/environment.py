"""What decides the bits of a run besides its configuration."""

import os
import resource
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def describe() -> dict[str, Any]:
    """Versions, device and numerics on which a bit-exact resume depends."""
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    device = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    return {
        "python": sys.version.split()[0],
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "device": device,
        "threads": threads or len(os.sched_getaffinity(0)),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
    }


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """One line for each recorded fact that is different now."""
    return [
        f"{key}: {old.get(key)} -> {new[key]}"
        for key in new
        if old.get(key) != new[key]
    ]


def peak_memory_bytes() -> int:
    """Peak memory of the GPU, where there is one, else of this process."""
    if tf.config.list_physical_devices("GPU"):
        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
