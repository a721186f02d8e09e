"""One tiny run, trained once and shared; settings small enough to compile quickly."""

import gc
import os
import shutil

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:  # processes that share the cores: one for each
    for name in ("TF_NUM_INTRAOP", "TF_NUM_INTEROP", "OPENBLAS_NUM"):
        os.environ.setdefault(f"{name}_THREADS", "1")

# TensorFlow's graphs are many objects that live on, and Python looks at them again and
# again: rarer searches for garbage save a tenth of the time.
gc.set_threshold(50_000, 20, 20)

import pytest

from config.loader import load_config
from config.schema import DataConfig
from gan.data.dataset import load_dataset

# 256 images and batches of 8: 32 steps an epoch. Every 5th of 12 steps is saved.
TINY = {
    "data.limit": 256,
    "model.generator_widths": [8, 8, 4],
    "model.discriminator_widths": [4, 8],
    "model.latent_dim": 8,
    "model.dropout": 0.3,
    "model.leaky_slope": 0.3,
    "train.batch_size": 8,
    "train.r1_gamma": 0.0,
    "train.num_steps": 12,
    "train.g_learning_rate": 2e-4,
    "train.d_learning_rate": 2e-4,
    "train.decay_start": 0.5,
    "run.log_every_steps": 1,
    "run.evaluate_every_steps": 6,
    "run.checkpoint_every_steps": 5,
    "run.grid_images": 9,
}


@pytest.fixture(scope="session")
def tiny():
    """A function from changed settings, `{"section.key": value}`, to a Config."""
    return lambda changes=(): load_config(flags=TINY | dict(changes))


@pytest.fixture(scope="session")
def images():
    """The first 256 images of the bundled set."""
    return load_dataset(DataConfig(limit=256))


@pytest.fixture(scope="session")
def trained(tiny, images, tmp_path_factory):
    """The folder of a finished tiny run with some contrast, to be read only."""
    from gan.run.folder import RunFolder
    from gan.training import train

    directory = tmp_path_factory.mktemp("runs") / "tiny"
    with RunFolder(directory) as folder:
        config = tiny({"model.initializer_stddev": 0.2})
        assert train(config, images, folder).step == 12
    return directory


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the tiny run, to be damaged at will."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def eagerly():
    """Runs steps without compilation: a few of them cost less than one trace."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
