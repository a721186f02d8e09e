"""Scores of samples against the real images of a data set."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from analysis.quality import metrics
from analysis.quality.extractor import Extractor, choose_extractor
from analysis.quality.metrics import Features
from analysis.quality.pyramid import patch_distances
from config.schema import DataConfig
from gan.data.dataset import DataError, Dataset, digest, load_dataset
from gan.data.images import round_to_uint8

NUM_COMPARED = 1000  # images that are compared with all training images
NOISE_LEVELS = (5, 13, 26)  # standard deviations in grey levels


@dataclass(frozen=True)
class Copies:
    """Nearest training images (indices) of samples, and the distances to them.

    `ratio` is their median distance, divided by that of real test images. It is about 1
    for new images and 0 for copies.
    """

    ratio: float
    nearest: np.ndarray
    distances: np.ndarray


@dataclass(frozen=True)
class ReferenceSet:
    """The real images of a data set, and the feature network for them.

    A score compares two sets of `num_images`, at most the number of test images.
    """

    extractor: Extractor
    train: Dataset
    test: Dataset
    num_images: int

    @classmethod
    def load(
        cls, data: DataConfig, num_images: int, weights: Path | None = None
    ) -> Self:
        """Loads both splits, whole whatever the limit is, and the feature network."""
        train, test = load_splits(data)
        num_images = min(num_images, len(test.images_uint8), len(train.images_uint8))
        return cls(choose_extractor(train, test, weights), train, test, num_images)

    @cached_property
    def features(self) -> Features:
        """Features of the first `num_images` test images."""
        return self.extractor.features(self.test.images_uint8[: self.num_images])

    def score(self, images_uint8: np.ndarray) -> dict[str, float]:
        """Returns all metrics of `num_images` images, see `metrics.compute_scores`."""
        fake = self.extractor.features(images_uint8)
        return metrics.compute_scores(self.features, fake)

    def measure(self, images_uint8: np.ndarray) -> dict[str, float]:
        """Returns distances of patches, and scores of features if 100 images allow."""
        real = self.test.images_uint8[: self.num_images]
        distances = patch_distances(real, images_uint8)
        if self.num_images < metrics.SMALLEST_NUM_IMAGES:
            return distances
        return self.score(images_uint8) | distances

    def name(self, metric: str) -> str:
        """Returns the full name of a metric, see `metrics.metric_name`."""
        return metrics.metric_name(metric, self.num_images, self.extractor.id)

    def baselines(self) -> dict[str, dict[str, float]]:
        """Returns scores of real training images, the floor, and of noisy ones."""
        images = self.sample_train()
        scores = {"floor": self.measure(images)}
        for levels in NOISE_LEVELS:
            scores[f"noise {levels}"] = self.measure(add_noise(images, levels))
        return scores

    def sample_train(self, seed: int = 0) -> np.ndarray:
        """Returns `num_images` different training images at random."""
        images = self.train.images_uint8
        rng = np.random.default_rng(seed)
        return images[rng.choice(len(images), self.num_images, replace=False)]

    def copies(self, images_uint8: np.ndarray) -> dict[str, Copies]:
        """Compares 1000 images with all training images, by pixels and by features."""
        points, result = self._points(images_uint8[:NUM_COMPARED]), {}
        for space, (train, test_distance) in self._train_points.items():
            nearest, distances = metrics.nearest_targets(points[space], train)
            ratio = metrics.copies_ratio(distances, test_distance)
            result[space] = Copies(ratio, nearest, distances)
        return result

    @cached_property
    def _train_points(self) -> dict[str, tuple[np.ndarray, float]]:
        """The training images as points, and the median distance of test images."""
        test = self._points(self.test.images_uint8[:NUM_COMPARED])
        result = {}
        for space, train in self._points(self.train.images_uint8).items():
            _, distances = metrics.nearest_targets(test[space], train)
            result[space] = train, float(np.median(distances))
        return result

    def _points(self, images_uint8: np.ndarray) -> dict[str, np.ndarray]:
        """Returns images as float points (N, D), by pixels and by features."""
        return {
            "pixels": images_uint8.reshape(len(images_uint8), -1).astype(np.float32),
            "features": self.extractor.features(images_uint8).values,
        }


def add_noise(images_uint8: np.ndarray, levels: float) -> np.ndarray:
    """Adds Gaussian noise of a standard deviation in grey levels; uint8 in and out."""
    noise = np.random.default_rng(0).normal(0, levels, images_uint8.shape)
    return round_to_uint8(images_uint8 + noise)


def load_splits(data: DataConfig) -> tuple[Dataset, Dataset]:
    """Loads both splits; every sixth training image replaces a missing test split."""
    data = dataclasses.replace(data, limit=0)
    train = load_dataset(data, "train")
    try:
        return train, load_dataset(data, "test")
    except DataError:
        held_out = np.arange(len(train.images_uint8)) % 6 == 0
    note = "No test split: every sixth training image serves as test image."
    return subset(train, ~held_out, "train"), subset(train, held_out, "held out", note)


def subset(dataset: Dataset, chosen: np.ndarray, split: str, *notes: str) -> Dataset:
    """Returns the images that the boolean array `chosen` selects, as a data set."""
    images = dataset.images_uint8[chosen]
    labels = None if dataset.labels is None else dataset.labels[chosen]
    return Dataset(dataset.name, split, images, labels, digest(images), notes)
