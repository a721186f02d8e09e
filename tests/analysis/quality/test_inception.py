"""The optional Inception features, from weights that the user brings."""

import keras
import numpy as np
import pytest

from analysis.quality.extractor import ExtractorError
from analysis.quality.inception import NUM_FEATURES, load_inception
from analysis.quality.reference import Yardstick
from config.schema import DataConfig
from gan.data.images import to_float


@pytest.fixture(scope="module")
def network():
    """The real architecture with random weights: the trained ones need a download."""
    keras.utils.set_random_seed(0)
    return keras.applications.InceptionV3(
        include_top=False, weights=None, input_shape=(299, 299, 3), pooling="avg"
    )


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "inception.weights.h5"
    network.save_weights(path)
    return path


def test_features_are_those_of_the_network_on_enlarged_grey_images(
    network, weights, images
):
    extractor = load_inception(weights, (28, 28, 1))
    few = images.images_uint8[:3]
    features = extractor.features(few)
    assert features.values.shape == (3, NUM_FEATURES) and features.probabilities is None
    enlarged = keras.ops.image.resize(to_float(few), (299, 299))
    expected = np.asarray(network(np.repeat(np.asarray(enlarged), 3, axis=3)))
    np.testing.assert_allclose(features.values, expected, rtol=1e-3, atol=1e-5)
    assert extractor.id.startswith("inception_keras-") and extractor.is_large


def test_the_yardstick_takes_them_and_spares_itself_hours(weights):
    yardstick = Yardstick.of(DataConfig(), 6, weights)
    assert yardstick.name("fcd").startswith("fcd_n6/inception_keras-")
    assert set(yardstick.points(yardstick.test.images_uint8[:6])) == {"pixels"}


def test_other_files_are_refused_in_one_line(tmp_path, images):
    path = tmp_path / "strange.h5"
    path.write_bytes(b"\x89HDF no more")
    with pytest.raises(ExtractorError, match="not the weights of Keras' InceptionV3"):
        load_inception(path, (28, 28, 1))
    small = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    small.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ExtractorError, match="not the weights of Keras' InceptionV3"):
        load_inception(tmp_path / "other.weights.h5", (28, 28, 1))
