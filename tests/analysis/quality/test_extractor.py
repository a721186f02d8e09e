"""The feature network and the splits of a data set."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from scipy import ndimage

from analysis.quality import extractor
from analysis.quality.extractor import ExtractorError
from analysis.quality.metrics import frechet_distance
from analysis.quality.reference import ReferenceSet, add_noise, load_splits
from config.schema import DataConfig
from tools.train_extractor import Recipe, augmented_batches


@pytest.fixture(scope="module")
def emoji():
    """The 319 emoji that are held out, and the network that ships for them."""
    return ReferenceSet.load(DataConfig("emoji"), 319)


@pytest.fixture
def test_set(fashion_mnist):
    return fashion_mnist.test


@pytest.fixture
def shipped(fashion_mnist):
    return fashion_mnist.extractor


@pytest.fixture
def small_net():
    keras.utils.set_random_seed(0)
    return extractor.build_net((8, 8, 1), 3)


@pytest.fixture
def small_images():
    return np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)


@pytest.mark.parametrize(
    ("name", "one_image", "expected"),
    [("fashion_mnist", 1e-4, 0.92), ("emoji", 1 / 319, 0.7)],
)
def test_shipped_weights_reach_the_accuracy_on_record(
    request, name, one_image, expected
):
    real = request.getfixturevalue(name)
    probabilities = real.extractor.features(real.test.images_uint8).probabilities
    accuracy = np.mean(probabilities.argmax(axis=1) == real.test.labels)
    name, _ = extractor.SHIPPED[real.test.digest]
    record = json.loads((extractor.ASSETS / f"{name}.json").read_text())
    assert record["id"] == real.extractor.id
    assert record["test_digest"] == real.test.digest
    # Other machines round differently; that moves single images at most.
    assert accuracy == pytest.approx(record["test_accuracy"], abs=5 * one_image)
    assert accuracy >= expected


def test_scores_of_emoji_get_worse_with_noise_and_with_blur(emoji):
    """Training images are as near to new ones as those are to each other."""
    images = emoji.sample_train()
    blurred = ndimage.uniform_filter(images, (1, 3, 3, 1))
    changed = [images, add_noise(images, 26), blurred, add_noise(images, 51)]
    scores = [emoji.score(change) for change in changed]
    fcd = [score["fcd"] for score in scores]
    assert fcd == sorted(fcd) and fcd[3] > 10 * fcd[0]
    coverage = [score["coverage"] for score in scores]
    assert coverage == sorted(coverage, reverse=True) and coverage[0] > 0.93
    values = [
        emoji.extractor.features(it).values for it in (images, emoji.test.images_uint8)
    ]
    between = frechet_distance(values[0][:159], values[1][:159])
    within = [frechet_distance(it[:159], it[159:318]) for it in values]
    assert between < 1.5 * max(within)


def test_features_of_real_images_are_standardised(shipped, test_set):
    features = shipped.features(test_set.images_uint8[:2000])
    assert features.values.shape == (2000, 64)
    assert features.values.dtype == np.float64
    assert np.abs(features.values.mean(axis=0)).max() < 0.15
    assert np.abs(features.values.std(axis=0) - 1).max() < 0.15
    np.testing.assert_allclose(features.probabilities.sum(axis=1), 1)


def test_features_of_an_image_do_not_depend_on_the_batch(shipped, test_set):
    together = shipped.features(test_set.images_uint8[:501]).values
    single = shipped.features(test_set.images_uint8[500:501]).values
    np.testing.assert_allclose(together[500:], single, atol=1e-4)


def test_other_sizes_and_types_are_refused(shipped):
    for images in (np.zeros((1, 32, 32, 1), np.uint8), np.zeros((1, 28, 28, 1))):
        with pytest.raises(ExtractorError, match=r"expected uint8 of \(28, 28, 1\)"):
            shipped.features(images)


def test_a_changed_weights_file_is_refused(tmp_path, test_set):
    name, sha256 = extractor.SHIPPED[test_set.digest]
    content = bytearray((extractor.ASSETS / f"{name}.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ExtractorError, match=f"expected {sha256}"):
        extractor.load_extractor(tmp_path / "x.npz", sha256)


def test_a_foreign_file_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros(3))
    with pytest.raises(ExtractorError, match="not weights written by"):
        extractor.load_extractor(tmp_path / "x.npz")


def test_saved_weights_come_back_under_a_name_with_their_hash(
    tmp_path, small_net, small_images
):
    path = tmp_path / "tiny-v1.npz"
    extractor.save_extractor(path, small_net, small_images)
    first = extractor.load_extractor(path)
    assert first.id.startswith("tiny-v1-")
    values = extractor.run_net(small_net, small_images)["features"]
    expected = (values - values.mean(axis=0)) / values.std(axis=0)
    np.testing.assert_allclose(first.features(small_images).values, expected, atol=1e-4)
    extractor.save_extractor(path, small_net, small_images)
    assert extractor.load_extractor(path).id == first.id  # equal weights, equal id
    small_net.get_layer("features").bias.assign_add(np.ones(64))
    extractor.save_extractor(path, small_net, small_images)
    assert extractor.load_extractor(path).id != first.id


def test_a_constant_feature_keeps_a_finite_scale():
    values = np.random.default_rng(0).normal(3, 2, (1000, 64))
    values[:, 5] = 1
    mean, std = extractor.feature_scale(values)
    assert mean[5] == 1
    assert std[5] == pytest.approx(1e-3 * 2, rel=0.1)
    np.testing.assert_allclose(np.delete(std, 5), 2, rtol=0.1)


def test_images_without_trained_weights_get_random_features(images):
    # The shipped weights belong to the digest of the whole test set.
    first, again = (extractor.choose_extractor(images, images) for _ in range(2))
    assert first.id == again.id
    assert first.id.startswith("random-v1-")
    features = first.features(images.images_uint8)
    assert features.probabilities is None
    np.testing.assert_allclose(features.values.mean(axis=0), 0, atol=1e-4)
    other = dataclasses.replace(images, digest="of other images")
    assert extractor.choose_extractor(other, images).id != first.id  # another scale


def test_a_set_without_test_split_gives_some_training_images(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (60, 28, 28), np.uint8)
    np.savez(tmp_path / "own.npz", images=pictures)
    train, test = load_splits(DataConfig(str(tmp_path / "own.npz"), limit=5))
    assert (len(train.images_uint8), len(test.images_uint8)) == (50, 10)
    assert "No test split" in test.notes[0]
    both = np.concatenate([train.images_uint8, test.images_uint8])
    assert len(np.unique(both, axis=0)) == 60  # disjoint


def test_training_batches_hold_each_image_once_per_epoch(small_images):
    recipe = Recipe(epochs=1, flip=True, seed=0, batch_size=16)
    batches = augmented_batches(small_images, np.eye(40, dtype=np.float32), recipe)
    taken = [next(batches) for _ in range(3)]
    assert [len(images) for images, _ in taken] == [16, 16, 8]
    np.testing.assert_array_equal(sum(t.sum(axis=0) for _, t in taken), np.ones(40))
    images = np.concatenate([images for images, _ in taken])
    levels = (images + 1) * 127.5
    assert images.dtype == np.float32
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    assert levels.min() >= 0 and levels.max() <= 255


def test_training_batches_without_changes_are_the_images(small_images):
    recipe = Recipe(1, flip=False, seed=0, batch_size=40, shift_px=0, noise_levels=0)
    images, targets = next(
        augmented_batches(small_images, np.eye(40, dtype=np.float32), recipe)
    )
    levels = np.rint((images + 1) * 127.5).astype(np.uint8)
    np.testing.assert_array_equal(levels, small_images[targets.argmax(axis=1)])
