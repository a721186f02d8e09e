"""Image data sets of tensorflow-datasets (TFDS).

The network is checked before a download, because TFDS may wait for minutes for a host
that does not answer. TFDS stores its data in the folder that the environment variable
TFDS_DATA_DIR names, or in `~/tensorflow_datasets`.
"""

import difflib
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import tensorflow_datasets as tfds

from gan.data.source import DataError, Source

PROBE_SECONDS = 5.0
# Data sets with rows and columns swapped, as their page in the TFDS catalogue says.
STORED_TRANSPOSED = ("emnist",)


def open_tfds(name: str, split: str) -> Source:
    """Opens one split of a TFDS data set, which is downloaded first if necessary."""
    builder = find_builder(name)
    image_key, has_labels = find_features(builder)
    if not builder.info.splits:  # TFDS knows them only after the download
        download(builder)
    if split not in builder.info.splits:
        raise DataError(f"{name}: no {split} split, only {list(builder.info.splits)}")
    keys = {image_key: True} | ({"label": True} if has_labels else {})
    decoders = tfds.decode.PartialDecoding(keys)
    examples = builder.as_dataset(split=split, decoders=decoders)

    def pairs() -> Iterator[tuple[np.ndarray, int]]:
        for example in tfds.as_numpy(examples):
            image = example[image_key]
            if builder.name in STORED_TRANSPOSED:
                image = image.swapaxes(0, 1)
            yield image, int(example.get("label", 0))

    shapes = {builder.info.features[image_key].shape}
    if None in next(iter(shapes)):
        shapes = {image.shape for image, _ in pairs()}
    notes = [f"From tensorflow-datasets: {builder.info.full_name}."]
    return Source(name, shapes, pairs(), has_labels, notes)


def find_builder(name: str) -> Any:
    """Returns the builder of `name` or `name/config` from the code of TFDS."""
    # `tfds.builder` would search the cloud for an unknown name.
    base, _, config = name.partition("/")
    known = tfds.list_builders(with_community_datasets=False)
    if base in known:
        builder_class = tfds.builder_cls(base)
        if not config or config in builder_class.builder_configs:
            return builder_class(config=config or None)
        known = [base, *(f"{base}/{key}" for key in builder_class.builder_configs)]
    nearest = difflib.get_close_matches(name, known, n=3)
    raise DataError(
        f"{name!r}: neither a path nor a data set known to tensorflow-datasets"
        + (f"; nearest: {', '.join(nearest)}" if nearest else "")
    )


def find_features(builder: Any) -> tuple[str, bool]:
    """Returns the key of the images, and whether `label` holds class numbers."""
    features = dict(builder.info.features.items())
    keys = [
        key
        for key, feature in features.items()
        if isinstance(feature, tfds.features.Image)
        and feature.np_dtype == np.uint8
        and feature.shape[-1] in (1, 3)
    ]
    if "image" not in keys and len(keys) != 1:
        raise DataError(
            f"{builder.name}: not a set of single 8-bit images; its features are "
            f"{', '.join(features)}"
        )
    has_labels = isinstance(features.get("label"), tfds.features.ClassLabel)
    return "image" if "image" in keys else keys[0], has_labels


def download(builder: Any) -> None:
    """Downloads and converts a data set."""
    # TFDS takes files that are in this folder instead of downloading them.
    manual = builder.data_dir_root / "downloads" / "manual"
    missing = [
        url
        for url, info in (builder.url_infos or {}).items()
        if not (info.filename and (manual / info.filename).exists())
    ]
    if missing and not any_host_answers(missing):
        hosts = sorted({urlsplit(url).netloc for url in missing})
        raise DataError(
            f"{builder.name}: no answer from {', '.join(hosts)} within "
            f"{PROBE_SECONDS:g} s; check the network, or use the bundled fashion_mnist "
            "or a folder of images"
        )
    try:
        builder.download_and_prepare()
    except Exception as error:  # by the network, the disk, or the builder's own code
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(f"{builder.name}: cannot be prepared ({reason})") from error


def any_host_answers(urls: list[str], seconds: float = PROBE_SECONDS) -> bool:
    """Whether any host answers an HTTP HEAD request in time, be it with an error."""
    answers: queue.Queue[bool] = queue.Queue()

    def ask(host: str) -> None:
        try:
            request = urllib.request.Request(host, method="HEAD")
            urllib.request.urlopen(request, timeout=seconds).close()
        except urllib.error.HTTPError as error:
            error.close()
        except Exception:  # any other error means that there was no answer
            answers.put(False)
            return
        answers.put(True)

    hosts = {"{0.scheme}://{0.netloc}/".format(urlsplit(url)) for url in urls}
    for host in hosts:  # daemons, because a DNS query cannot be cancelled
        threading.Thread(target=ask, args=(host,), daemon=True).start()
    deadline = time.monotonic() + seconds
    for _ in hosts:
        try:
            if answers.get(timeout=max(0, deadline - time.monotonic())):
                return True
        except queue.Empty:
            return False
    return False
