"""The distance of patches: known values, and controls on changed images."""

import numpy as np
import pytest
from scipy import ndimage, stats

from analysis.quality import pyramid
from analysis.quality.pyramid import coarse_points, laplacian_pyramid, patch_distances
from analysis.quality.reference import add_noise
from config.schema import UserError
from gan.data.images import round_to_uint8


def pictures(num, size, channels, seed):
    """Smooth colour fields with sharp edges, between 30 and 225."""
    noise = np.random.default_rng(seed).standard_normal((num, size, size, channels))
    smooth = ndimage.gaussian_filter(noise, (0, size / 12, size / 12, 0))
    smooth /= smooth.std()
    edges = ndimage.gaussian_filter(noise[..., :1], (0, size / 8, size / 8, 0)) > 0
    return round_to_uint8(np.clip(97 + 25 * smooth + 60 * edges, 30, 225))


def measure(real, fake, **options):
    return patch_distances(real, fake, num_directions=128, **options)


@pytest.fixture(scope="module", params=[(32, 3), (28, 1)], ids="{0[0]} px".format)
def sets(request):
    """Two sets of 100 pictures with one distribution, and the floor."""
    real, other = np.split(pictures(200, *request.param, seed=0), 2)
    return real, other, measure(real, other)


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        (14, [14]),
        (16, [16]),
        (27, [27]),
        (28, [28, 14]),
        (57, [57, 29, 15]),
        (64, [64, 32, 16]),
        (100, [100, 50, 25]),
    ],
)
def test_levels_add_up_to_the_images(size, sizes):
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    levels = list(laplacian_pyramid(images))
    assert [level.shape for level in levels] == [(2, s, s, 3) for s in sizes]
    whole = levels[-1]
    for level in reversed(levels[:-1]):
        enlarged = np.zeros_like(level)
        enlarged[:, ::2, ::2] = 4 * whole
        whole = level + pyramid.smooth(enlarged)
    np.testing.assert_allclose(whole, images, atol=1e-3)
    points = coarse_points(images)
    np.testing.assert_allclose(points, levels[-1].reshape(2, -1), atol=1e-3)


def test_equal_sets_have_distance_0(sets):
    real, _, floor = sets
    assert set(measure(real, real).values()) == {0}
    assert min(floor.values()) > 0


def test_a_shift_has_its_known_value_at_the_coarsest_level(sets):
    """All patches move by c / s along (1, ..., 1), which has length 7 per channel.

    On a random unit vector of n components this is c / s sqrt(n) |u|, whose mean is
    c / s sqrt(2 / pi).
    """
    real, _, _ = sets
    found = patch_distances(real, real + np.uint8(20))
    coarse = list(laplacian_pyramid(real))[-1]
    inverse_deviation = np.mean(coarse.std(axis=(0, 1, 2)) ** -1.0)
    *fine, (_, coarsest) = [v for v in found.items() if v[0].endswith("px")]
    assert all(value == pytest.approx(0, abs=0.1) for _, value in fine)
    expected = 1000 * 20 * inverse_deviation * np.sqrt(2 / np.pi)
    assert coarsest == pytest.approx(expected, rel=0.1)


def test_distances_equal_those_of_scipy(monkeypatch):
    """Patches of one pixel have one direction, and are the set of values itself."""
    monkeypatch.setattr(pyramid, "PATCH_PX", 1)
    random = np.random.default_rng(0)
    real, fake = (random.normal(m, 2, (20, 1, 1, 1)) for m in (0, 3))
    found = pyramid.level_distance(real, fake, random, 128)
    values = [x.ravel() / real.std() for x in (real, fake)]
    expected = stats.wasserstein_distance(*values)
    assert found[0] == pytest.approx(expected, rel=1e-5)


def test_distances_increase_with_noise_and_the_floor_is_smallest(sets):
    real, other, floor = sets
    found = [floor, *(measure(real, add_noise(other, n)) for n in (5, 13, 26))]
    for level in (f"{real.shape[1]}px", "mean"):
        values = [scores[f"swd_{level}"] for scores in found]
        assert values == sorted(values) and values[1] > 1.2 * values[0]


def ratios(sets, fake):
    """Distances of the finest and the coarsest level, in multiples of the floor."""
    real, _, floor = sets
    found = measure(real, fake)
    levels = [key for key in found if key.endswith("px")]
    return [found[key] / floor[key] for key in (levels[0], levels[-1])]


def test_blur_shows_at_the_finest_level_first(sets):
    blurred = ndimage.gaussian_filter(sets[1].astype(np.float32), (0, 0.6, 0.6, 0))
    finest, coarsest = ratios(sets, round_to_uint8(blurred))
    assert finest > 3 and coarsest < 1.5


def test_a_wrong_colour_shows_at_the_coarsest_level_alone(sets):
    shifted = sets[1].copy()
    shifted[..., 0] += 20
    finest, coarsest = ratios(sets, shifted)
    assert finest < 1.1 and coarsest > 1.5


def test_a_repeated_image_is_far_from_real_images(sets):
    assert min(ratios(sets, np.repeat(sets[1][:1], 100, axis=0))) > 3


def test_the_standard_error_matches_the_scatter_over_sets():
    images = np.split(pictures(2400, 16, 1, seed=1), 40)
    found = [measure(a, b) for a, b in zip(images[::2], images[1::2], strict=True)]
    scatter = np.std([scores["swd_mean"] for scores in found], ddof=1)
    mean_error = np.mean([scores["swd_mean_se"] for scores in found])
    assert scatter / 2 < mean_error < 2 * scatter


def test_the_seed_decides_the_value(sets):
    real, other, floor = sets
    assert measure(real, other) == floor
    again = measure(real, other, seed=1)["swd_mean"]
    assert again != floor["swd_mean"]
    assert again == pytest.approx(floor["swd_mean"], rel=0.5)


def test_real_images_without_detail_give_finite_distances():
    real = np.full((10, 32, 32, 1), 90, np.uint8)
    assert np.isfinite(list(measure(real, add_noise(real, 9)).values())).all()


def test_small_images_have_no_levels_and_few_images_are_refused():
    assert measure(*np.zeros((2, 10, 12, 12, 1), np.uint8)) == {}
    few = np.zeros((9, 28, 28, 1), np.uint8)
    with pytest.raises(UserError, match=r"received \(9, 28, 28, 1\) and real"):
        measure(few, few)
    with pytest.raises(UserError, match="expected equal shapes"):
        measure(np.zeros((10, 28, 28, 1), np.uint8), np.zeros((10, 28, 28, 3)))
