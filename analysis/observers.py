"""Observers that `train.py` gives to the training loop: checkerboard and quality.

They see few samples, so their numbers are less exact than those of `python -m analysis
spectra` and `python -m analysis quality`, which measure results.
"""

import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from analysis.checkerboard.figures import draw_spectra
from analysis.checkerboard.kernels import imbalance
from analysis.checkerboard.meter import content_power, fit_gain, fit_line
from analysis.checkerboard.moments import Moments, measure_moments
from analysis.figures import to_pixels
from analysis.quality.metrics import (
    SMALLEST_NUM_IMAGES,
    compute_scores,
    copies_ratio,
    metric_name,
    nearest_targets,
)
from analysis.quality.pyramid import NUM_BLOCKS, coarse_points, patch_distances
from analysis.quality.reference import ReferenceSet
from config.schema import Config, DataConfig, UserError
from config.sizes import strides
from gan.data.dataset import Dataset
from gan.evaluation import Observation, Observer
from gan.files import counted

MIN_OBSERVED = 24  # images; the quality of fewer cannot be told
MAX_REAL = 10_000  # images behind the band of the checkerboard
MAX_TRAIN = 60_000  # images among which copies are searched
NUM_DIRECTIONS = 128  # a quarter of those of a result; 3 s for 1000 RGB images of 64 px
LOGGED_SCORES = (
    *("fcd", "kcd", "density", "coverage"),
    *("diversity", "duplicates", "class_tv", "num_classes"),
)
# From step 500 on, samples of a default run have all classes and a diversity above
# 0.45. With networks of an eighth of its widths they have 7 classes and a diversity of
# 0.4. The class_tv of both stays near 0.4 for long, so no alarm depends on it.
MIN_CLASS_FRACTION = 0.6  # of the number of classes of real images
MIN_DIVERSITY = 0.3
MAX_DUPLICATES = 0.1


def make_observers(
    config: Config, dataset: Dataset, say: Callable[[str], None]
) -> list[Observer]:
    """Makes the observers of a run; `say` gets a sentence where one is not possible."""
    images = dataset.images_uint8
    observers: list[Observer] = []
    if len(images) < MIN_OBSERVED:
        number = counted(len(images), "image")
        say(f"note: not observed: received {number}, expected at least {MIN_OBSERVED}")
        return observers
    for make in (
        lambda: CheckerboardObserver(images, strides(config.model, images.shape[1])),
        lambda: QualityObserver(config.data, say),
    ):
        try:
            observers.append(make())
        except ValueError as error:
            say(f"note: not observed: {error}")
    return observers


class CheckerboardObserver:
    """Imaging gain and fixed pattern of each upsampling, with a band, and spectra.

    The sizes include what noise adds to so few samples, and so does the band, which
    holds 95 % of what as many real images would show: real images stay inside it. Only
    frequencies off the axes are read, where real images have no such relation.
    """

    def __init__(
        self,
        real_images_uint8: np.ndarray,
        strides: tuple[int, ...],
        *,
        num_images: int = 1000,
        picture_every: int = 4,
    ) -> None:
        """Measures real images (N, H, W, C) once, at most MAX_REAL of them.

        Every `picture_every`-th evaluation has a picture of the spectra.

        Raises:
            ValueError: if every image is constant, or too small for the strides.
        """
        if not np.ptp(real_images_uint8, axis=(1, 2)).any():
            raise ValueError("every real image is constant, expected pictures")
        self.num_images, self.picture_every = num_images, picture_every
        self.num_observed = 0
        spacing = -(-len(real_images_uint8) // MAX_REAL)
        self.real = measure_moments(real_images_uint8[::spacing], strides)
        places = list(enumerate(self.real.layout.frequencies))
        self.stages = {
            stage: [k for k, f in places if f.stage == stage and not f.on_axis]
            for stage in sorted({frequency.stage for _, frequency in places})
        }
        self.bands = self._bands()

    def _bands(self) -> dict[str, float]:
        """95 % of what `num_images` real images would show, by simulation."""
        random = np.random.default_rng(0)
        scale = self.real.num_images / self.num_images
        bands = {}
        for stage, members in self.stages.items():
            for tag, fit, unit in QUANTITIES:
                squares = np.zeros(2000)
                for f in (fit(self.real, k) for k in members):
                    covariance = scale * f.covariance
                    draw = random.multivariate_normal(f.vector, covariance, 2000)
                    squares += np.einsum("ni,ij,nj->n", draw, f.metric, draw)
                size = unit(self.real, members, squares)
                for side, share in (("low", 0.025), ("high", 0.975)):
                    name = f"{tag}/real_{side}_stage{stage}"
                    bands[name] = float(np.quantile(size, share))
        return bands

    def observe(self, step: int, images_uint8: np.ndarray, state: Any) -> Observation:
        """Returns the sizes with their bands, and at times the spectra."""
        found = measure_moments(images_uint8, self.real.layout.strides)
        scalars = dict(self.bands)
        for stage, members in self.stages.items():
            for tag, fit, unit in QUANTITIES:
                fits = [fit(found, k) for k in members]
                square = sum(float(f.vector @ f.metric @ f.vector) for f in fits)
                size = unit(found, members, np.array(square))
                scalars[f"{tag}/stage{stage}"] = float(size)
        # The imbalance index of a balanced kernel is 0.
        for layer in state.ema_generator.layers:
            strided = isinstance(layer, keras.layers.Conv2DTranspose)
            if strided and max(layer.strides) > 1:
                kernel = np.asarray(layer.kernel)
                scalars[f"eta/{layer.name}"] = imbalance(kernel, layer.strides)
        pictures = {}
        if self.num_observed % self.picture_every == 0:
            title = f"step {step}, {len(images_uint8)} samples"
            layout = self.real.layout
            figure = draw_spectra(found.power, self.real.power, layout, title)
            pictures["spectrum"] = to_pixels(figure)
        self.num_observed += 1
        return Observation(scalars, pictures)


def gain_db(moments: Moments, members: list[int], square: np.ndarray) -> np.ndarray:
    """Explained power at several frequencies as a gain in dB of the content."""
    content = sum(content_power(moments, k) for k in members)
    return 10 * np.log10(np.maximum(square / max(content, 1e-12), 1e-12))


def levels(moments: Moments, members: list[int], square: np.ndarray) -> np.ndarray:
    """Root mean square of a pattern in grey levels from its square."""
    return np.sqrt(square)


# Tag of the logged scalars, how they are estimated, and their unit.
QUANTITIES = (
    ("imaging_gain_db", fit_gain, gain_db),
    ("fixed_pattern_levels", fit_line, levels),
)


class QualityObserver:
    """Quality scores, the score that chooses the best checkpoint, the collapse alarm.

    The samples are compared with a validation part of the training images, because the
    test images are kept for results. The names of the scores say so. The best
    checkpoint has the lowest FCD if the feature network was trained for these images,
    and otherwise the lowest distance of patches.
    """

    def __init__(
        self,
        data: DataConfig,
        say: Callable[[str], None] | None = None,
        *,
        num_images: int = 1000,
        first_step: int = 1000,
    ) -> None:
        """Measures two disjoint parts of all training images: reference and floor.

        The collapse alarm is raised at `first_step` at the earliest. `say` gets a
        sentence where the images are too few for the scores of features.

        Raises:
            ValueError: if the images are too few, or do not fit the feature network.
        """
        real = ReferenceSet.load(data, num_images)
        images = real.train.images_uint8
        self.num_images = min(num_images, len(images) // 2)
        if self.num_images < NUM_BLOCKS:
            raise UserError(
                f"quality: received {len(images)} training images, expected at least "
                f"{2 * NUM_BLOCKS}"
            )
        self.extractor, self.first_step = real.extractor, first_step
        order = np.random.default_rng(0).permutation(len(images))
        validation, other = order[: 2 * self.num_images].reshape(2, -1)
        self.validation_uint8 = images[validation]
        self.validation = None
        if self.num_images >= SMALLEST_NUM_IMAGES:
            self.validation = self.extractor.features(self.validation_uint8)
        elif say:
            say(
                f"note: quality: only {self.num_images} images can be compared with as "
                "many samples; without FCD and other scores of features, which need "
                f"{SMALLEST_NUM_IMAGES}"
            )
        self.floor = self.score(images[other])
        is_trained = self.validation and self.validation.probabilities is not None
        preferred = ("fcd", "swd_mean") if is_trained else ("swd_mean", "fcd")
        self.best = next((metric for metric in preferred if metric in self.floor), "")
        self.train = coarse_points(images[:: -(-len(images) // MAX_TRAIN)])
        new = coarse_points(real.test.images_uint8[:num_images])
        self.usual_distance = float(np.median(nearest_targets(new, self.train)[1]))

    def score(self, images_uint8: np.ndarray) -> dict[str, float]:
        """Returns distances of patches, and from 100 images on, `compute_scores`."""
        distances = patch_distances(
            self.validation_uint8, images_uint8, num_directions=NUM_DIRECTIONS
        )
        if not self.validation:
            return distances
        features = self.extractor.features(images_uint8)
        return compute_scores(self.validation, features) | distances

    def name(self, metric: str) -> str:
        """Returns the full name of a metric, see `metric_name`."""
        name = metric_name(metric, self.num_images, self.extractor.id)
        return f"{name}-validation"

    def observe(self, step: int, images_uint8: np.ndarray, state: Any) -> Observation:
        """Returns every score and its floor, and the ratio that finds copies."""
        scores, scalars = self.score(images_uint8), {}
        for metric, value in scores.items():
            if metric in LOGGED_SCORES or re.fullmatch("swd_.*(px|mean)", metric):
                scalars[self.name(metric)] = float(value)
                scalars[self.name(metric) + "-floor"] = float(self.floor[metric])
        _, distances = nearest_targets(coarse_points(images_uint8), self.train)
        scalars["copies/coarse"] = copies_ratio(distances, self.usual_distance)
        checked = self.validation and step >= self.first_step
        alarm = collapse(scores, self.floor) if checked else ""
        score = self.name(self.best) if self.best else ""
        return Observation(scalars, alarm=alarm, score=score)


def collapse(scores: dict[str, float], floor: dict[str, float]) -> str:
    """Returns the reasons why samples look collapsed, or an empty string."""
    reasons = []
    classes, usual = scores.get("num_classes", 0), floor.get("num_classes", 0)
    if classes < MIN_CLASS_FRACTION * usual:
        reasons.append(f"{classes} of {usual} classes are left")
    if scores["diversity"] < MIN_DIVERSITY:
        reasons.append(f"diversity is {scores['diversity']:.2f} of the real one")
    if scores["duplicates"] > MAX_DUPLICATES:
        reasons.append(f"{scores['duplicates']:.0%} of samples are near copies")
    return ", ".join(reasons)
