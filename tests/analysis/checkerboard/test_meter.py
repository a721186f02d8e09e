"""Readings of sets whose patterns are known, and what must not be called one."""

import math

import numpy as np
import pytest
import scipy.ndimage

from analysis.checkerboard import meter
from analysis.checkerboard.controls import (
    CORNER,
    PLANTED,
    at,
    draw,
    plant,
    prepare,
    read_images,
)
from analysis.checkerboard.meter import (
    NO_RESOLUTION,
    Fit,
    fit_gain,
    fit_line,
    read,
)
from analysis.checkerboard.moments import measure_moments
from analysis.checkerboard.nuisances import measure_resolution
from config.schema import DataConfig
from gan.data.dataset import load_dataset
from gan.data.images import to_uint8


def floats(levels):
    return (levels - 127.5) / 127.5


def read_levels(levels, fields, content=lambda noise: noise):
    """Readings of levels against content of the same kind, without rounding."""
    random = np.random.default_rng(1)
    first, second = (content(random.normal(128, 20, fields.shape)) for _ in range(2))
    sets = [measure_moments(floats(x), (2, 2)) for x in (levels, first, second)]
    return read(*sets, NO_RESOLUTION)


def smooth(noise):
    """Content without power at the grid frequencies."""
    blurred = scipy.ndimage.gaussian_filter(noise - 128, (0, 2, 2, 0), mode="wrap")
    return 128 + 7 * blurred


def test_a_pattern_that_multiplies_has_its_factor_as_gain(fields, checker):
    levels = 128 + (smooth(fields) - 128) * (1 + 0.05 * checker)
    reading = at(read_levels(levels, fields, smooth), CORNER)
    gain = reading.imaging_gain_percent
    assert gain.samples.value == pytest.approx(5, rel=0.01)
    assert gain.found
    assert not reading.fixed_pattern_levels.found


def test_content_as_strong_at_the_frequency_itself_doubles_the_gain(fields, checker):
    """White noise: X(f + a) gets e X(f), and X(f) gets e X(f + a)."""
    content = fields - 128
    reading = at(read_levels(128 + content * (1 + 0.05 * checker), fields), CORNER)
    # Noise adds 1 / sqrt(3000 x 29) = 0.3 %.
    assert reading.imaging_gain_percent.samples.value == pytest.approx(10, abs=1)


def test_a_pattern_that_adds_is_fixed_and_has_no_gain(fields, checker):
    reading = at(read_levels(fields + 2 * checker, fields), CORNER)
    assert reading.fixed_pattern_levels.samples.value == pytest.approx(2, abs=0.15)
    assert reading.fixed_pattern_levels.found
    assert not reading.imaging_gain_percent.found


def test_a_pattern_of_random_sign_is_free(fields, checker):
    signs = np.random.default_rng(2).choice([-1.0, 1.0], (len(fields), 1, 1, 1))
    reading = at(read_levels(fields + 4 * signs * checker, fields), CORNER)
    free = reading.free_pattern_levels
    assert free.samples.value == pytest.approx(4, abs=0.4)
    assert free.found
    assert not reading.imaging_gain_percent.found
    assert not reading.fixed_pattern_levels.found


def test_a_wave_at_a_quarter_reads_its_root_mean_square(fields):
    wave = 3 * np.cos(np.pi / 2 * np.arange(28))[:, None, None]  # of each row
    found = read_levels(fields + wave, fields)
    place = next(r for r in found if r.frequency.name == "(1/4, 0)")
    expected = 3 / math.sqrt(2)
    assert place.fixed_pattern_levels.samples.value == pytest.approx(expected, abs=0.2)
    assert place.frequency.stage == 2


def test_equal_sizes_of_other_phase_differ(fields):
    """|g - g_real| and not |g| - |g_real| decides."""
    turns = np.arange(28)
    one, other = (
        fields + 3 * np.cos(np.pi / 2 * turns + phase)[:, None, None]
        for phase in (0, np.pi / 2)
    )
    first, second = (measure_moments(floats(x), (2, 2)) for x in (one, other))
    k = [f.name for f in first.layout.frequencies].index("(1/4, 0)")
    sizes = [fit_line(m, k).estimate().value for m in (first, second)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)
    assert fit_line(first, k).minus(fit_line(second, k)).estimate().value > 2


def test_noise_adds_nothing_to_a_size_on_average():
    """The squared size of pure noise, debiased, has the mean 0."""
    random = np.random.default_rng(0)
    covariance = np.diag([1.0, 4.0, 0.25])
    draws = random.multivariate_normal(np.zeros(3), covariance, 4000)
    fits = [Fit(v, covariance, np.eye(3), 512) for v in draws]
    squares = [fit.square()[0] for fit in fits]
    assert np.mean(squares) == pytest.approx(0, abs=5 * np.std(squares) / 63)
    # Negative control: without the correction it is the trace of the covariance.
    assert np.mean([v @ v for v in draws]) == pytest.approx(5.25, rel=0.1)


def test_p_values_of_real_halves_are_uniform(real):
    """A test that is right says "below 10 %" in a tenth of null cases."""
    images, random = real[0], np.random.default_rng(0)
    small = []
    for _ in range(12):
        order = random.permutation(len(images))
        halves = [measure_moments(images[part], (2, 2)) for part in np.split(order, 2)]
        for k, frequency in enumerate(halves[0].layout.frequencies):
            if not frequency.on_axis:
                for fit in (fit_gain, fit_line):
                    log_p, _ = fit(halves[0], k).minus(fit(halves[1], k)).test()
                    small.append(math.exp(log_p) < 0.1)
    # 12 draws of 8 or so dependent tests; 0.1 +- 4 standard errors of 96 of them.
    assert 0.0 < np.mean(small) < 0.22


def test_real_images_and_what_sharpness_or_noise_does_to_them_show_nothing(prepared):
    random = np.random.default_rng(3)
    assert not any(r.found for r in read_images(draw(2000, prepared, random), prepared))


def test_without_a_resolution_other_contents_would_be_a_pattern(prepared, real):
    """The negative control: trousers have edges at fixed columns."""
    images, labels = real
    trousers = images[labels == 1]
    assert not any(r.found for r in read_images(trousers, prepared))
    moments = measure_moments(trousers, (2, 2))
    fooled = read(moments, prepared.reference, prepared.null(500), NO_RESOLUTION)
    assert any(r.found for r in fooled)


@pytest.mark.parametrize("num_images", [300, 1000])
def test_images_of_one_class_are_no_pattern_beside_few_real_images(real, num_images):
    """What 100 images of a class show bounds what more images of it may show."""
    few = prepare(real[0][:2000], (2, 2), real[1][:2000])
    others = load_dataset(DataConfig(), "test")
    false = fooled = 0
    for label in range(10):
        images = others.images_uint8[others.labels == label][:num_images]
        moments = measure_moments(images, (2, 2))
        false += any(r.found for r in few.read(moments))
        sets = moments, few.reference, few.null(num_images)
        fooled += any(r.found for r in read(*sets, NO_RESOLUTION))
    assert false <= 1  # 5 % of such sets by chance
    assert fooled >= 5  # the negative control
    levels = plant(
        PLANTED["1 level everywhere"], real[0][2000:], np.random.default_rng(0)
    )
    assert at(read_images(levels, few), CORNER).fixed_pattern_levels.found


def test_the_limit_holds_for_what_is_found(prepared, real, checker):
    levels = real[0][1::2].astype(np.float32) * 0.9 + 12 + 1.0 * checker
    for reading in read_images(to_uint8(levels / 127.5 - 1), prepared):
        for name in (*meter.READINGS, "free_chroma_levels"):
            item = getattr(reading, name)
            if item and item.found:
                assert item.excess > item.limit
                assert item.z > 1.96


def test_equal_transforms_of_two_level_images_do_no_harm(prepared, real):
    """Of images of two levels the square is constant: a singular regression."""
    two_levels = np.where(real[0][1::2] > 127, 255, 0).astype(np.uint8)
    for reading in read_images(two_levels, prepared):
        assert np.isfinite(reading.imaging_gain_percent.samples.value)
        assert not reading.found


def test_a_change_is_named_that_sets_the_resolution(prepared):
    k = [f.name for f in prepared.reference.layout.frequencies].index("(0, 1/2)")
    size, change = prepared.resolution.sizes[k]["imaging_gain_percent"]
    assert size > 0.3
    assert change


def test_the_resolution_of_noise_is_nothing_off_the_axes(fields):
    images = to_uint8(floats(fields))
    reference = measure_moments(images[::2], (2, 2))
    found = measure_resolution(images[1::2], reference)
    corner = [f.name for f in reference.layout.frequencies].index("(1/2, 1/2)")
    assert found.of(corner, "imaging_gain_percent") < 1


def test_sets_of_other_sizes_are_refused(prepared):
    other = measure_moments(np.zeros((4, 32, 32, 1), np.uint8), (2, 2))
    with pytest.raises(ValueError, match=r"expected \(28, 28\) px"):
        read(other, prepared.reference, prepared.null(500), prepared.resolution)
