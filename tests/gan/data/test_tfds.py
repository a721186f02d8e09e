import http.server
import shutil
import socket
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants

from config.schema import DataConfig
from gan.data.dataset import DataError, load_dataset
from gan.data.tfds import any_host_answers, open_tfds

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian's package


class TinyShapes(tfds.core.GeneratorBasedBuilder):
    """Five 28x24 px images; image number i has an i x i white corner."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="fixed"),
        tfds.core.BuilderConfig(name="ragged"),
    ]

    def _info(self):
        height = 28 if self.builder_config.name == "fixed" else None
        image = tfds.features.Image(shape=(height, height and 24, 3))
        label = tfds.features.ClassLabel(num_classes=5)
        features = tfds.features.FeaturesDict({"image": image, "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(5):
            image = np.zeros((28, 24, 3), np.uint8)
            image[:number, : number + 1] = 255
            yield number, {"image": image, "label": number}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    # TFDS reads TFDS_DATA_DIR when it is imported.
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("tfds")
        patch.setattr(constants, "DATA_DIR", str(folder))
        yield folder


@pytest.fixture
def no_network(monkeypatch):
    """A proxy that refuses every connection, wherever the tests run."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, address)
    monkeypatch.setenv("no_proxy", "")


@pytest.mark.parametrize("config", ["fixed", "ragged"])
def test_a_builder_is_downloaded_and_loaded(data_dir, no_network, config):
    settings = DataConfig(dataset=f"tiny_shapes/{config}", fit="pad")
    train = load_dataset(settings)
    assert train.images_uint8.shape == (5, 28, 28, 3)
    assert train.images_uint8.dtype == np.uint8
    # 28x24 on 28x28: two black columns on the left.
    for image, label in zip(train.images_uint8, train.labels, strict=True):
        expected = np.zeros((28, 28, 3))
        expected[:label, 2 : label + 3] = 255
        np.testing.assert_array_equal(image, expected)
    assert sorted(train.labels) == [0, 1, 2, 3, 4]
    assert f"tiny_shapes/{config}/1.0.0" in train.notes[0]
    assert (data_dir / "tiny_shapes" / config).is_dir()
    assert load_dataset(settings).digest == train.digest
    with pytest.raises(DataError, match=r"no test split, only \['train'\]"):
        load_dataset(settings, "test")


def test_transposed_images_are_transposed_back(data_dir, monkeypatch):
    monkeypatch.setattr("gan.data.tfds.STORED_TRANSPOSED", ("tiny_shapes",))
    transposed = load_dataset(DataConfig(dataset="tiny_shapes", fit="stretch"))
    image = transposed.images_uint8[list(transposed.labels).index(4)]
    # 4 rows and 5 columns become 5 rows and 4 columns; then 24 rows are stretched to
    # 28, and 5 * 28 / 24 = 5.8.
    rows, columns = np.nonzero(image[..., 0] > 127)
    assert (rows.max() + 1, columns.max() + 1) == (6, 4)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("fashion-mnist", "fashion_mnist"),
        ("emnist/leters", "emnist/letters"),
        ("mnist:9.9.9", "mnist"),
        ("photos/cats", ""),
        ("", ""),
    ],
)
def test_an_unknown_name_gets_the_nearest_names(name, nearest):
    with pytest.raises(DataError, match="neither a path nor") as caught:
        load_dataset(DataConfig(dataset=name))
    assert nearest in str(caught.value).partition("nearest: ")[2]


@pytest.mark.parametrize("name", ["imdb_reviews", "moving_mnist"])
def test_sets_without_single_images_are_refused_before_a_download(name, no_network):
    with pytest.raises(DataError, match="not a set of single 8-bit images"):
        load_dataset(DataConfig(dataset=name))


@pytest.mark.parametrize("name", ["kmnist", "emnist/letters"])
def test_a_host_without_answer_is_an_error_of_one_line_within_seconds(
    data_dir, no_network, name
):
    start = time.monotonic()
    with pytest.raises(DataError, match="no answer from .* bundled") as caught:
        load_dataset(DataConfig(dataset=name))
    assert time.monotonic() - start < 10
    assert "\n" not in str(caught.value)


class Refuse(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_error(404)

    def log_message(self, *args):
        pass


def test_any_answer_counts_and_no_answer_ends_at_the_deadline(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    silent = socket.create_server(("127.0.0.1", 0))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    dead = f"http://127.0.0.1:{silent.getsockname()[1]}/a"
    alive = f"http://127.0.0.1:{server.server_port}/b"
    try:
        assert any_host_answers([dead, alive], seconds=5)
        start = time.monotonic()
        assert not any_host_answers([dead], seconds=0.3)
        assert time.monotonic() - start < 2
    finally:
        server.shutdown()
        server.server_close()
        silent.close()


def restore_gzip_header(source, target):
    """Writes back name and time of the original file, which the packager dropped."""
    name = source.name.removesuffix(".gz")
    seconds = 1504176606 if name.startswith("train") else 1504176627
    header = struct.pack("<2sBBIBB", b"\x1f\x8b", 8, 8, seconds, 0, 3)
    stream = source.read_bytes()
    assert stream[3] == 0  # no name: the header is the first 10 bytes
    target.write_bytes(header + name.encode() + b"\0" + stream[10:])


@pytest.mark.slow
@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="dataset-fashion-mnist absent")
def test_tfds_prepares_the_same_images_as_the_bundled_set(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path))
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    for source in FASHION_MNIST.glob("*.gz"):
        restore_gzip_header(source, manual / source.name)
    for split in ("train", "test"):
        source = open_tfds("fashion_mnist", split)
        received = sorted((image.tobytes(), label) for image, label in source.examples)
        bundled = load_dataset(DataConfig(), split)
        pairs = zip(bundled.images_uint8, bundled.labels, strict=True)
        assert received == sorted(
            (image.tobytes(), int(label)) for image, label in pairs
        )
    shutil.rmtree(tmp_path)  # 140 MB
