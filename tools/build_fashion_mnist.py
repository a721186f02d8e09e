"""Builds the bundled data set from the four original IDX files.

A maintainer has run it once, from the project's root:
`python -m tools.build_fashion_mnist FOLDER`. Training does not need it.
"""

import hashlib
import io
import zipfile
from pathlib import Path

import click
import numpy as np

from gan.data.dataset import BUNDLED_FILE, DataError
from gan.data.files import read_idx

# Sums of the uncompressed bytes, because packagers rewrite the gzip headers.
SHA256 = {
    "train-images-idx3-ubyte": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
    ),
    "train-labels-idx1-ubyte": (
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
    ),
    "t10k-images-idx3-ubyte": (
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
    ),
    "t10k-labels-idx1-ubyte": (
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
    ),
}
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def idx_bytes(array: np.ndarray) -> bytes:
    """Returns the IDX file of a uint8 array: magic, big-endian shape, elements."""
    magic = bytes([0, 0, 8, array.ndim])
    return magic + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes a compressed npz whose bytes do not depend on the time of day."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            stream = io.BytesIO()
            np.lib.format.write_array(stream, array, allow_pickle=False)
            archive.writestr(entry, stream.getvalue(), compresslevel=9)


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=BUNDLED_FILE)
def build(folder: Path, out: Path) -> None:
    """Packs the IDX or IDX.gz files of FOLDER into one npz."""
    arrays = {}
    for array_name, (file_name, expected) in zip(ARRAYS, SHA256.items(), strict=True):
        try:
            array = read_idx(folder / file_name)
        except DataError as error:
            raise click.ClickException(str(error)) from error
        received = hashlib.sha256(idx_bytes(array)).hexdigest()
        if received != expected:
            raise click.ClickException(
                f"{file_name}: sha256 {received}, expected {expected}"
            )
        arrays[array_name] = array
    write_npz(out, arrays)
    click.echo(f"{out}: {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    build()
