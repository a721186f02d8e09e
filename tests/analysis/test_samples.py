"""Images are loaded from every source; what cannot be measured is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysis.samples import (
    SampleError,
    halves,
    load_reference,
    load_samples,
    unique_labels,
)
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
    assert "-1 and 1 are taken as black and white" in samples.notes[0]
    # With a stated range nothing is assumed; every range gives the same images.
    for black, white in ((0, 1), (0, 255), (-0.5, 0.5), (-1, 1)):
        values = black + (white - black) * (real / 255.0)
        path = save(tmp_path, images=values.astype(np.float32))
        samples = load_samples(path, value_range=(black, white))
        assert np.array_equal(samples.images_uint8[..., 0], real)
        assert len(samples.notes) == 1  # that these are few images


@pytest.mark.reported
def test_a_range_that_is_not_sure_is_asked_for(real: np.ndarray, tmp_path):
    """Values of 0 to 1 with errors of rounding below 0 are not of -1 to 1."""
    floats = real / np.float32(255)
    floats[0, 0, 0] = -1e-4
    path = save(tmp_path, images=floats)
    with pytest.raises(ValueError, match=r"floats in \[-0.0001, 1\].*--range"):
        load_samples(path)
    assert load_samples(path, value_range=(0, 1)).images_uint8.max() == 255
    with pytest.raises(ValueError, match="expected values from 0 to 0.5"):
        load_samples(path, value_range=(0, 0.5))
    for wrong in ((1, 0), (1, 1)):
        with pytest.raises(ValueError, match="expected black first"):
            load_samples(path, value_range=wrong)


@pytest.mark.reported
def test_other_layouts_of_arrays_are_read(real: np.ndarray, tmp_path):
    np.save(tmp_path / "one.npy", real)
    colour = np.repeat(real[:, np.newaxis], 3, axis=1)  # (N, 3, H, W), as in PyTorch
    expected = load_samples(save(tmp_path, images=real)).images_uint8
    assert np.array_equal(load_samples(tmp_path / "one.npy").images_uint8, expected)
    for key in ("x_train", "arr_0"):
        path = save(tmp_path, **{key: real})
        assert np.array_equal(load_samples(path).images_uint8, expected)
    samples = load_samples(save(tmp_path, images=colour))
    assert np.array_equal(samples.images_uint8, np.repeat(expected, 3, axis=3))
    assert "second axis" in samples.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda real: real[:499], "received 499 images, expected at least 500"),
        (lambda real: real / 255, r"floats in \[0, 1\], expected values from -1 to 1"),
        (lambda real: real.astype(float), r"floats in \[0, 255\]"),
        (lambda real: np.where(real, np.nan, -0.5), "NaN or infinite"),
        (lambda real: real.astype(np.int64), "type int64 .* expected uint8"),
        (lambda real: np.full_like(real, 7), "every image is constant"),
        (lambda real: real[0], r"shape \(28, 28\)"),
        (lambda real: np.stack([real] * 2, axis=-1), r"\(600, 28, 28, 2\)"),
        (lambda real: real[:0], "0 bytes, expected 1 to"),
        (lambda real: np.array([real[0], real[1, :9], None], object), "cannot be read"),
    ],
)
def test_wrong_arrays_are_refused_in_one_line(
    real: np.ndarray, tmp_path, change, message: str
):
    with pytest.raises(ValueError, match=message) as error:
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
    monkeypatch.setattr("gan.data.files.MAX_BYTES", real.nbytes)
    with pytest.raises(ValueError, match="images exceeds .* bytes"):
        load_samples(path)


def test_wrong_files_are_refused_in_one_line(real: np.ndarray, tmp_path):
    with pytest.raises(ValueError, match="received pictures, expected .* images"):
        load_samples(save(tmp_path, pictures=real))
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK\x03\x04 not a zip file")
    unnamed = tmp_path / "unnamed.npz"
    with unnamed.open("wb") as stream:
        np.save(stream, real)
    for path in (broken, unnamed):
        with pytest.raises(ValueError, match="cannot be read"):
            load_samples(path)
    with pytest.raises(ValueError, match=r"expected a folder of images, an \.npz"):
        load_samples(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SampleError, match="no image found"):
        load_samples(tmp_path / "empty")


def test_a_folder_is_read_in_the_order_of_names(real: np.ndarray, tmp_path):
    for index, image in enumerate(real[:520]):
        Image.fromarray(image).save(tmp_path / f"{index:04}.png")
    samples = load_samples(tmp_path, num_images=510)
    assert samples.source == "folder"
    assert np.array_equal(samples.images_uint8[..., 0], real[:510])
    Image.new("L", (30, 28)).save(tmp_path / "wide.png")
    with pytest.raises(SampleError, match=r"of 2 sizes \(28x28, 28x30\)"):
        load_samples(tmp_path)


@pytest.mark.reported
def test_pictures_are_measured_as_they_are_trained_on(real: np.ndarray, tmp_path):
    """An unreadable file is named, a turned picture upright, grey becomes colour."""
    colour = np.repeat(real[:520, 2:, :, np.newaxis], 3, axis=3)  # 26 x 28
    for index, image in enumerate(colour):
        Image.fromarray(image).save(tmp_path / f"{index:04}.png")
    (tmp_path / "0000.png").write_bytes(b"no picture")
    (tmp_path / "x.HEIC").write_bytes(b"no picture either")
    Image.fromarray(colour[1, ..., 0]).save(tmp_path / "0001.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = Image.fromarray(np.rot90(colour[2]))
    turned.save(tmp_path / "0002.png", exif=exif)
    samples = load_samples(tmp_path)
    assert np.array_equal(samples.images_uint8, colour[1:])
    unreadable = "Unreadable files skipped: 2 ('0000.png', 'x.HEIC'). Convert HEIC "
    assert unreadable + "pictures to PNG or JPEG." in samples.notes
    assert "Grey pictures among colour ones are taken as colour." in samples.notes


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


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (["/runs/a", "/runs/b"], ["a", "b"]),
        (["/x/runs/a", "/y/runs/a", "/y/runs/b"], ["x/runs/a", "y/runs/a", "y/runs/b"]),
        (["/runs/a", "/runs/a", "/runs/b"], ["a (1)", "a (2)", "b"]),
        (["a", "/runs/a"], ["a", "runs/a"]),  # "a" is an array in memory
        (["/a", "/b/a"], ["/a", "b/a"]),
        (["a", "a"], ["a (1)", "a (2)"]),
    ],
)
def test_a_source_is_called_as_its_folder(paths, labels):
    facts = [
        {"name": Path(path).name} | ({"path": path} if "/" in path else {})
        for path in paths
    ]
    assert unique_labels(facts) == labels
