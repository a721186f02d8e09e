import numpy as np
import pytest

from analysis.checkerboard.controls import prepare
from analysis.checkerboard.kernels import phase_gains
from config.schema import DataConfig
from gan.data.dataset import load_dataset


@pytest.fixture(scope="session")
def real():
    """Real images and their classes, enough for 2,500 in each half."""
    dataset = load_dataset(DataConfig(limit=5000))
    return dataset.images_uint8, dataset.labels


@pytest.fixture(scope="session")
def prepared(real):
    """These real images as the meter reads them, resolution included."""
    return prepare(real[0], (2, 2), real[1])


@pytest.fixture(scope="session")
def checker():
    """+1 and -1 in turns, (28, 28, 1)."""
    rows, columns = np.indices((28, 28))
    return (1.0 - 2 * ((rows + columns) % 2))[..., None]


@pytest.fixture(scope="session")
def fields():
    """White noise of 20 grey levels about 128: floats (3000, 28, 28, 1) in levels."""
    return np.random.default_rng(0).normal(128, 20, (3000, 28, 28, 1))


@pytest.fixture(scope="session")
def balanced():
    """A function from a kernel to one like it with equal phase gains at stride 2."""

    def change(kernel):
        kernel, gains = kernel.copy(), phase_gains(kernel, (2, 2))
        kernel[:2, :2] += gains.mean(axis=(0, 1)) - gains
        return kernel

    return change
