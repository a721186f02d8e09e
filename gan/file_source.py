"""Images from the user's own files: a folder, IDX files, .npz, .npy."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from gan.data import DataError

MAX_BYTES = 4 << 30  # of one array; everything is held in memory


def read_idx(path: Path) -> np.ndarray:
    """Reads an IDX file of unsigned bytes, or its `.gz` if only that exists.

    The format: bytes 0, 0, 8 (uint8), the number of axes, then one big-endian uint32
    an axis, then the elements.

    Returns:
        uint8 array of the shape in the header.

    Raises:
        DataError: if the file is absent, damaged, or not as long as its header says.
    """
    compressed = path.with_name(path.name + ".gz")
    if not path.exists() and compressed.exists():
        path = compressed
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            magic = stream.read(4)
            if len(magic) < 4 or magic[:3] != b"\0\0\x08":
                raise DataError(f"{path}: not an IDX file of unsigned bytes")
            shape = np.frombuffer(stream.read(4 * magic[3]), ">u4").astype(object)
            num_bytes = int(shape.prod())
            if len(shape) != magic[3] or num_bytes > MAX_BYTES:
                raise DataError(f"{path}: impossible IDX header, shape {list(shape)}")
            content = stream.read(num_bytes + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read ({error})") from error
    if len(content) != num_bytes:
        raise DataError(
            f"{path}: received {len(content)} bytes or more, its header promises "
            f"{num_bytes}; the file is truncated or damaged"
        )
    return np.frombuffer(content, np.uint8).reshape([int(side) for side in shape])
