"""Controls: the metrics, tried on changed real images whose scores are known before.

Every control runs on 1000 images, compared with a twelfth of the training images. The
slow tests repeat it on 10,000 images and all training images, as a result is measured.
"""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from analysis.quality import metrics
from analysis.quality.reference import NOISE_LEVELS, NUM_COMPARED, add_noise, subset
from config.schema import Config
from gan.data.dataset import latents
from gan.data.images import to_uint8
from gan.models import build_generator

MEMORISED_BELOW = 0.7  # ratio of distances to the nearest training image
# Classes in the order in which they are dropped. Those that resemble no other class are
# first, because images of a similar class (there are three kinds of shoes and five of
# tops) would cover for a dropped one.
DROP_ORDER = (1, 8, 9, 3, 5, 2, 0, 7, 4, 6)


@pytest.fixture(
    scope="module",
    params=[1000, pytest.param(10_000, marks=pytest.mark.slow)],
    ids="{} images".format,
)
def real(request, fashion_mnist):
    """The test images as reference set, of two sizes."""
    real = dataclasses.replace(fashion_mnist, num_images=request.param)
    if request.param < 10_000:
        some = np.arange(len(real.train.images_uint8)) % 12 == 0
        real = dataclasses.replace(real, train=subset(real.train, some, "train"))
    return real


@pytest.fixture(scope="module")
def floor(real):
    return real.score(real.sample_train())


def test_equal_sets_have_distance_0_and_full_coverage(real):
    scores = real.score(real.test.images_uint8[: real.num_images])
    assert abs(scores["fcd"]) < 1e-6
    assert scores["kcd"] <= 0
    assert scores["coverage"] == 1


def test_training_images_score_as_images_of_the_same_distribution(real, floor):
    draws = [floor] + [real.score(real.sample_train(seed)) for seed in range(1, 5)]
    median = {key: np.median([draw[key] for draw in draws]) for key in floor}
    assert abs(median["kcd"]) < 3 * median["kcd_se"]
    assert abs(median["density"] - 1) < 0.1
    expected = metrics.expected_coverage(real.num_images)
    assert abs(median["coverage"] - expected) < 0.02
    assert median["class_tv"] < 5 / np.sqrt(real.num_images)


def test_fcd_of_real_images_falls_as_one_over_n_and_kcd_is_0(real):
    values = real.extractor.features(real.sample_train(5)).values
    half = len(values) // 2
    numbers = [half // 4, half // 2, half]
    pairs = [(values[:number], values[half : half + number]) for number in numbers]
    scaled = [len(pair[0]) * metrics.frechet_distance(*pair) for pair in pairs]
    assert max(scaled) < 1.5 * min(scaled)
    kernel, error = metrics.kernel_distance(*pairs[-1])
    assert abs(kernel) < 4 * error


def box_blur(images_uint8, size_px):
    """Replaces each pixel by the mean of a square around it."""
    window = (1, size_px, size_px, 1)
    return to_levels(ndimage.uniform_filter(images_uint8.astype(np.float32), window))


def salt_and_pepper(images_uint8, fraction):
    """Sets a fraction of the pixels to 0 or 255."""
    random = np.random.default_rng(0).random(images_uint8.shape)
    result = np.where(random < fraction / 2, 0, images_uint8)
    return np.where(random > 1 - fraction / 2, 255, result).astype(np.uint8)


def black_square(images_uint8, size_px):
    """Draws a black square in the middle."""
    result = images_uint8.copy()
    top, left = ((length - size_px) // 2 for length in images_uint8.shape[1:3])
    result[:, top : top + size_px, left : left + size_px] = 0
    return result


def signs(images_uint8):
    """Returns +1 and -1 in a checkerboard, (H, W, 1)."""
    return 1.0 - 2 * (np.indices(images_uint8.shape[1:3]).sum(axis=0) % 2)[..., None]


def checkerboard(images_uint8, levels):
    """Adds a checkerboard of +-levels."""
    return to_levels(images_uint8 + levels * signs(images_uint8))


def corner_power(images_uint8):
    """Returns the mean power at the frequency (1/2, 1/2) cycles per pixel."""
    sums = np.einsum("nhwc,hwc->nc", images_uint8, signs(images_uint8))
    return np.mean(sums**2)


def to_levels(values):
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def increases(values):
    return np.all(np.diff(list(values)) > 0)


def test_degradations_do_what_their_names_say():
    grey = np.full((4, 28, 28, 1), 100, np.uint8)
    blurred = box_blur(grey, 3)
    np.testing.assert_array_equal(blurred, grey)
    hit = salt_and_pepper(np.repeat(grey, 50, axis=0), 0.04)
    assert np.mean(hit != 100) == pytest.approx(0.04, abs=0.003)
    assert set(np.unique(hit)) == {0, 100, 255}
    assert (black_square(grey, 4) == 0).sum() == 4 * 16
    checked = checkerboard(grey, 3)
    assert checked[0, :2, :2, 0].tolist() == [[103, 97], [97, 103]]
    # The sum over H*W pixels of a pattern of amplitude a is a H W.
    assert corner_power(checked) == (3 * 28 * 28) ** 2


@pytest.mark.parametrize(
    ("degrade", "strengths"),
    [
        (add_noise, (*NOISE_LEVELS, 51)),
        (box_blur, (3, 5, 7)),
        (salt_and_pepper, (0.01, 0.04, 0.16)),
        (black_square, (4, 8, 12)),
    ],
)
def test_distances_increase_with_degradation(degrade, strengths, real, floor):
    images = real.sample_train()
    scores = [floor] + [real.score(degrade(images, s)) for s in strengths]
    assert increases(s["fcd"] for s in scores)
    assert increases(s["kcd"] for s in scores)


def test_missing_classes_lower_coverage_in_proportion(real, floor):
    numbers, scores = np.array([1, 2, 4, 8]), [floor]
    for number in numbers:
        kept = np.flatnonzero(~np.isin(real.train.labels, DROP_ORDER[:number]))
        rng = np.random.default_rng(0)
        chosen = rng.choice(kept, real.num_images, replace=False)
        scores.append(real.score(real.train.images_uint8[chosen]))
    assert increases(s["fcd"] for s in scores)
    coverage = np.array([s["coverage"] for s in scores])
    decrease_per_class = (1 - coverage[1:] / coverage[0]) / numbers
    assert np.all(np.abs(decrease_per_class - 0.1) < 0.025)
    class_tv_per_class = np.array([s["class_tv"] for s in scores[1:]]) / numbers
    assert np.all(np.abs(class_tv_per_class - 0.1) < 1.5 / np.sqrt(real.num_images))


def test_repeated_images_are_duplicates_of_low_coverage(real, floor):
    """A collapsed generator makes few different images."""
    images = real.sample_train()
    scores = [real.score(np.resize(images[:k], images.shape)) for k in (1, 10, 100)]
    coverage = [s["coverage"] for s in scores]
    assert increases([*coverage, 0.5 * floor["coverage"]])
    assert scores[0]["diversity"] < 1e-6
    assert min(s["duplicates"] for s in scores) > 0.99 > 0.1 > floor["duplicates"]


def test_a_faint_checkerboard_hardly_changes_fcd(real):
    """It is obvious in a spectrum, which is why spectra are measured as well."""
    images = real.sample_train()
    marked = checkerboard(images, 3)
    fcd_of_noise = real.score(add_noise(images, 13))["fcd"]
    assert real.score(marked)["fcd"] < fcd_of_noise / 2
    assert 10 * np.log10(corner_power(marked) / corner_power(images)) > 10


def test_training_images_are_found_to_be_copies_and_test_images_are_not(real):
    copied = real.copies(real.sample_train())
    new = real.copies(real.test.images_uint8[-NUM_COMPARED:])
    for space in ("pixels", "features"):
        assert copied[space].ratio < MEMORISED_BELOW < new[space].ratio


def test_scores_get_worse_with_the_fraction_of_noise_images(real, floor):
    images, scores = real.sample_train(), [floor]
    noise = np.random.default_rng(0).integers(0, 256, images.shape, np.uint8)
    for fraction in (0.05, 0.2, 0.5):
        num_noise = int(fraction * len(images))
        mixed = np.concatenate([noise[:num_noise], images[num_noise:]])
        scores.append(real.score(mixed))
    assert increases(s["fcd"] for s in scores)
    assert increases(-s["coverage"] for s in scores)


def test_an_untrained_generator_scores_worst(real):
    config = Config().model
    noise = latents(0, 0, real.num_images, config.latent_dim)
    generated = build_generator(config).predict(noise, batch_size=250, verbose=0)
    scores = real.score(to_uint8(generated))
    assert scores["fcd"] > 10
    assert scores["coverage"] < 0.1


def test_a_blind_coverage_fails_the_controls(real, floor, monkeypatch):
    monkeypatch.setattr(metrics, "density_coverage", lambda *sets: (1.0, 0.97))
    with pytest.raises(AssertionError):
        test_repeated_images_are_duplicates_of_low_coverage(real, floor)


def test_a_biased_kernel_distance_fails_the_controls(real, monkeypatch):
    unbiased = metrics.kernel_distance

    def biased(*sets):
        value, error = unbiased(*sets)
        return value + 0.2, error

    monkeypatch.setattr(metrics, "kernel_distance", biased)
    with pytest.raises(AssertionError):
        test_equal_sets_have_distance_0_and_full_coverage(real)
    with pytest.raises(AssertionError):
        test_fcd_of_real_images_falls_as_one_over_n_and_kcd_is_0(real)
