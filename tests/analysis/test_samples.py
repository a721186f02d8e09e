"""Images are loaded from every source; what cannot be measured is refused."""

import numpy as np
import pytest
from PIL import Image

from analysis.samples import SampleError, halves, load_reference, load_samples
from gan.data.dataset import BUNDLED_FILE, digest


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    with np.load(BUNDLED_FILE, allow_pickle=False) as arrays:
        return arrays["test_images"][:600]


def save(folder, **arrays: np.ndarray):
    path = folder / "made.npz"
    np.savez(path, **arrays)
    return path


def test_an_npz_of_uint8_is_loaded_unchanged(real: np.ndarray, tmp_path):
    samples = load_samples(save(tmp_path, images=real), num_images=550)
    assert samples.images_uint8.shape == (550, 28, 28, 1)
    assert np.array_equal(samples.images_uint8[..., 0], real[:550])
    assert (samples.name, samples.source) == ("made", "file")
    assert samples.digest == digest(samples.images_uint8)
    assert samples.notes == ("550 images; 2000 or more are advised.",)


def test_floats_are_rounded_to_uint8(real: np.ndarray, tmp_path):
    floats = (real / 127.5 - 1).astype(np.float32)
    samples = load_samples(save(tmp_path, images=floats))
    assert np.array_equal(samples.images_uint8[..., 0], real)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda real: real[:499], "received 499 images, expected at least 500"),
        (lambda real: real / 255, r"floats in \[0, 1\], expected uint8"),
        (lambda real: real.astype(float), r"floats in \[0, 255\]"),
        (lambda real: np.where(real, np.nan, -0.5), "NaN or infinite"),
        (lambda real: real.astype(np.int64), "received int64, expected uint8"),
        (lambda real: np.full_like(real, 7), "every image is constant"),
        (lambda real: real[0], r"shape \(28, 28\)"),
        (lambda real: np.stack([real] * 2, axis=-1), r"\(600, 28, 28, 2\)"),
        (lambda real: real[:0], "received 0 images"),
        (lambda real: np.array([real[0], real[1, :9], None], object), "several sizes"),
    ],
)
def test_wrong_arrays_are_refused_in_one_line(
    real: np.ndarray, tmp_path, change, message: str
):
    with pytest.raises(SampleError, match=message) as error:
        load_samples(save(tmp_path, images=change(real)))
    assert "\n" not in str(error.value)


def test_arrays_that_do_not_fit_into_memory_are_not_read(
    real: np.ndarray, tmp_path, monkeypatch
):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, images=np.zeros_like(real), others=real)
    with pytest.raises(SampleError, match="constant"):  # it is read
        load_samples(path)
    # The limit is exceeded because the file of the array has a header.
    monkeypatch.setattr("gan.files.MAX_BYTES", real.nbytes)
    with pytest.raises(SampleError, match="cannot be read .* bytes, expected at most"):
        load_samples(path)


def test_wrong_files_are_refused_in_one_line(real: np.ndarray, tmp_path):
    with pytest.raises(SampleError, match="array called images"):
        load_samples(save(tmp_path, pictures=real))
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK\x03\x04 not a zip file")
    unnamed = tmp_path / "unnamed.npz"
    with unnamed.open("wb") as stream:
        np.save(stream, real)
    for path in (broken, unnamed):
        with pytest.raises(SampleError, match="cannot be read"):
            load_samples(path)
    with pytest.raises(SampleError, match=r"expected a run, an \.npz"):
        load_samples(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SampleError, match="no run and no images"):
        load_samples(tmp_path / "empty")


def test_a_folder_is_read_in_the_order_of_names(real: np.ndarray, tmp_path):
    for index, image in enumerate(real[:520]):
        Image.fromarray(image).save(tmp_path / f"{index:04}.png")
    samples = load_samples(tmp_path, num_images=510)
    assert samples.source == "folder"
    assert np.array_equal(samples.images_uint8[..., 0], real[:510])
    Image.new("L", (30, 28)).save(tmp_path / "wide.png")
    with pytest.raises(SampleError, match=r"several sizes \(28x28x1, 28x30x1\)"):
        load_samples(tmp_path)


def test_doubtful_samples_are_noted(real: np.ndarray, tmp_path):
    same = np.repeat(real[:1], 2000, axis=0)
    assert load_samples(save(tmp_path, images=same)).notes == (
        "All images are the same one.",
    )
    some = np.resize(real, (2000, 28, 28))
    some[:3] = 5
    notes = load_samples(save(tmp_path, images=some)).notes
    assert notes == ("3 of 2000 images are constant.",)


def test_the_reference_is_fashion_mnist_unless_named(real: np.ndarray, tmp_path):
    path = save(tmp_path, images=real)
    samples = load_samples(path)
    default = load_reference(samples=samples)
    assert (default.name, len(default.images_uint8)) == ("fashion_mnist", 60_000)
    named = load_reference(str(path), samples)
    assert (named.source, named.digest) == ("file", samples.digest)
    with pytest.raises(ValueError, match="no_such_set"):
        load_reference("./no_such_set")


def test_the_reference_must_have_the_same_size(real: np.ndarray, tmp_path):
    colour = load_samples(save(tmp_path, images=np.stack([real] * 3, axis=-1)))
    with pytest.raises(SampleError, match=r"28x28 px, RGB; .* has 28x28 px, grey"):
        load_reference(samples=colour)
    small = load_samples(save(tmp_path, images=real[:, :20, :20]))
    with pytest.raises(SampleError, match=r"20x20 px, grey; .* --reference"):
        load_reference(samples=small)


def test_the_reference_of_a_run_is_its_data_set(trained):
    samples = load_samples(trained, num_images=500)
    assert samples.images_uint8.shape == (500, 28, 28, 1)
    assert samples.source == "run"
    assert samples.facts["step"] == 12
    assert samples.facts["latent_seeds"] == "0..499"
    assert samples.data is not None and samples.data.limit == 256
    with pytest.raises(SampleError, match="received 256 images"):
        load_reference(samples=samples)
    earlier = load_samples(trained, num_images=500, checkpoint="10")
    assert earlier.facts["step"] == 10
    assert earlier.digest != samples.digest


def test_halves_are_disjoint_and_mixed():
    ordered = np.arange(10)
    r1, r2 = halves(ordered)
    assert sorted([*r1, *r2]) == list(range(10))
    assert abs(r1.mean() - r2.mean()) <= 1
