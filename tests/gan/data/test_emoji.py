"""The bundled emoji, and the tool that builds them from the package's archive."""

import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from analysis.quality.reference import load_splits
from config.schema import DataConfig
from gan.data.dataset import EMOJI_FILE, DataError, load_dataset
from tools import build_emoji

CATEGORIES = {
    "Activities": 85,
    "Animals & Nature": 159,
    "Component": 5,
    "Flags": 270,
    "Food & Drink": 131,
    "Objects": 264,
    "People & Body": 386,
    "Smileys & Emotion": 169,
    "Symbols": 224,
    "Travel & Places": 218,
}


@pytest.fixture(scope="module")
def arrays():
    with np.load(EMOJI_FILE, allow_pickle=False) as archive:
        return dict(archive)


def test_the_file_holds_what_the_tool_checks(arrays):
    assert build_emoji.arrays_sha256(arrays) == build_emoji.ARRAYS_SHA256
    arrays["labels"][0] += 1
    assert build_emoji.arrays_sha256(arrays) != build_emoji.ARRAYS_SHA256
    arrays["labels"][0] -= 1
    assert arrays["images"].shape == (3786, 64, 64, 3)
    assert arrays["images"].dtype == np.uint8
    assert arrays["categories"].tolist() == list(CATEGORIES)
    people = arrays["labels"] == list(CATEGORIES).index("People & Body")
    assert arrays["skin_tones"].sum() == 1875
    assert people[arrays["skin_tones"]].mean() > 0.9  # others: sports, love, Santa


def test_skin_tone_variants_are_left_out_unless_asked_for(arrays):
    emoji = load_dataset(DataConfig("emoji"))
    assert emoji.name == "emoji" and emoji.images_uint8.shape == (1911, 64, 64, 3)
    assert emoji.images_uint8.flags.c_contiguous
    assert np.bincount(emoji.labels).tolist() == list(CATEGORIES.values())
    assert len({image.tobytes() for image in emoji.images_uint8}) == 1897
    np.testing.assert_array_equal(
        emoji.images_uint8, arrays["images"][~arrays["skin_tones"]]
    )
    assert "1875 skin-tone variants" in emoji.notes[0]
    whole = load_dataset(DataConfig("emoji", skin_tones=True))
    np.testing.assert_array_equal(whole.images_uint8, arrays["images"])
    assert not whole.notes and whole.digest != emoji.digest


def test_held_out_emoji_replace_the_missing_test_split():
    with pytest.raises(DataError, match="emoji: no test split"):
        load_dataset(DataConfig("emoji"), "test")
    train, test = load_splits(DataConfig("emoji", image_size=8))
    assert (len(train.images_uint8), len(test.images_uint8)) == (1592, 319)
    assert set(test.labels) <= set(range(10)) and "No test split" in test.notes[0]


def png(colour, mode="RGBA"):
    stream = io.BytesIO()
    Image.new(mode, (64, 64), colour).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A package of two emoji, the second one with a variant, whose sum is accepted."""
    hand = {"unified": "270B", "image": "270b.png", "category": "People"}
    tone = {"unified": "270B-1F3FB", "image": "270b-1f3fb.png"}
    clock = {"unified": "231A", "image": "231a.png", "category": "Objects"}
    emoji = [hand | {"skin_variations": {"1F3FB": tone}}, clock]
    files = {
        "package/emoji.json": json.dumps(emoji).encode(),
        "package/img/google/64/270b.png": png((255, 0, 0, 255)),
        "package/img/google/64/270b-1f3fb.png": png((255, 0, 0, 51)),
        "package/img/google/64/231a.png": png((50, 0), "LA"),
        "package/img/google/sheets/64.png": b"not to be read",
    }
    path = tmp_path / "package.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(build_emoji, "ARCHIVE_SHA256", digest)
    return path


def test_the_archive_is_read_in_the_order_of_code_points_and_over_white(archive):
    arrays = build_emoji.read_archive(archive)
    # The clock is transparent, the hand opaque red, its variant one fifth red.
    colours = [[255, 255, 255], [255, 0, 0], [255, 204, 204]]
    assert arrays["images"][:, 0, 0].tolist() == colours
    assert arrays["labels"].tolist() == [0, 1, 1]
    assert arrays["skin_tones"].tolist() == [False, False, True]
    assert arrays["categories"].tolist() == ["Objects", "People"]


def test_the_tool_writes_the_same_bytes_and_refuses_wrong_sums(
    archive, tmp_path, monkeypatch
):
    def build(out):
        return CliRunner().invoke(
            build_emoji.build, [str(archive), "--out", str(tmp_path / out)]
        )

    result = build("wrong.npz")
    assert result.exit_code == 1 and "Error: arrays: sha256 " in result.output
    sums = build_emoji.arrays_sha256(build_emoji.read_archive(archive))
    monkeypatch.setattr(build_emoji, "ARRAYS_SHA256", sums)
    for out in ("a.npz", "b.npz"):
        assert build(out).exit_code == 0
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    archive.write_bytes(archive.read_bytes() + b"\0")
    result = build("wrong.npz")
    assert result.exit_code == 1 and "package.tgz: sha256 " in result.output
    assert not (tmp_path / "wrong.npz").exists()
