"""Images from the user's own files: a folder, IDX files, .npz or .npy."""

import gzip
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from gan.data.images import round_to_uint8
from gan.data.source import DataError, Source, array_source
from gan.files import MAX_BYTES, first_line

# Formats that Pillow decodes itself. EPS is left out: an EPS file is a program, and
# Pillow would have Ghostscript run it.
FORMATS = "AVIF BMP DIB GIF ICO JPEG JPEG2000 PCX PNG PPM QOI SGI TGA TIFF WEBP".split()
Colour = tuple[int, int, int]  # red, green and blue, 0 to 255
GREY_MODES = ("1", "L", "LA", "La", "I")


def open_path(
    path: Path,
    split: str,
    background: Colour = (0, 0, 0),
    value_range: tuple[float, float] | None = None,
) -> Source:
    """Opens a folder of pictures, a folder of IDX files, an .npz or an .npy.

    `background` is the colour put under transparent pixels of pictures; `value_range`
    has black and white in arrays of floats. None: see `floats_to_uint8`.
    """
    if path.suffix in (".npz", ".npy") and path.is_file():
        return open_arrays(path, split, value_range)
    if not path.is_dir():
        raise DataError(f"{path}: expected a folder of images, an .npz or an .npy file")
    if any(path.glob("*-images-idx3-ubyte*")):
        return open_idx(path, split)
    return open_folder(path, split, background)


def open_folder(path: Path, split: str, background: Colour) -> Source:
    """Opens all pictures below a folder, in the order of their relative POSIX paths.

    Damaged pictures are skipped and named. If all pictures lie in sub-folders, the
    sub-folders at the top are the labels, numbered in the order of their names. If
    there is a sub-folder `train`, the sub-folders `train` and `test` are the splits.
    Two sub-folders such as `Training` and `Testing` are splits as well.
    """
    # The shortest of several spellings comes last and counts.
    subfolders = sorted(filter(Path.is_dir, path.iterdir()), key=lambda f: -len(f.name))
    splits = {f.name.lower().removesuffix("ing"): f for f in subfolders}
    has_splits = (path / "train").is_dir() or {"train", "test"} <= splits.keys()
    root = splits.get(split) if has_splits else path
    if root is None or (split != "train" and not has_splits):
        raise DataError(
            f"{path}: no {split} split; expected sub-folders train and test"
        )
    files = [file.relative_to(root) for file in visible_files(root)]
    names = sorted(files, key=Path.as_posix)
    shapes, readable, skipped = set(), [], []
    for name in names:
        try:
            with open_picture(root / name) as picture:
                shapes.add((picture.height, picture.width, num_channels(picture)))
            readable.append(name)
        except Exception:  # Pillow raises many types for a damaged file
            skipped.append(name.as_posix())
    has_labels = all(len(name.parts) > 1 for name in readable)
    folders = sorted({name.parts[0] for name in readable})

    def examples() -> Iterator[tuple[np.ndarray, int]]:
        for name in readable:
            try:
                image = read_picture(root / name, background)
            except Exception:
                skipped.append(name.as_posix())
                continue
            yield image, folders.index(name.parts[0])

    return Source(path.resolve().name, shapes, examples(), has_labels, skipped=skipped)


def visible_files(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yields the files below a folder that are not hidden; follows links to folders.

    `above` are the folders on the way, into which no link leads again.
    """
    real = folder.resolve()
    if real in above:
        return
    for item in folder.iterdir():
        if item.name.startswith("."):
            continue
        if item.is_dir():
            yield from visible_files(item, (*above, real))
        elif item.is_file():
            yield item


@contextmanager
def open_picture(path: Path | BinaryIO) -> Iterator[Image.Image]:
    """Opens a picture and reads its header; decompression bombs are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=FORMATS) as picture:
            yield picture


def read_grids(paths: list[Path]) -> list[Image.Image]:
    """Reads the sample grids of a run, whose files are not trusted."""
    frames, num_bytes = [], 0
    for path in paths:
        with data_errors(path), open_picture(path) as picture:
            num_bytes += 4 * picture.width * picture.height
            if num_bytes > MAX_BYTES:
                raise ValueError("the grids do not fit into memory")
            frames.append(picture.copy())
    return frames


def num_channels(picture: Image.Image) -> int:
    """Returns 1 for a grey mode, 3 for any other."""
    return 1 if picture.mode in GREY_MODES or picture.mode.startswith("I;16") else 3


def read_picture(path: Path | BinaryIO, background: Colour) -> np.ndarray:
    """Decodes the first frame of a picture, upright, opaque: uint8 (H, W, 1 or 3)."""
    with open_picture(path) as picture:
        channels = num_channels(picture)
        picture = ImageOps.exif_transpose(picture)
        if picture.mode.startswith("I"):
            levels = np.asarray(picture).astype(np.int64)
            if levels.min() < 0 or levels.max() > 65535:
                raise ValueError("pixels outside 0..65535")
            # 16-bit pixels are rescaled, not clipped.
            return ((levels + 128) // 257).astype(np.uint8)[..., np.newaxis]
        if picture.mode == "F":
            raise ValueError("pixels without a known range")
        if picture.has_transparency_data:
            canvas = Image.new("RGBA", picture.size, (*background, 255))
            picture = Image.alpha_composite(canvas, picture.convert("RGBA"))
        pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


def open_idx(path: Path, split: str) -> Source:
    """Opens `train-*` or `t10k-*` IDX files; the file of labels may be absent."""
    prefix = path / ("train" if split == "train" else "t10k")
    labels_file = Path(f"{prefix}-labels-idx1-ubyte")
    has_labels = labels_file.exists() or Path(f"{labels_file}.gz").exists()
    labels = read_idx(labels_file) if has_labels else None
    images = read_idx(Path(f"{prefix}-images-idx3-ubyte"))
    return checked_source(path, images, labels)


def read_idx(path: Path) -> np.ndarray:
    """Reads an IDX file of unsigned bytes, or its `.gz` if only that exists.

    It holds the bytes 0, 0, 8 and the number of axes, then one big-endian uint32 per
    axis, then the elements.
    """
    compressed = path.with_name(path.name + ".gz")
    if not path.exists() and compressed.exists():
        path = compressed
    with data_errors(path):
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            magic = stream.read(4)
            if len(magic) < 4 or magic[:3] != b"\0\0\x08":
                raise DataError(f"{path}: not an IDX file of unsigned bytes")
            shape = np.frombuffer(stream.read(4 * magic[3]), ">u4").astype(object)
            num_bytes = int(shape.prod())
            if len(shape) != magic[3] or num_bytes > MAX_BYTES:
                raise DataError(f"{path}: impossible IDX header, shape {list(shape)}")
            content = stream.read(num_bytes + 1)
        if len(content) != num_bytes:
            raise DataError(
                f"{path}: its header promises {num_bytes} bytes, the file holds "
                f"{'more' if len(content) > num_bytes else len(content)}; damaged"
            )
        return np.frombuffer(content, np.uint8).reshape(list(shape))


def open_arrays(
    path: Path, split: str, value_range: tuple[float, float] | None
) -> Source:
    """Opens an .npy of images or an .npz of images and, if it has them, labels."""
    keys = [(f"{split}_images", f"{split}_labels"), (f"x_{split}", f"y_{split}")]
    if split == "train":
        keys += [("images", "labels"), ("arr_0", "arr_1")]  # the last: np.savez(x, y)
    with data_errors(path):
        if path.suffix == ".npy":
            if split != "train":
                raise DataError(f"{path}: an .npy file has no {split} split")
            images = np.load(path, mmap_mode="r", allow_pickle=False)
            return checked_source(path, images, None, value_range)
        if not zipfile.is_zipfile(path):
            raise ValueError("not an .npz archive")
        # NumPy leaves a file open that it opened itself and cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            for images_key, labels_key in keys:
                if images_key not in archive:
                    continue
                for key in {images_key, labels_key} & set(archive.files):
                    if archive.zip.getinfo(f"{key}.npy").file_size > MAX_BYTES:
                        raise DataError(f"{path}: {key} exceeds {MAX_BYTES} bytes")
                labels = archive[labels_key] if labels_key in archive else None
                images = archive[images_key]
                return checked_source(path, images, labels, value_range)
            raise DataError(
                f"{path}: no {split} split; received {', '.join(archive.files)}, "
                f"expected {' or '.join(key for key, _ in keys)}"
            )


def checked_source(
    path: Path,
    images: np.ndarray,
    labels: np.ndarray | None,
    value_range: tuple[float, float] | None = None,
) -> Source:
    """Checks type and shape of arrays that came from a file, and wraps them."""
    images, notes = array_to_uint8(images, value_range, path)
    if labels is not None and (
        labels.dtype.kind not in "iu" or labels.size != len(images)
    ):
        notes.append(
            f"The labels are not used: received type {labels.dtype} and shape "
            f"{labels.shape}, expected {len(images)} integers."
        )
        labels = None
    labels = None if labels is None else labels.reshape(-1)
    source = array_source(path.resolve().stem, images, labels)
    source.notes += notes
    return source


def array_to_uint8(
    images: np.ndarray, value_range: tuple[float, float] | None, name: Path | str
) -> tuple[np.ndarray, list[str]]:
    """Checks type and shape of an array of images; returns uint8 (N, H, W, C), notes.

    The channels may be the last axis, or the second one as in PyTorch. Errors name the
    array `name`.
    """
    notes, shape = [], images.shape
    if images.ndim == 3:
        images = images[..., np.newaxis]
    elif images.ndim == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3):
        images = np.moveaxis(images, 1, 3)
        notes.append(f"The channels are the second axis of the shape {shape}.")
    is_float = np.issubdtype(images.dtype, np.floating)
    is_image = images.ndim == 4 and images.shape[3] in (1, 3)
    if not is_image or not (is_float or images.dtype == np.uint8):
        raise DataError(
            f"{name}: received images of type {images.dtype} and shape {shape}, "
            "expected uint8 or floats, (N, height, width) or (N, height, width, 1 or 3)"
        )
    if images.nbytes > MAX_BYTES or not images.size:
        raise DataError(f"{name}: {images.nbytes} bytes, expected 1 to {MAX_BYTES}")
    if is_float:
        if value_range is None:
            notes.append("The values -1 and 1 are taken as black and white.")
        images = floats_to_uint8(images, value_range, name)
    return images, notes


def floats_to_uint8(
    images: np.ndarray, value_range: tuple[float, float] | None, name: Path | str
) -> np.ndarray:
    """Maps floats to uint8, black to 0 and white to 255; any shape.

    Without `value_range` (black, white) these are -1 and 1, if the values reach below
    -0.9. A set that does not could be one of 0 to 1 with small errors of rounding.
    """
    if not np.isfinite(images).all():
        raise DataError(f"{name}: received NaN or infinite values")
    low, high = float(images.min()), float(images.max())
    black, white = value_range or (-1.0, 1.0)
    if not black < white:
        raise DataError(
            f"{name}: received the range {black:g} {white:g}, expected black first"
        )
    slack = 0.001 * (white - black)
    is_inside = black - slack <= low and high <= white + slack
    if not is_inside or (value_range is None and low > -0.9):
        expected = f"values from {black:g} to {white:g}"
        raise DataError(
            f"{name}: received floats in [{low:.3g}, {high:.3g}], expected {expected}; "
            "convert them to uint8, or state their range where they are measured "
            "(--range BLACK WHITE, in Python value_range)"
        )
    levels = (images.astype(np.float32) - np.float32(black)) * np.float32(
        255 / (white - black)
    )
    return round_to_uint8(levels)


@contextmanager
def data_errors(path: Path) -> Iterator[None]:
    """Turns any error about a damaged file into a DataError of one line."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)})") from error
