"""What `train.py` plugs into the loop: quality while training goes on.

A thousand samples against a validation slice of the training images: enough to choose a
checkpoint and to see a collapse. Numbers of so few images have their own names and are
no results; those come from `python -m analysis quality`, against the test images. As
every observer, it looks and never feeds back.
"""

from typing import Any

import numpy as np

from analysis.quality.metrics import Reference, compare, metric_name
from analysis.quality.reference import Scores, Yardstick
from config.schema import DataConfig
from gan.evaluation import Observation

SMALLEST_NUM_IMAGES = 100
LOGGED = (
    "fcd",
    "kcd",
    "density",
    "coverage",
    "diversity",
    "duplicates",
    "class_tv",
    "num_classes",
)
# A default run has all classes and a diversity above 0.45 from step 500 on, networks of
# an eighth of its widths 7 classes and 0.4. Both stay near a class_tv of 0.4 for long,
# so that tells nothing.
FEWEST_CLASSES = 0.6  # share of those of the real images
LOWEST_DIVERSITY = 0.3
MOST_DUPLICATES = 0.1


class QualityObserver:
    """Scores beside their floor, the score that chooses the best, the collapse alarm.

    Attributes:
        num_images: samples wanted at each evaluation.
    """

    def __init__(
        self, data: DataConfig, *, num_images: int = 1000, first_step: int = 1000
    ) -> None:
        """Measures two disjoint parts of the training images: reference and floor.

        Args:
            data: what the run is trained on; all of it is used, whatever its limit.
            num_images: at most so many samples.
            first_step: before it nothing is called a collapse.

        Raises:
            ValueError: when there are too few images, or none that the net can take.
        """
        ruler = Yardstick.of(data, num_images)
        images = ruler.train.images_uint8
        self.num_images = min(ruler.num_images, len(images) // 2)
        if self.num_images < SMALLEST_NUM_IMAGES:
            raise ValueError(
                f"quality: received {len(images)} training and "
                f"{len(ruler.test.images_uint8)} test images, expected more than "
                f"{2 * SMALLEST_NUM_IMAGES} and {SMALLEST_NUM_IMAGES}"
            )
        self.extractor, self.first_step = ruler.extractor, first_step
        order = np.random.default_rng(0).permutation(len(images))
        validation, other = order[: 2 * self.num_images].reshape(2, -1)
        self.reference = Reference.of(self.extractor.features(images[validation]))
        self.floor = self.score(images[other])

    def score(self, images_uint8: np.ndarray) -> Scores:
        """Returns all metrics of `num_images` images, see `quality.compare`."""
        return compare(self.reference, self.extractor.features(images_uint8))

    def name(self, metric: str) -> str:
        """Returns the full name of a metric: number, ruler and reference."""
        name = metric_name(metric, self.num_images, self.extractor.id)
        return f"{name}-validation"

    def observe(self, step: int, images_uint8: np.ndarray, state: Any) -> Observation:
        """Returns the scores, each with its floor.

        Args:
            step: number of finished steps.
            images_uint8: uint8 (num_images, H, W, C).
            state: not looked at.
        """
        scores, scalars = self.score(images_uint8), {}
        for metric in LOGGED:
            if metric in scores:
                scalars[self.name(metric)] = float(scores[metric])
                scalars[self.name(metric) + "-floor"] = float(self.floor[metric])
        alarm = collapse(scores, self.floor) if step >= self.first_step else ""
        return Observation(scalars, alarm=alarm, score=self.name("fcd"))


def collapse(scores: Scores, floor: Scores) -> str:
    """Says why samples look collapsed; empty: they do not.

    Args:
        scores: of the samples, see `quality.compare`.
        floor: the same of real images.
    """
    reasons = []
    classes, usual = scores.get("num_classes", 0), floor.get("num_classes", 0)
    if classes < FEWEST_CLASSES * usual:
        reasons.append(f"{classes} of {usual} classes are left")
    if scores["diversity"] < LOWEST_DIVERSITY:
        reasons.append(f"diversity is {scores['diversity']:.2f} of the real one")
    if scores["duplicates"] > MOST_DUPLICATES:
        reasons.append(f"{scores['duplicates']:.0%} of samples are near copies")
    return ", ".join(reasons)
