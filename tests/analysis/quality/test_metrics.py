"""The metrics on sets of numbers whose distances are known."""

import numpy as np
import pytest
from scipy import linalg

from analysis.quality import metrics
from analysis.quality.metrics import Features
from analysis.quality.reference import add_noise

RNG_SEED = 7


def gaussian(num: int, dimensions: int = 16, seed: int = RNG_SEED) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scale = 1 / np.sqrt(np.arange(1, dimensions + 1))
    return rng.standard_normal((num, dimensions)) * scale


def as_features(values: np.ndarray) -> Features:
    return Features(values, None)


def test_frechet_of_a_shifted_set_is_the_squared_shift() -> None:
    values = gaussian(100)
    shift = np.zeros(16)
    shift[:2] = 3, 4
    assert metrics.frechet_distance(values, values + shift) == pytest.approx(25)


def test_frechet_of_a_doubled_set_is_its_trace() -> None:
    # The deviations are s and 2s in every direction: the sum of (2s - s)^2.
    values = gaussian(100)
    values -= values.mean(axis=0)
    trace = np.trace(np.cov(values, rowvar=False))
    assert metrics.frechet_distance(values, 2 * values) == pytest.approx(trace)


@pytest.mark.parametrize("constant", [0, 3])
def test_frechet_agrees_with_two_independent_roots(constant: int) -> None:
    real, fake = gaussian(300, 20), 1.3 * gaussian(200, 20, seed=1) + 0.1
    real[:, :constant] = 0.5
    covariances = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    product = covariances[0] @ covariances[1]
    base = np.sum((real.mean(axis=0) - fake.mean(axis=0)) ** 2)
    base += np.trace(covariances[0] + covariances[1])
    eigenvalues = np.maximum(np.linalg.eigvals(product).real, 0)
    by_eigenvalues = base - 2 * np.sqrt(eigenvalues).sum()
    measured = metrics.frechet_distance(real, fake)
    # A constant feature gives eigenvalues of 0 +- 1e-17, whose root is 3e-9.
    assert measured == pytest.approx(by_eigenvalues, abs=1e-8 if not constant else 1e-7)
    if not constant:
        by_root = base - 2 * np.trace(linalg.sqrtm(product)).real
        assert measured == pytest.approx(by_root, abs=1e-8)


def test_frechet_falls_as_one_over_n() -> None:
    distances = [
        np.mean(
            [
                metrics.frechet_distance(gaussian(n, seed=s), gaussian(n, seed=s + 99))
                for s in range(8)
            ]
        )
        for n in (250, 1000, 4000)
    ]
    assert distances[0] / distances[1] == pytest.approx(4, rel=0.25)
    assert distances[1] / distances[2] == pytest.approx(4, rel=0.25)


def test_kernel_distance_equals_the_double_sum() -> None:
    real, fake = gaussian(5, 3), gaussian(5, 3, seed=1)

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (float(x @ y) / 3 + 1) ** 3

    total = 0.0
    for i in range(5):
        for j in range(5):
            if i != j:
                total += (kernel(real[i], real[j]) + kernel(fake[i], fake[j])) / 20
            total -= 2 * kernel(real[i], fake[j]) / 25
    assert metrics.unbiased_mmd(real, fake) == pytest.approx(total, abs=1e-12)


def test_kernel_distance_is_the_mean_over_disjoint_blocks() -> None:
    real, fake = gaussian(7, 3), gaussian(7, 3, seed=1)
    value, error = metrics.kernel_distance(real, fake, num_blocks=2)
    rng = np.random.default_rng(0)
    real, fake = rng.permutation(real), rng.permutation(fake)
    first = metrics.unbiased_mmd(real[:3], fake[:3])
    second = metrics.unbiased_mmd(real[3:6], fake[3:6])
    assert value == pytest.approx((first + second) / 2)
    assert error == pytest.approx(abs(first - second) / 2)


def test_kernel_distance_of_equal_distributions_is_zero_at_every_size() -> None:
    for num in (100, 1000):
        values = [
            metrics.kernel_distance(gaussian(num, seed=s), gaussian(num, seed=s + 50))[
                0
            ]
            for s in range(16)
        ]
        assert abs(np.mean(values)) < 4 * np.std(values) / 4


def test_kernel_distance_has_an_error_that_matches_its_scatter() -> None:
    runs = [
        metrics.kernel_distance(
            gaussian(2000, seed=s), gaussian(2000, seed=s + 50), num_blocks=20
        )
        for s in range(30)
    ]
    scatter = np.std([value for value, _ in runs])
    assert np.mean([error for _, error in runs]) == pytest.approx(scatter, rel=0.4)
    # Negative control: a small shift gives a distance of many standard errors.
    value, error = metrics.kernel_distance(
        gaussian(2000), gaussian(2000, seed=1) + 0.2, num_blocks=20
    )
    assert value > 10 * error


def test_density_and_coverage_equal_brute_force() -> None:
    real, fake = gaussian(60, 4), gaussian(50, 4, seed=1) * 1.2
    between = np.linalg.norm(real[:, None] - real[None], axis=2)
    radii = np.sort(between, axis=1)[:, 5]  # column 0 is the point itself
    across = np.linalg.norm(fake[:, None] - real[None], axis=2)
    inside = across < radii
    features = as_features(real)
    expected = np.sort(between, axis=1)[:, 1:6]
    np.testing.assert_allclose(features.neighbour_distances, expected, atol=1e-7)
    density, coverage = metrics.density_coverage(features, as_features(fake))
    assert density == inside.sum() / (5 * 50)
    assert coverage == inside.any(axis=0).mean()


def test_chunks_do_not_change_distances() -> None:
    values, targets = gaussian(25, 4), gaussian(10, 4, seed=1)
    rows = list(metrics.squared_distances(values, targets, chunk_size=10))
    assert [r.stop - r.start for r, _ in rows] == [10, 10, 5]
    direct = ((values[:, None] - targets[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(np.concatenate([d for _, d in rows]), direct, atol=1e-12)


def test_expected_coverage_is_what_equal_distributions_show() -> None:
    assert metrics.expected_coverage(10_000) == pytest.approx(0.969, abs=5e-4)
    measured = []
    for seed in range(20):
        real, fake = gaussian(200, 8, seed), gaussian(200, 8, seed + 50)
        measured.append(metrics.density_coverage(as_features(real), as_features(fake)))
    density, coverage = np.mean(measured, axis=0)
    assert coverage == pytest.approx(metrics.expected_coverage(200), abs=0.01)
    assert density == pytest.approx(1, abs=0.05)


def test_spread_is_the_mean_over_all_pairs() -> None:
    values = gaussian(40, 3)
    pairs = [np.sum((a - b) ** 2) for a in values for b in values if a is not b]
    squared = [d for d in pairs if d > 0]
    assert metrics.spread(values) == pytest.approx(np.sqrt(np.mean(squared)))
    assert metrics.spread(np.ones((10, 3))) == 0


def test_class_metrics_by_hand() -> None:
    certain = np.eye(4)[[0, 0, 1, 2]]
    np.testing.assert_allclose(metrics.class_histogram(certain), [0.5, 0.25, 0.25, 0])
    assert metrics.class_score(np.eye(4)) == pytest.approx(4)
    assert metrics.class_score(np.full((9, 4), 0.25)) == pytest.approx(1)
    values = gaussian(8, 3)
    real = Features(values, np.eye(4)[[0, 1, 2, 3] * 2])
    fake = Features(values, np.eye(4)[[0, 0, 0, 1] * 2])
    scores = metrics.compute_scores(real, fake)
    assert scores["class_tv"] == pytest.approx(0.5)  # two of four classes are missing
    assert scores["num_classes"] == 2


def test_duplicates_are_found_and_only_they() -> None:
    values = gaussian(200)
    real = as_features(values)
    fresh = gaussian(200, seed=1)
    assert metrics.compute_scores(real, as_features(fresh))["duplicates"] == 0
    half = np.concatenate([fresh[:100], fresh[:50], fresh[:50] + 1e-6])
    assert metrics.compute_scores(real, as_features(half))["duplicates"] == 0.75


def test_sets_of_unequal_size_are_refused() -> None:
    with pytest.raises(ValueError, match="received 9 fakes, expected .* 20"):
        metrics.compute_scores(as_features(gaussian(20)), as_features(gaussian(9)))


def test_nearest_targets_find_copies_exactly() -> None:
    train, fresh = gaussian(500), gaussian(100, seed=2)
    nearest, distances = metrics.nearest_targets(train[20:60].astype(np.float32), train)
    np.testing.assert_array_equal(nearest, np.arange(20, 60))
    assert distances.max() < 1e-6
    nearest, distances = metrics.nearest_targets(fresh, train)
    direct = np.linalg.norm(fresh[:, None] - train[None], axis=2)
    np.testing.assert_array_equal(nearest, direct.argmin(axis=1))
    np.testing.assert_allclose(distances, direct.min(axis=1))


@pytest.mark.parametrize(
    ("num_images", "name"),
    [(10_000, "fcd/x-v1"), (2000, "fcd2k/x-v1"), (1500, "fcd_n1500/x-v1")],
)
def test_names_hold_the_number_of_images(num_images: int, name: str) -> None:
    assert metrics.metric_name("fcd", num_images, "x-v1") == name


def test_noise_has_the_strength_asked_for() -> None:
    grey = np.full((50, 28, 28, 1), 128, np.uint8)
    noisy = add_noise(grey, 13)
    assert noisy.dtype == np.uint8
    assert noisy.std() == pytest.approx(13, rel=0.02)
    black = add_noise(np.zeros((1, 28, 28, 1), np.uint8), 13)
    assert black.max() < 80  # clipped, not wrapped around
