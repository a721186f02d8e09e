"""What every reader of images returns, before the images get one size.

`files.py` and `tfds.py` make a `Source`; `dataset.py` turns it into a `Dataset`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from config.schema import UserError


class DataError(UserError):
    """The images cannot be loaded; the message is one line for the user."""


@dataclass
class Source:
    """Images of any sizes that can be read once.

    Attributes:
        name: name of the data set, or of the folder or file.
        shapes: every (height, width, channels) that occurs.
        examples: pairs of a uint8 (height, width, 1 or 3) image and its label.
        has_labels: whether the labels mean anything.
        notes: one sentence for each thing that the user should know.
        skipped: names of unreadable files; grows while `examples` is read.
    """

    name: str
    shapes: set[tuple[int, int, int]]
    examples: Iterable[tuple[np.ndarray, int]]
    has_labels: bool
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def array_source(
    name: str, images_uint8: np.ndarray, labels: np.ndarray | None
) -> Source:
    """Wraps uint8 (N, height, width, C) images and labels (N,) that are in memory."""
    numbers = np.zeros(len(images_uint8), np.int64) if labels is None else labels
    examples = zip(images_uint8, numbers, strict=True)
    return Source(name, {images_uint8.shape[1:]}, examples, labels is not None)
