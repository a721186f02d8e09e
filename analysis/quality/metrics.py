"""Distances between generated and real images, computed from their features.

The module takes arrays and returns numbers; it knows no network, run or file.

The Frechet distance is that of Heusel et al. 2017 (arXiv:1706.08500) and the kernel
distance that of Binkowski et al. 2018 (arXiv:1801.01401). Because they are computed
from this project's own features, they are called FCD and KCD ("classifier distance")
and cannot be compared with a published FID or KID. Density and coverage follow Naeem
et al. 2020 (arXiv:2002.09797), the class score follows Salimans et al. 2016
(arXiv:1606.03498).

Every estimate depends on the number of images. Both sets therefore have the same size,
and this size is part of the metric's name.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

NUM_NEIGHBOURS = 5
SMALLEST_NUM_IMAGES = 100  # more than the 64 features, for a covariance of full rank
# Two fakes are duplicates when their distance is below this fraction of the median
# distance between a real image and its nearest real neighbour.
DUPLICATE_FRACTION = 0.1


@dataclass(frozen=True)
class Features:
    """The outputs of the feature network for N images.

    Attributes:
        values: float64 (N, D), standardised over the real training images.
        probabilities: float64 (N, classes), or None if the network has no classes.
    """

    values: np.ndarray
    probabilities: np.ndarray | None

    @cached_property
    def neighbour_distances(self) -> np.ndarray:
        """Distances to the 5 nearest other images, nearest first: float64 (N, 5)."""
        result = np.empty((len(self.values), NUM_NEIGHBOURS))
        for rows, squared in squared_distances(self.values, self.values):
            # An image is not its own neighbour.
            squared[np.arange(len(squared)), np.arange(rows.start, rows.stop)] = np.inf
            nearest = np.partition(squared, NUM_NEIGHBOURS - 1)[:, :NUM_NEIGHBOURS]
            result[rows] = np.sqrt(np.sort(nearest))
        return result


def compute_scores(real: Features, fake: Features) -> dict[str, float]:
    """Returns all metrics of N fakes against N real images, N at least 6.

    Returns:
        fcd: Frechet distance, 0 for equal sets.
        kcd, kcd_se: kernel distance and its standard error.
        density, coverage: see `density_coverage`.
        diversity: root mean squared distance between two fakes, divided by that between
            two real images.
        duplicates: fraction of the fakes with another fake closer than a tenth of the
            median distance between nearest real neighbours.
        norm: median length of a feature vector, divided by that of real images.
        class_tv: total variation distance between the class histograms, 0 to 1.
        num_classes: number of classes that more than 1 % of the fakes belong to.
        class_score: see `class_score`.

        The last three need class probabilities of both sets.

    Raises:
        ValueError: if the sets differ in size, because the metrics depend on it.
    """
    if len(real.values) != len(fake.values):
        raise ValueError(
            f"received {len(fake.values)} fakes, expected as many as real: "
            f"{len(real.values)}"
        )
    kcd, kcd_se = kernel_distance(real.values, fake.values)
    density, coverage = density_coverage(real, fake)
    limit = DUPLICATE_FRACTION * np.median(real.neighbour_distances[:, 0])
    norms = [np.median(np.linalg.norm(it.values, axis=1)) for it in (fake, real)]
    scores = {
        "fcd": frechet_distance(real.values, fake.values),
        "kcd": kcd,
        "kcd_se": kcd_se,
        "density": density,
        "coverage": coverage,
        "diversity": spread(fake.values) / spread(real.values),
        "duplicates": float(np.mean(fake.neighbour_distances[:, 0] < limit)),
        "norm": float(norms[0] / norms[1]),
    }
    if real.probabilities is None or fake.probabilities is None:
        return scores
    histogram = class_histogram(fake.probabilities)
    difference = histogram - class_histogram(real.probabilities)
    return scores | {
        "class_tv": float(np.abs(difference).sum() / 2),
        "num_classes": int(np.sum(histogram > 0.01)),
        "class_score": class_score(fake.probabilities),
    }


def metric_name(metric: str, num_images: int, extractor_id: str) -> str:
    """Returns fcd/ID for 10,000 images, fcd2k/ID for 2000 and fcd_n1500/ID for 1500.

    The distances of `pyramid.patch_distances` need no network and have their level as
    ID: swd2k/64px.
    """
    if metric.startswith("swd_"):
        metric, extractor_id = metric.split("_", 1)
    if num_images == 10_000:
        return f"{metric}/{extractor_id}"
    thousands, rest = divmod(num_images, 1000)
    size = f"_n{num_images}" if rest else f"{thousands}k"
    return f"{metric}{size}/{extractor_id}"


def frechet_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Returns the squared Frechet distance of the Gaussians fitted to two (N, D) sets.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). The trace of the root is computed from
    the symmetric matrix C1^(1/2) C2 C1^(1/2), which has the same eigenvalues as C1 C2.
    The distance of equal sets is 0. Finite sets have a positive bias of order 1/N.
    """
    cov_real, cov_fake = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    values, vectors = np.linalg.eigh(cov_real)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    product = root @ cov_fake @ root
    eigenvalues = np.linalg.eigvalsh((product + product.T) / 2)
    root_trace = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    mean_term = np.sum((real.mean(axis=0) - fake.mean(axis=0)) ** 2)
    return float(mean_term + np.trace(cov_real + cov_fake) - 2 * root_trace)


def kernel_distance(
    real: np.ndarray, fake: np.ndarray, num_blocks: int = 10
) -> tuple[float, float]:
    """Returns the unbiased kernel distance (MMD^2) of (N, D) sets and its error.

    The kernel is (x.y / D + 1)^3. Both sets are shuffled and cut into disjoint blocks
    (of 1000 images if N is 10,000, of 2 at least). Each pair of blocks gives one
    estimate. These are independent, so their scatter gives the standard error. The
    distance is unbiased and may therefore be negative.
    """
    rng, size = np.random.default_rng(0), max(2, len(real) // num_blocks)
    real, fake = rng.permutation(real), rng.permutation(fake)
    starts = range(0, len(real) - size + 1, size)[:num_blocks]
    estimates = [unbiased_mmd(real[k : k + size], fake[k : k + size]) for k in starts]
    error = np.std(estimates, ddof=1) / np.sqrt(len(estimates))
    return float(np.mean(estimates)), float(error)


def unbiased_mmd(real: np.ndarray, fake: np.ndarray) -> float:
    """Returns MMD^2 of two (N, D) sets; the diagonals of K_rr and K_ff are left out."""
    size, dimensions = real.shape
    result = -2 * np.mean((real @ fake.T / dimensions + 1) ** 3)
    for values in (real, fake):
        kernel = (values @ values.T / dimensions + 1) ** 3
        result += (kernel.sum() - np.trace(kernel)) / (size * (size - 1))
    return float(result)


def squared_distances(
    queries: np.ndarray, targets: np.ndarray, chunk_size: int = 250
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields slices of the queries and their squared distances to all targets.

    The chunks keep memory small: all distances of 10,000 images would take 800 MB.
    """
    squares = np.einsum("nd,nd->n", targets, targets)
    for start in range(0, len(queries), chunk_size):
        rows = slice(start, min(start + chunk_size, len(queries)))
        own = np.einsum("nd,nd->n", queries[rows], queries[rows])[:, np.newaxis]
        yield rows, np.maximum(own + squares - 2 * queries[rows] @ targets.T, 0)


def density_coverage(real: Features, fake: Features) -> tuple[float, float]:
    """Returns density and coverage, at 5 neighbours.

    Around every real image lies a ball that reaches to its 5th nearest real neighbour.
    Density is the mean number of balls that hold a fake, divided by 5; it is 1 for
    fakes with the distribution of the real images. Coverage is the fraction of balls
    that hold at least one fake; it is `expected_coverage` for such fakes, and about
    10 % lower for each of ten classes that is missing.
    """
    radii = real.neighbour_distances[:, -1]
    num_inside, covered = 0, np.zeros(len(real.values), bool)
    for _, squared in squared_distances(fake.values, real.values):
        inside = squared < radii**2
        num_inside += int(inside.sum())
        covered |= inside.any(axis=0)
    return num_inside / (NUM_NEIGHBOURS * len(fake.values)), float(covered.mean())


def expected_coverage(num_images: int) -> float:
    """Returns the coverage of two sets of N images with the same distribution.

    The ball of a real image holds no fake if, among the other N - 1 real images and the
    N fakes, the 5 nearest are all real: 1 - prod_i (N - i) / (2 N - i), i = 1 .. 5. The
    value at N = 10,000 is 0.969.
    """
    i = np.arange(1, NUM_NEIGHBOURS + 1)
    return float(1 - np.prod((num_images - i) / (2 * num_images - i)))


def spread(values: np.ndarray) -> float:
    """Returns the root mean squared distance between two different rows of (N, D)."""
    return float(np.sqrt(2 * values.var(axis=0, ddof=1).sum()))


def class_histogram(probabilities: np.ndarray) -> np.ndarray:
    """Returns the fraction of the images (N, classes) in each class, (classes,)."""
    classes = probabilities.argmax(axis=1)
    return np.bincount(classes, minlength=probabilities.shape[1]) / len(classes)


def class_score(probabilities: np.ndarray) -> float:
    """Returns the formula of the Inception score, from 1 to the number of classes.

    It is exp of the mean Kullback-Leibler divergence of p(class | image) from p(class).
    """
    clipped = np.clip(probabilities, 1e-12, 1)
    terms = clipped * (np.log(clipped) - np.log(clipped.mean(axis=0)))
    return float(np.exp(terms.sum(axis=1).mean()))


def copies_ratio(distances: np.ndarray, usual_distance: float) -> float:
    """Returns the median of distances to the nearest training images, over the usual.

    `usual_distance` is the median of new real images. The ratio is 1 for new images and
    0 for copies; it is NaN where new real images are copies of training images, too.
    """
    return float(np.median(distances)) / usual_distance if usual_distance else math.nan


def nearest_targets(
    queries: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the index, int64 (N,), and distance, float64 (N,), of nearest targets."""
    chunks = squared_distances(queries, targets)
    nearest = np.concatenate([squared.argmin(axis=1) for _, squared in chunks])
    # The distance is computed again from the difference, so that a copy is at exactly
    # 0 although squared distances are rounded to float32.
    differences = queries.astype(np.float64) - targets[nearest]
    return nearest, np.linalg.norm(differences, axis=1)
