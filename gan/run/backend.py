"""TensorFlow, imported once, quietly and with the options that every run uses."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from config.schema import ConfigError


def prepare() -> None:
    """Imports TensorFlow and Keras.

    Raises:
        ConfigError: when Keras is told to use another backend.
        ImportError: with what TensorFlow printed, when it cannot be imported.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise ConfigError(f"KERAS_BACKEND: received {backend!r}, expected tensorflow")
    with silent_stderr():
        import keras  # noqa: F401
        import tensorflow as tf

        tf.config.list_physical_devices()  # where drivers that are not there complain
    # It tries to fuse bias and LeakyReLU of the discriminator, fails since the gradient
    # needs the sum between them, and says so on the terminal at every start.
    tf.config.optimizer.set_experimental_options({"remapping": False})


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Keeps what native code prints to file descriptor 2, and shows it on failure.

    TensorFlow writes several lines before any log level applies.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(saved, kept.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
