import hashlib
import zipfile

import numpy as np
import pytest

from config.schema import DataConfig
from gan.data import dataset
from gan.data.dataset import batch_indices, latents, latents_from_seeds, load_dataset
from tools.build_fashion_mnist import ARRAYS, SHA256, idx_bytes, write_npz


def load(path, split="train", **settings):
    return load_dataset(DataConfig(dataset=str(path), **settings), split)


def test_bundled_arrays_are_the_original_files():
    with np.load(dataset.BUNDLED_FILE, allow_pickle=False) as arrays:
        for name, expected in zip(ARRAYS, SHA256.values(), strict=True):
            assert hashlib.sha256(idx_bytes(arrays[name])).hexdigest() == expected


def test_bundled_set_is_balanced_and_its_digest_stable():
    train = load("fashion_mnist")
    assert train.images_uint8.shape == (60000, 28, 28, 1)
    assert train.images_uint8.dtype == np.uint8
    assert train.images_uint8.flags.c_contiguous
    assert np.bincount(train.labels).tolist() == [6000] * 10
    assert train.digest == (
        "4cb47a6224067d8c4bd6244dd5d0ade6d790330412d7c0890edc88646d9da472"
    )
    test = load("fashion_mnist", "test")
    assert len(test.images_uint8) == 10000 and test.digest != train.digest


def test_limit_invert_and_size_change_the_digest():
    plain = load("fashion_mnist", limit=7)
    inverted = load("fashion_mnist", limit=7, invert=True)
    np.testing.assert_array_equal(inverted.images_uint8, 255 - plain.images_uint8)
    larger = load("fashion_mnist", limit=7, image_size=32, channels=3)
    assert larger.images_uint8.shape == (7, 32, 32, 3)
    assert "28 to 28 px become 32x32" in larger.notes[0]
    assert len({plain.digest, inverted.digest, larger.digest}) == 3
    reshaped = plain.images_uint8.reshape(7, 14, 56, 1)
    assert dataset.digest(reshaped) != plain.digest


def test_bytes_of_an_npz_do_not_depend_on_the_time_of_day(tmp_path):
    for name in ("a.npz", "b.npz"):
        write_npz(tmp_path / name, {"images": np.zeros((2, 4, 4), np.uint8)})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert archive.filelist[0].date_time == (1980, 1, 1, 0, 0, 0)


@pytest.mark.parametrize(
    ("num_images", "batch_size"), [(10, 3), (7, 7), (3, 8), (1, 4)]
)
def test_each_epoch_is_a_permutation(num_images, batch_size):
    batches = [batch_indices(5, s, batch_size, num_images) for s in range(num_images)]
    assert {batch.shape for batch in batches} == {(batch_size,)}
    assert {batch.dtype for batch in batches} == {np.dtype(np.int64)}
    # num_images batches of batch_size are batch_size whole epochs.
    epochs = np.concatenate(batches).reshape(batch_size, num_images)
    for epoch in epochs:
        assert sorted(epoch) == list(range(num_images))


def test_order_depends_on_seed_and_epoch_and_not_on_earlier_calls():
    first = batch_indices(0, 0, 100, 100)
    assert not np.array_equal(first, batch_indices(1, 0, 100, 100))
    assert not np.array_equal(first, batch_indices(0, 1, 100, 100))
    dataset.permutation.cache_clear()
    resumed = batch_indices(0, 7, 32, 100)
    for step in range(7):
        batch_indices(0, step, 32, 100)
    np.testing.assert_array_equal(resumed, batch_indices(0, 7, 32, 100))


def test_order_is_the_same_in_every_version():
    assert batch_indices(0, 0, 8, 8).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]


def test_latents_depend_on_seed_and_step():
    batch = latents(3, 5, 2000, 100)
    assert batch.dtype == np.float32
    np.testing.assert_array_equal(batch, latents(3, 5, 2000, 100))
    # 200,000 numbers: 5 standard deviations of the mean are 0.011, of the deviation
    # 0.008.
    assert abs(batch.mean()) < 0.011 and abs(batch.std() - 1) < 0.008
    others = [latents(3, 6, 1, 4), latents(4, 5, 1, 4), latents_from_seeds([3], 4)]
    assert len({row.tobytes() for row in [batch[:1, :4], *others]}) == 4


def test_the_latent_of_a_seed_does_not_depend_on_other_seeds():
    single = latents_from_seeds([7], 100)
    assert single.shape == (1, 100) and single.dtype == np.float32
    np.testing.assert_array_equal(latents_from_seeds(range(10), 100)[7], single[0])
    np.testing.assert_array_equal(latents_from_seeds([7, 7], 100)[1], single[0])
