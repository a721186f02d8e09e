"""What training sees of its checkerboards."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from analysis.observers import SpectrumObserver
from gan.data.dataset import BUNDLED_FILE

CHECKER = 1 - 2 * (np.indices((28, 28, 1)).sum(axis=0) % 2)


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    with np.load(BUNDLED_FILE, allow_pickle=False) as arrays:
        return arrays["test_images"][..., np.newaxis]


@pytest.fixture(scope="module")
def observer(real: np.ndarray) -> SpectrumObserver:
    return SpectrumObserver(real, num_images=500, picture_every=2)


@pytest.fixture(scope="module")
def state() -> SimpleNamespace:
    """A generator of one balanced layer of stride 2 and one of stride 1."""
    layers = keras.layers
    stage = layers.Conv2DTranspose(
        1, 4, 2, "same", name="stage2_upsample", kernel_initializer="ones"
    )
    first = layers.Conv2DTranspose(1, 5, padding="same", name="stage1_conv")
    model = keras.Sequential([keras.Input((7, 7, 1)), first, stage])
    return SimpleNamespace(ema_generator=model)


def test_real_images_lie_in_the_band(observer, state, real: np.ndarray):
    scalars = observer.observe(0, real[-500:], state).scalars
    for family in ("last", "prev"):
        low, high = (
            scalars[f"spectrum/real_band_{family}_{side}_db"]
            for side in ("low", "high")
        )
        assert low < 0 < high
        assert low < scalars[f"spectrum/delta_pnr_{family}_db"] < high


def test_a_checkerboard_leaves_the_band(observer, state, real: np.ndarray):
    images = np.clip(real[-500:] * 0.9 + 12.75 + 4 * CHECKER, 0, 255).astype(np.uint8)
    scalars = observer.observe(250, images, state).scalars
    assert scalars["spectrum/a_last_grey_levels"] == pytest.approx(4, abs=0.6)
    high = scalars["spectrum/real_band_last_high_db"]
    assert scalars["spectrum/delta_pnr_last_db"] > high
    assert all(isinstance(value, float) for value in scalars.values())


def test_only_layers_with_a_stride_have_an_index(observer, state, real: np.ndarray):
    scalars = observer.observe(0, real[:500], state).scalars
    indices = {name: value for name, value in scalars.items() if name[:4] == "eta/"}
    assert indices == {"eta/stage2_upsample": pytest.approx(0, abs=1e-6)}


def test_pictures_come_at_their_own_pace(state, real: np.ndarray):
    observer = SpectrumObserver(real[:2000], num_images=500, picture_every=2)
    seen = [observer.observe(step, real[:500], state).pictures for step in range(3)]
    assert [len(pictures) for pictures in seen] == [1, 0, 1]
    picture = seen[0]["spectrum"]
    assert picture.dtype == np.uint8
    assert picture.ndim == 3 and picture.shape[2] == 3
    assert picture.std() > 10


def test_a_collapsed_generator_is_survived(observer, state):
    black = np.zeros((500, 28, 28, 1), np.uint8)
    scalars = observer.observe(1, black, state).scalars
    assert all(np.isfinite(value) for value in scalars.values())
