"""Damaged and invented files give an error of one line or a whole result.

Examples come from a fixed seed, so that a failure is the same on every machine.
"""

import io
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from analysis.samples import SampleError, load_samples
from config.loader import from_dict, load_config, to_dict
from config.schema import Config, ConfigError, DataConfig
from gan.data.dataset import DataError, load_dataset
from gan.run import checkpoint
from gan.run.checkpoint import CheckpointError, Restored, verify
from gan.run.folder import RunError, RunRecord, read_run
from gan.run.health import Alarms
from gan.training import read_facts
from tools.build_fashion_mnist import idx_bytes

fuzz = settings(
    max_examples=150,
    deadline=None,  # every test has a timeout
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
IMAGES = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8)
DATASET = {"name": "d", "digest": "", "num_images": 3, "image_size": 8, "channels": 1}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner)
    ),
    max_leaves=8,
)


@st.composite
def damaged(draw, content):
    """The bytes with up to four replaced, and sometimes with a cut or longer end."""
    result = bytearray(content)
    places = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    for place, value in draw(st.lists(places, max_size=4)):
        result[place] = value
    cut = draw(st.just(0) | st.integers(0, len(content)))
    return bytes(result[: len(content) - cut]) + draw(st.binary(max_size=4))


def within_one_line(kinds, function, *args):
    """The result, or None after an error of one of these types and one line."""
    try:
        return function(*args)
    except kinds as error:
        assert type(error) in kinds and "\n" not in str(error), repr(error)
    return None


def check_images(path):
    """Reads a data set; the result, if there is one, is whole."""
    config = DataConfig(dataset=str(path), image_size=8)
    found = within_one_line((DataError,), load_dataset, config)
    if found:
        assert found.images_uint8.dtype == np.uint8 and len(found.images_uint8)
        assert found.images_uint8.shape[1:3] == (8, 8)
        assert found.labels is None or len(found.labels) == len(found.images_uint8)
    return found


def in_memory(write):
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


NPZ = in_memory(lambda s: np.savez(s, images=IMAGES, labels=np.arange(3)))
PACKED = in_memory(lambda s: np.savez_compressed(s, images=IMAGES))
NPY = in_memory(lambda s: np.save(s, IMAGES))


@fuzz
@given(st.sampled_from([NPZ, PACKED]).flatmap(damaged))
def test_npz(tmp_path, content):
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    check_images(path)
    found = within_one_line((DataError, SampleError), load_samples, path)
    assert found is None or found.images_uint8.dtype == np.uint8


@fuzz
@given(damaged(NPY))
def test_npy(tmp_path, content):
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    check_images(path)


@fuzz
@given(damaged(idx_bytes(IMAGES)), damaged(idx_bytes(np.arange(3, dtype=np.uint8))))
def test_idx(tmp_path, images, labels):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(images)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels)
    check_images(tmp_path)


PICTURES = [
    in_memory(lambda s, kind=kind: Image.fromarray(IMAGES[0]).save(s, kind))
    for kind in ("PNG", "GIF", "BMP", "JPEG", "TIFF", "WEBP")
]


@fuzz
@given(st.sampled_from(PICTURES).flatmap(damaged))
def test_pictures(tmp_path, content):
    """A damaged picture is skipped; the other one in the folder is always read."""
    (tmp_path / "a.png").write_bytes(PICTURES[0])
    (tmp_path / "b.any").write_bytes(content)
    found = check_images(tmp_path)
    np.testing.assert_array_equal(found.images_uint8[0, ..., 0], IMAGES[0])


TOML = b"[train]\nepochs = 2.5\njit = true\n[model]\ngenerator_widths = [8, 8, 4]\n"


@fuzz
@given(damaged(TOML))
def test_presets(tmp_path, content):
    path = tmp_path / "p.toml"
    path.write_bytes(content)
    found = within_one_line((ConfigError,), load_config, str(path))
    assert found is None or isinstance(found, Config)


@fuzz
@given(st.sampled_from(["data", "model", "train", "run", "x"]), json_values)
def test_settings(section, value):
    within_one_line((ConfigError,), from_dict, {section: value})
    for name in to_dict(Config()).get(section, {}):
        found = within_one_line((ConfigError,), from_dict, {section: {name: value}})
        assert found is None or from_dict(to_dict(found)) == found


RUN = json.dumps(RunRecord(Config(), DATASET, {}).to_json()).encode()


@fuzz
@given(damaged(RUN) | json_values.map(lambda value: json.dumps(value).encode()))
def test_run_configurations(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    found = within_one_line((RunError,), read_run, tmp_path)
    assert found is None or found.dataset["image_size"] in range(4, 1025, 4)


@pytest.fixture
def committed(tmp_path):
    """A checkpoint folder with a manifest; its files need not be TensorFlow's."""
    path = tmp_path / "step-00000005"
    path.mkdir()
    (path / "ckpt.index").write_bytes(b"index")
    files = {"ckpt.index": checkpoint.fingerprint(path / "ckpt.index")}
    manifest = {
        "step": 5,
        "files": files,
        "facts": {"alarms": Alarms("bce").state_dict()},
    }
    return path, manifest


def store(path, manifest):
    with_checksum = manifest | {"sha256": checkpoint.checksum(manifest)}
    (path / "manifest.json").write_text(json.dumps(with_checksum))


@fuzz
@given(st.data())
def test_manifests_are_read_as_written_or_not_at_all(committed, data):
    path, manifest = committed
    store(path, manifest)
    whole = (path / "manifest.json").read_bytes()
    (path / "manifest.json").write_bytes(data.draw(damaged(whole)))
    found = within_one_line((CheckpointError,), verify, path)
    assert found in (None, manifest)


@fuzz
@given(st.sampled_from(["step", "files", "facts", "alarms", "x"]), json_values)
def test_invented_manifests_with_a_right_checksum(committed, key, value):
    path, manifest = committed
    facts = {"alarms": value} if key == "alarms" else manifest["facts"]
    store(path, manifest | {"facts": facts} | ({} if key == "alarms" else {key: value}))
    found = within_one_line((CheckpointError,), verify, path)
    if found:
        restored = Restored(found["step"], found["facts"], ())
        within_one_line((CheckpointError,), read_facts, restored, Alarms("bce"))
