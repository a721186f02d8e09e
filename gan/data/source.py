"""What every reader of images returns, before the images get one size."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from config.schema import UserError


class DataError(UserError):
    """The images cannot be loaded."""


@dataclass
class Source:
    """Images of any sizes that can be read once."""

    name: str
    shapes: set[tuple[int, int, int]]  # every (height, width, channels) that occurs
    # Pairs of a uint8 image (height, width, 1 or 3) and its label.
    examples: Iterable[tuple[np.ndarray, int]]
    has_labels: bool  # whether the labels mean anything
    notes: list[str] = field(default_factory=list)
    # Names of unreadable files; it grows while `examples` is read.
    skipped: list[str] = field(default_factory=list)

    def all_notes(self) -> list[str]:
        """The notes, and one about the unreadable files; to be read at the end."""
        if not self.skipped:
            return self.notes
        # Names may hold any character, and are quoted.
        names = ", ".join(map(repr, self.skipped[:5]))
        names += ", ..." * (len(self.skipped) > 5)
        unreadable = f"Unreadable files skipped: {len(self.skipped)} ({names})."
        if any(name.lower().endswith((".heic", ".heif")) for name in self.skipped):
            unreadable += " Convert HEIC pictures to PNG or JPEG."
        return [*self.notes, unreadable]


def array_source(
    name: str, images_uint8: np.ndarray, labels: np.ndarray | None
) -> Source:
    """Wraps uint8 (N, height, width, C) images and labels (N,) that are in memory."""
    numbers = np.zeros(len(images_uint8), np.int64) if labels is None else labels
    examples = zip(images_uint8, numbers, strict=True)
    return Source(name, {images_uint8.shape[1:]}, examples, labels is not None)
