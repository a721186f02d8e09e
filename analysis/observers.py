"""Observers that `train.py` gives to the training loop: spectrum and quality.

An observer gets samples at every evaluation and returns numbers and pictures for the
log. It never changes the training. It sees few samples, so its numbers are less exact
than those of `python -m analysis spectra` and `python -m analysis quality`, which
measure results.
"""

from typing import Any

import keras
import numpy as np

from analysis.checkerboard.figures import draw_spectra
from analysis.checkerboard.kernels import imbalance
from analysis.checkerboard.meter import (
    NUM_RESAMPLES,
    cell_powers,
    families,
    pnr_db,
    signed_root,
    squared_amplitudes,
)
from analysis.checkerboard.spectrum import mean_level, measure
from analysis.figures import to_pixels
from analysis.quality.metrics import compute_scores, metric_name
from analysis.quality.reference import ReferenceSet
from analysis.statistics import bootstrap_means
from config.schema import DataConfig
from gan.evaluation import Observation

FAMILIES = {1: "last", 2: "prev"}
SMALLEST_NUM_IMAGES = 100
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


class SpectrumObserver:
    """Amplitudes, delta PNR with its null band, kernel imbalance, and a picture."""

    def __init__(
        self,
        real_images_uint8: np.ndarray,
        *,
        num_images: int = 512,
        picture_every: int = 4,
        seed: int = 0,
    ) -> None:
        """Measures the real images once.

        Args:
            real_images_uint8: uint8 (N, H, W, C), N larger than `num_images`.
            num_images: samples wanted at each evaluation.
            picture_every: evaluations from one picture to the next.
            seed: of the draws that make the band.

        Raises:
            ValueError: if every image is constant, which has no spectrum.
        """
        if not np.ptp(real_images_uint8, axis=(1, 2)).any():
            raise ValueError("every real image is constant, expected pictures")
        self.num_images = num_images
        self.picture_every = picture_every
        self.num_observed = 0
        self.level = mean_level(real_images_uint8)
        self.real = measure(real_images_uint8, level=self.level)
        self.real_powers = cell_powers(self.real)
        self.real_pnr = pnr_db(self.real_powers, self.real.layout)
        self.families = families(self.real.layout)
        self.bands = self._bands(seed)

    def _bands(self, seed: int) -> dict[str, float]:
        """95 % of what `num_images` real images would show as mean delta PNR."""
        rows = self.real.rows
        # Beyond spectra.MAX_ROWS images a row sums several.
        num_rows = max(1, round(self.num_images / rows[:, -1].mean()))
        powers = bootstrap_means(rows, NUM_RESAMPLES, seed, num_rows)
        delta = pnr_db(powers, self.real.layout) - self.real_pnr
        bands = {}
        for layer, name in FAMILIES.items():
            limits = np.quantile(
                delta[:, self.families[layer]].mean(axis=1), [0.025, 0.975]
            )
            bands[f"spectrum/real_band_{name}_low_db"] = float(limits[0])
            bands[f"spectrum/real_band_{name}_high_db"] = float(limits[1])
        return bands

    def observe(self, step: int, images_uint8: np.ndarray, state: Any) -> Observation:
        """Returns scalars, and every `picture_every` times the spectrum.

        Args:
            step: number of finished steps.
            images_uint8: uint8 (num_images, H, W, C).
            state: its `ema_generator` made the images.
        """
        layout = self.real.layout
        spectrum = measure(images_uint8, level=self.level)
        powers = cell_powers(spectrum)
        squares = squared_amplitudes(powers, self.real_powers, layout)
        delta = pnr_db(powers, layout) - self.real_pnr
        scalars = dict(self.bands)
        for layer, name in FAMILIES.items():
            amplitude = signed_root(squares[self.families[layer]].sum())
            scalars[f"spectrum/a_{name}_grey_levels"] = float(amplitude)
            mean = delta[self.families[layer]].mean()
            scalars[f"spectrum/delta_pnr_{name}_db"] = float(mean)
        scalars |= imbalances(state.ema_generator)
        pictures = {}
        if self.num_observed % self.picture_every == 0:
            title = f"step {step}, {len(images_uint8)} samples"
            figure = draw_spectra(spectrum.power, self.real.power, layout, title)
            pictures["spectrum"] = to_pixels(figure)
        self.num_observed += 1
        return Observation(scalars, pictures)


def imbalances(generator: keras.Model) -> dict[str, float]:
    """Imbalance index of each transposed convolution with a stride: 0 means no line."""
    return {
        f"eta/{layer.name}": imbalance(np.asarray(layer.kernel), layer.strides)
        for layer in generator.layers
        if isinstance(layer, keras.layers.Conv2DTranspose) and max(layer.strides) > 1
    }


class QualityObserver:
    """Quality scores, the score that chooses the best checkpoint, the collapse alarm.

    The samples are compared with a validation part of the training images, because the
    test images are kept for results. The names of the scores say so.

    Attributes:
        num_images: number of samples at each evaluation.
    """

    def __init__(
        self, data: DataConfig, *, num_images: int = 1000, first_step: int = 1000
    ) -> None:
        """Measures two disjoint parts of the training images: reference and floor.

        Args:
            data: the data set of the run; all its images are used, whatever the limit.
            num_images: requested number of samples.
            first_step: first step at which the collapse alarm may be raised.

        Raises:
            ValueError: if the images are too few or the feature network cannot take
                them.
        """
        real = ReferenceSet.load(data, num_images)
        images = real.train.images_uint8
        self.num_images = min(real.num_images, len(images) // 2)
        if self.num_images < SMALLEST_NUM_IMAGES:
            raise ValueError(
                f"quality: received {len(images)} training and "
                f"{len(real.test.images_uint8)} test images, expected more than "
                f"{2 * SMALLEST_NUM_IMAGES} and {SMALLEST_NUM_IMAGES}"
            )
        self.extractor, self.first_step = real.extractor, first_step
        order = np.random.default_rng(0).permutation(len(images))
        validation, other = order[: 2 * self.num_images].reshape(2, -1)
        self.validation = self.extractor.features(images[validation])
        self.floor = self.score(images[other])

    def score(self, images_uint8: np.ndarray) -> dict[str, float]:
        """Returns all metrics of `num_images` images, see `compute_scores`."""
        return compute_scores(self.validation, self.extractor.features(images_uint8))

    def name(self, metric: str) -> str:
        """Returns the full name of a metric, see `metric_name`."""
        name = metric_name(metric, self.num_images, self.extractor.id)
        return f"{name}-validation"

    def observe(self, step: int, images_uint8: np.ndarray, state: Any) -> Observation:
        """Returns every score and its floor.

        Args:
            step: number of finished steps.
            images_uint8: uint8 (num_images, H, W, C).
            state: not used.
        """
        scores, scalars = self.score(images_uint8), {}
        for metric in LOGGED_SCORES:
            if metric in scores:
                scalars[self.name(metric)] = float(scores[metric])
                scalars[self.name(metric) + "-floor"] = float(self.floor[metric])
        alarm = collapse(scores, self.floor) if step >= self.first_step else ""
        return Observation(scalars, alarm=alarm, score=self.name("fcd"))


def collapse(scores: dict[str, float], floor: dict[str, float]) -> str:
    """Returns the reasons why samples look collapsed, or an empty string.

    Args:
        scores: scores of the samples, see `compute_scores`.
        floor: scores of real images.
    """
    reasons = []
    classes, usual = scores.get("num_classes", 0), floor.get("num_classes", 0)
    if classes < MIN_CLASS_FRACTION * usual:
        reasons.append(f"{classes} of {usual} classes are left")
    if scores["diversity"] < MIN_DIVERSITY:
        reasons.append(f"diversity is {scores['diversity']:.2f} of the real one")
    if scores["duplicates"] > MAX_DUPLICATES:
        reasons.append(f"{scores['duplicates']:.0%} of samples are near copies")
    return ", ".join(reasons)
