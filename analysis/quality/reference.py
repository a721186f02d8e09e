"""Real images and the feature net together: fakes in, scores out.

The one door to quality numbers for the command, the controls and the observer of a
running training; it loads data, while `quality` only computes.
"""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from analysis.quality import metrics
from analysis.quality.extractor import Extractor, choose
from analysis.quality.metrics import Reference
from config.schema import DataConfig
from gan.data.dataset import DataError, Dataset, digest, load_dataset

NUM_COMPARED = 1000
Scores = dict[str, float]  # see `metrics.compare`


@dataclass(frozen=True)
class Copies:
    """How near samples are to training images.

    Attributes:
        ratio: median distance of a sample to its nearest training image, divided by the
            same of real test images: about 1 for new images, 0 for copies.
        nearest: int64 (N,), each sample's nearest training image.
        distances: float64 (N,), to it.
    """

    ratio: float
    nearest: np.ndarray
    distances: np.ndarray


@dataclass(frozen=True)
class Yardstick:
    """A feature net laid against real images: what every measurement starts from.

    Attributes:
        extractor: the feature net.
        train: all real training images.
        test: all real test images.
        num_images: how many fakes one score takes, at most as many as test images.
        reference: the first `num_images` test images, prepared.
    """

    extractor: Extractor
    train: Dataset
    test: Dataset
    num_images: int
    reference: Reference

    @classmethod
    def of(cls, data: DataConfig, num_images: int, weights: Path | None = None) -> Self:
        """Loads both splits of a data set and chooses the ruler.

        Raises:
            DataError: if the images cannot be had.
            ExtractorError: see `choose`.
        """
        train, test = real_images(data)
        num_images = min(num_images, len(test.images_uint8), len(train.images_uint8))
        extractor = choose(train, test, weights)
        features = extractor.features(test.images_uint8[:num_images])
        return cls(extractor, train, test, num_images, Reference.of(features))

    def draw(self, seed: int = 0) -> np.ndarray:
        """Returns `num_images` different training images at random."""
        images = self.train.images_uint8
        rng = np.random.default_rng(seed)
        return images[rng.choice(len(images), self.num_images, replace=False)]

    def score(self, images_uint8: np.ndarray) -> Scores:
        """Returns all metrics of `num_images` images, see `metrics.compare`."""
        return metrics.compare(self.reference, self.extractor.features(images_uint8))

    def name(self, metric: str) -> str:
        """Returns the full name of a metric, see `metrics.metric_name`."""
        return metrics.metric_name(metric, self.num_images, self.extractor.id)

    @cached_property
    def spaces(self) -> dict[str, tuple[np.ndarray, float]]:
        """All training images as points, and how far test images lie from them.

        In "pixels" (grey levels) and in "features": float (K, D), and the median
        distance of the first test images to the nearest training image.
        """
        images, test = self.train.images_uint8, self.test.images_uint8[:NUM_COMPARED]
        spaces = {}
        for space, seen in self.points(images).items():
            _, distances = metrics.nearest_targets(self.points(test)[space], seen)
            spaces[space] = seen, float(np.median(distances))
        return spaces

    def points(self, images_uint8: np.ndarray) -> dict[str, np.ndarray]:
        """Returns images as points in both spaces."""
        flat = images_uint8.reshape(len(images_uint8), -1).astype(np.float32)
        return {
            "pixels": flat,
            "features": self.extractor.features(images_uint8).values,
        }

    def copies(self, images_uint8: np.ndarray) -> dict[str, Copies]:
        """Looks for copies of training images among the first 1000 images."""
        points, found = self.points(images_uint8[:NUM_COMPARED]), {}
        for space, (seen, usual) in self.spaces.items():
            nearest, distances = metrics.nearest_targets(points[space], seen)
            ratio = float(np.median(distances)) / usual
            found[space] = Copies(ratio, nearest, distances)
        return found

    def anchors(self) -> dict[str, Scores]:
        """Returns the scores that give all others their meaning.

        The floor is what real training images score; the ladder is what noise of so
        many grey levels makes of them.
        """
        images = self.draw()
        scores = {"floor": self.score(images)}
        for levels in metrics.NOISE_LADDER:
            noisy = metrics.add_noise(images, levels)
            scores[f"noise {levels}"] = self.score(noisy)
        return scores


def real_images(data: DataConfig) -> tuple[Dataset, Dataset]:
    """Loads the training and the test images of a data set, all of them.

    A set without a test split lends every sixth training image, and a note says so.
    """
    data = dataclasses.replace(data, limit=0)
    train = load_dataset(data, "train")
    try:
        return train, load_dataset(data, "test")
    except DataError:
        held_out = np.arange(len(train.images_uint8)) % 6 == 0
    note = "No test split: every sixth training image serves as test image."
    return part(train, ~held_out, "train"), part(train, held_out, "held out", note)


def part(dataset: Dataset, chosen: np.ndarray, split: str, *notes: str) -> Dataset:
    """Returns the images of a boolean selection as a data set of their own."""
    images = dataset.images_uint8[chosen]
    labels = None if dataset.labels is None else dataset.labels[chosen]
    return Dataset(dataset.name, split, images, labels, digest(images), notes)
