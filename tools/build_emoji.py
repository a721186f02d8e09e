"""Builds the bundled emoji from the npm package `emoji-datasource-google`.

A maintainer has run it once, from the project's root: `python -m tools.build_emoji`.
It needs npm, or the package's archive as an argument. Training does not need it.
"""

import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

import click
import numpy as np

from gan.data.dataset import EMOJI_FILE
from gan.data.files import read_picture
from gan.data.images import fit_image
from tools.build_fashion_mnist import write_npz

PACKAGE = "emoji-datasource-google@16.0.0"
ARCHIVE_SHA256 = "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"
ARRAYS_SHA256 = "8f645e95023b3ad1196351402f4689e37b5fa48f2fb453a0558925254daa4765"
PICTURES = "package/img/google/64/"
WHITE = (255, 255, 255)


def download(folder: Path) -> Path:
    """Downloads the archive with npm."""
    command = ["npm", "pack", PACKAGE, f"--pack-destination={folder}"]
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        raise click.ClickException(f"npm cannot download {PACKAGE}: {error}") from error
    return next(folder.glob("*.tgz"))


def read_archive(path: Path) -> dict[str, np.ndarray]:
    """Reads the emoji in the order of their code points, over white.

    Returns:
        images: uint8 (N, 64, 64, 3).
        labels: uint8 (N,), indices of `categories`.
        skin_tones: bool (N,), whether an image is a skin-tone variant of another one.
        categories: the names of the categories, in alphabetical order.
    """
    with tarfile.open(path) as archive:  # in one pass: going back would decompress anew
        files = {
            member.name: stream.read()
            for member in archive
            if member.name == "package/emoji.json" or member.name.startswith(PICTURES)
            if (stream := archive.extractfile(member))
        }
    rows = []
    for emoji in json.loads(files["package/emoji.json"]):
        variants = emoji.get("skin_variations", {}).values()
        for item in [emoji, *variants]:
            code_points = [int(code, 16) for code in item["unified"].split("-")]
            is_variant = item is not emoji
            rows.append((code_points, item["image"], emoji["category"], is_variant))
    rows.sort()
    images = []
    for _, name, _, _ in rows:
        picture = read_picture(io.BytesIO(files[PICTURES + name]), WHITE)
        images.append(fit_image(picture, 64, 3, "crop"))  # grey pictures become RGB
    categories = sorted({category for _, _, category, _ in rows})
    labels = [categories.index(category) for _, _, category, _ in rows]
    return {
        "images": np.stack(images),
        "labels": np.array(labels, np.uint8),
        "skin_tones": np.array([is_variant for _, _, _, is_variant in rows]),
        "categories": np.array(categories),
    }


def arrays_sha256(arrays: dict[str, np.ndarray]) -> str:
    """Returns the sha256 of arrays; compressed bytes depend on the version of zlib."""
    result = hashlib.sha256()
    for name, array in arrays.items():
        result.update(f"{name} {array.dtype.str} {array.shape}".encode())
        result.update(array.tobytes())
    return result.hexdigest()


def check(what: object, received: str, expected: str) -> None:
    """Refuses a wrong sha256."""
    if received != expected:
        raise click.ClickException(f"{what}: sha256 {received}, expected {expected}")


@click.command()
@click.argument("archive", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=EMOJI_FILE)
def build(archive: Path | None, out: Path) -> None:
    """Packs the emoji of ARCHIVE (.tgz, by default downloaded) into one npz."""
    with tempfile.TemporaryDirectory() as folder:
        path = archive or download(Path(folder))
        check(path, hashlib.sha256(path.read_bytes()).hexdigest(), ARCHIVE_SHA256)
        arrays = read_archive(path)
    check("arrays", arrays_sha256(arrays), ARRAYS_SHA256)
    write_npz(out, arrays)
    click.echo(f"{out}: {len(arrays['images'])} images, {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    build()
