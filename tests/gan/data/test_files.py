import gzip
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from config.schema import ConfigError, DataConfig
from gan.data import files
from gan.data.dataset import DataError, load_dataset
from tools.build_fashion_mnist import idx_bytes


def load(path, split="train", **settings):
    return load_dataset(DataConfig(dataset=str(path), **settings), split)


def save(array_or_image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = array_or_image
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(path, **options)


def grey(level, size=28):
    return np.full((size, size), level, np.uint8)


def test_order_labels_and_skipped_files(tmp_path):
    save(grey(200), tmp_path / "b" / "1.png")
    save(grey(10), tmp_path / "a" / "2.png")
    save(grey(20), tmp_path / "a" / "deep" / "1.bmp")
    (tmp_path / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "b" / "readme.txt").write_text("not an image")
    (tmp_path / "b" / "._1.png").write_bytes(b"resource fork")
    whole = (tmp_path / "b" / "1.png").read_bytes()
    (tmp_path / "b" / "cut.png").write_bytes(whole[: len(whole) // 2])
    result = load(tmp_path)
    # By POSIX path: a/2.png, a/deep/1.bmp, b/1.png
    assert result.images_uint8[:, 0, 0, 0].tolist() == [10, 20, 200]
    assert result.labels.tolist() == [0, 0, 1]
    assert result.name == tmp_path.name
    (note,) = result.notes
    assert "3 (" in note and "._" not in note
    for name in ("a/broken.png", "b/readme.txt", "b/cut.png"):
        assert name in note
    assert load(tmp_path).digest == result.digest


def test_pictures_outside_sub_folders_leave_no_labels(tmp_path):
    save(grey(1), tmp_path / "one.png")
    save(grey(2), tmp_path / "sub" / "two.png")
    assert load(tmp_path).labels is None


def test_sixteen_bits_are_rescaled_not_clipped(tmp_path):
    levels = np.array([0, 257, 32896, 65535], np.uint16)
    save(np.tile(levels, (4, 1)), tmp_path / "16.png")
    with Image.open(tmp_path / "16.png") as picture:
        clipped = np.asarray(picture.convert("L"))
    assert clipped[0].tolist() == [0, 255, 255, 255]  # what Pillow alone does
    assert load(tmp_path).images_uint8[0, 0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("invert", [False, True])
def test_transparent_pixels_become_black(tmp_path, invert):
    pixels = np.full((8, 8, 4), 200, np.uint8)
    pixels[..., 3] = 255
    pixels[:, :4, 3] = 0
    save(pixels, tmp_path / "colour.png")
    save(Image.fromarray(pixels[..., [0, 3]], "LA"), tmp_path / "grey.png")
    images = load(tmp_path, invert=invert).images_uint8
    assert images.shape == (2, 8, 8, 3)
    assert (images[:, :, :4] == 0).all()
    assert (images[:, :, 4:] == (55 if invert else 200)).all()


@pytest.mark.parametrize("invert", [False, True])
def test_transparent_pixels_get_the_background(tmp_path, invert):
    pixels = np.full((8, 8, 4), 100, np.uint8)
    pixels[..., 3] = [0] * 3 + [51] * 2 + [255] * 3  # opacity 0, 1/5 and 1
    save(pixels, tmp_path / "colour.png")
    save(Image.fromarray(pixels[..., [0, 3]], "LA"), tmp_path / "grey.png")
    settings = {"background": "#ff8000", "invert": invert}
    colour, grey = load(tmp_path, **settings).images_uint8[:, 0].astype(int)
    assert (colour[:3] == (255, 128, 0)).all() and (
        colour[5:] == 100 + 55 * invert
    ).all()
    # A fifth of the pixel, 100 or inverted 155, and 4/5 of the background.
    between = (235, 133, 31) if invert else (224, 122, 20)
    assert abs(colour[3:5] - between).max() <= 1
    # Luma of the background: 0.299 x 255 + 0.587 x 128 = 151.4
    assert (grey[:3] == 151).all() and (grey[5:] == 100 + 55 * invert).all()


def test_a_wrong_background_is_refused_for_any_set():
    with pytest.raises(ConfigError, match="data.background: received 'whit'"):
        load("fashion_mnist", limit=1, background="whit")


def test_exif_rotation_and_cmyk(tmp_path):
    pixels = np.zeros((8, 8), np.uint8)
    pixels[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise: the upper half becomes the right half
    save(pixels, tmp_path / "1.png", exif=exif)
    cmyk = Image.new("RGB", (8, 8), (255, 0, 0)).convert("CMYK")
    save(cmyk, tmp_path / "2.jpg", quality=95)
    images = load(tmp_path).images_uint8
    assert (images[0, :, 4:] == 255).all() and (images[0, :, :4] == 0).all()
    assert abs(images[1, 4, 4].astype(int) - (255, 0, 0)).max() < 8


def test_a_decompression_bomb_is_skipped(tmp_path):
    save(grey(5), tmp_path / "good.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.new("1", (10000, 10000)).save(tmp_path / "bomb.png")
    assert "bomb.png" in load(tmp_path).notes[0]


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ([(28, 28)], 28),
        ([(128, 128)], 128),
        ([(132, 132)], 64),
        ([(30, 30)], 28),
        ([(64, 80), (90, 70)], 64),
        ([(32, 64)], 32),
        ([(10, 20)], 28),
    ],
)
def test_the_size_depends_on_the_images(tmp_path, sides, expected):
    for number, (height, width) in enumerate(sides):
        save(np.full((height, width), 99, np.uint8), tmp_path / f"{number}.png")
    result = load(tmp_path)
    assert result.images_uint8.shape == (len(sides), expected, expected, 1)
    assert bool(result.notes) == (sides != [(expected, expected)])


def test_the_number_of_channels_depends_on_the_images(tmp_path):
    save(grey(1), tmp_path / "grey.png")
    assert load(tmp_path).images_uint8.shape[3] == 1
    save(np.zeros((28, 28, 3), np.uint8), tmp_path / "colour.png")
    assert load(tmp_path).images_uint8.shape[3] == 3
    assert load(tmp_path, channels=1).images_uint8.shape[3] == 1


def test_train_and_test_sub_folders(tmp_path):
    save(grey(1), tmp_path / "train" / "cat" / "1.png")
    save(grey(2), tmp_path / "test" / "cat" / "1.png")
    assert load(tmp_path).images_uint8.max() == 1
    assert load(tmp_path, "test").images_uint8.max() == 2
    with pytest.raises(DataError, match="no test split"):
        load(tmp_path / "train", "test")


def write_idx(folder, compress):
    images = np.arange(3 * 28 * 28, dtype=np.uint8).reshape(3, 28, 28)
    labels = np.array([2, 0, 1], np.uint8)
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        content = idx_bytes(array)
        path = folder / f"train-{name}-ubyte{'.gz' if compress else ''}"
        path.write_bytes(gzip.compress(content) if compress else content)
    return images, labels


@pytest.mark.parametrize("compress", [False, True])
def test_idx_folder(tmp_path, compress):
    images, labels = write_idx(tmp_path, compress)
    result = load(tmp_path)
    np.testing.assert_array_equal(result.images_uint8[..., 0], images)
    np.testing.assert_array_equal(result.labels, labels)
    with pytest.raises(DataError, match="t10k"):
        load(tmp_path, "test")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "promises 2352 bytes, the file holds 2351"),
        (lambda content: content + b"x", "the file holds more"),
        (lambda content: content[:9], "cannot be read"),
        (lambda content: content[:8], "impossible IDX header"),
        (lambda content: b"\0\0\x0d" + content[3:], "not an IDX file"),
        (lambda content: content[:4] + b"\xff" * 12, "impossible IDX header"),
        (lambda content: content[:3] + b"\x46" + b"\0\0\0\1" * 70 + b"x", "cannot be"),
    ],
)
def test_a_damaged_idx_file_is_an_error_of_one_line(tmp_path, damage, message):
    write_idx(tmp_path, compress=False)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_a_truncated_gzip_is_an_error_of_one_line(tmp_path):
    write_idx(tmp_path, compress=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("images_key", "labels_key"),
    [("images", "labels"), ("train_images", "train_labels"), ("x_train", "y_train")],
)
def test_npz_and_npy(tmp_path, images_key, labels_key):
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    arrays = {images_key: images, labels_key: np.arange(5).reshape(5, 1)}
    np.savez(tmp_path / "all.npz", **arrays)
    np.save(tmp_path / "images.npy", images)
    packed, bare = load(tmp_path / "all.npz"), load(tmp_path / "images.npy")
    np.testing.assert_array_equal(packed.images_uint8, images)
    assert packed.digest == bare.digest and packed.name == "all"
    assert packed.labels.tolist() == [0, 1, 2, 3, 4] and bare.labels is None
    for name in ("all.npz", "images.npy"):
        with pytest.raises(DataError, match="no test split"):
            load(tmp_path / name, "test")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((2, 28, 28), np.float32)}, "floats in .*0, 0"),
        ({"images": np.zeros((2, 28, 28, 4), np.uint8)}, r"\(2, 28, 28, 4\)"),
        ({"images": np.zeros((0, 28, 28), np.uint8)}, "0 bytes"),
        ({"images": np.array([{}, {}])}, "allow_pickle"),
        ({"pictures": np.zeros((2, 28, 28), np.uint8)}, "received pictures"),
    ],
)
def test_an_unusable_npz_is_an_error_of_one_line(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "bad.npz")


@pytest.mark.reported
@pytest.mark.parametrize(
    "labels",
    [np.zeros(3, int), np.eye(2, dtype=int), np.zeros(2), np.array(["cat", "dog"])],
    ids=["three", "one-hot", "floats", "words"],
)
def test_labels_of_another_form_do_not_refuse_the_images(tmp_path, labels):
    images = np.full((2, 28, 28), 99, np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=labels)
    result = load(tmp_path / "set.npz")
    assert len(result.images_uint8) == 2 and result.labels is None
    (note,) = result.notes
    assert "labels are not used" in note and "expected 2 integers" in note


@pytest.mark.reported
@pytest.mark.parametrize("brightest", [1, 15, 63, 64])
def test_images_on_another_scale_get_a_note(tmp_path, brightest):
    np.save(tmp_path / "set.npy", np.full((2, 28, 28), brightest, np.uint8))
    notes = load(tmp_path / "set.npy").notes
    assert any(f"has level {brightest} of 255" in n for n in notes) == (brightest < 64)


@pytest.mark.reported
def test_linked_folders_are_read_and_circles_end(tmp_path):
    """Two classes, one of them a link; each has a link to where it lies."""
    for name, level in (("cats", 100), ("store/dogs", 200)):
        save(grey(level), tmp_path / name / "1.png")
    (tmp_path / "set").mkdir()
    for name in ("cats", "store/dogs"):
        (tmp_path / "set" / Path(name).name).symlink_to(tmp_path / name)
        (tmp_path / name / "up").symlink_to(tmp_path / "set")
    result = load(tmp_path / "set")
    firsts = result.images_uint8[:, 0, 0, 0].tolist()
    assert firsts == [100, 200] and result.labels.tolist() == [0, 1]
    assert load(tmp_path / "set").digest == result.digest


@pytest.mark.reported
@pytest.mark.parametrize("names", [("train", "test"), ("Training", "Testing")])
def test_splits_in_any_spelling_are_kept_apart(tmp_path, names):
    for name, level in zip(names, (100, 200), strict=True):
        save(grey(level), tmp_path / name / "c0" / "1.png")
    splits = [load(tmp_path, split=split) for split in ("train", "test")]
    assert [s.images_uint8.max() for s in splits] == [100, 200]
    assert [len(s.images_uint8) for s in splits] == [1, 1]


@pytest.mark.reported
def test_a_class_named_training_is_no_split(tmp_path):
    for name in ("Training", "Walking"):
        save(grey(100), tmp_path / name / "1.png")
    assert load(tmp_path).labels.tolist() == [0, 1]
    # With a folder `train` beside it, that is the split.
    save(grey(200), tmp_path / "train" / "1.png")
    assert load(tmp_path).images_uint8[:, 0, 0, 0].tolist() == [200]


def test_oversized_npz_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "big.npz", images=np.zeros((9, 64, 64), np.uint8))
    monkeypatch.setattr(files, "MAX_BYTES", 9 * 64 * 64)
    with pytest.raises(DataError, match="exceeds"):
        load(tmp_path / "big.npz")
    np.savez(
        tmp_path / "labels.npz",
        images=np.zeros((1, 4, 4), np.uint8),
        labels=np.zeros(9999, int),
    )
    with pytest.raises(DataError, match="labels exceeds"):
        load(tmp_path / "labels.npz")


def test_more_images_than_fit_into_memory_are_refused(tmp_path, monkeypatch):
    np.save(tmp_path / "i.npy", np.zeros((9, 8, 8), np.uint8))
    monkeypatch.setattr("gan.data.dataset.MAX_BYTES", 8 * 64)
    with pytest.raises(DataError, match="more than 8 images .* data.limit"):
        load(tmp_path / "i.npy")
    assert len(load(tmp_path / "i.npy", limit=8).images_uint8) == 8


def test_an_eps_file_is_skipped_and_ghostscript_never_runs(tmp_path, monkeypatch):
    save(grey(5), tmp_path / "good.png")
    Image.new("L", (8, 8)).save(tmp_path / "postscript.png", format="EPS")
    ran = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: ran.append(a))
    assert "postscript.png" in load(tmp_path).notes[0] and not ran


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_archive_is_an_error_of_one_line(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read") as caught:
        load(tmp_path / "bad.npz")
    assert "\n" not in str(caught.value)


def test_wrong_paths(tmp_path):
    (tmp_path / "text").write_text("x")
    with pytest.raises(DataError, match="expected a folder"):
        load(tmp_path / "text")
    for name in (tmp_path / "absent", "./absent", "~/absent", "absent.npz"):
        with pytest.raises(DataError, match="no such folder or file"):
            load(name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image found"):
        load(tmp_path / "empty")
    save(grey(9), tmp_path / "single" / "only.png")
    assert load(tmp_path / "single").images_uint8.shape == (1, 28, 28, 1)
