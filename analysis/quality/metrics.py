"""Distances between generated and real images, from features to numbers.

Arrays in, numbers out: it knows no nets, runs or files. Features come from
`analysis.quality.extractor`, standardised by the real training images, so that a
squared distance counts real standard deviations summed over 64 units.

The Frechet distance is that of Heusel et al. 2017 (arXiv:1706.08500) and the kernel
distance that of Binkowski et al. 2018 (arXiv:1801.01401), but on this project's own
features: they are called FCD and KCD ("classifier distance"), and no value of theirs
can be set beside a published FID or KID. Density and coverage follow Naeem et al. 2020
(arXiv:2002.09797), the class score Salimans et al. 2016 (arXiv:1606.03498).

Every estimate depends on the number of images, so both sides have equally many and the
number is part of the name.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from gan.data.images import round_to_uint8

STANDARD_NUM_IMAGES = 10_000
NUM_NEIGHBOURS = 5
DUPLICATE_SHARE = 0.1  # of the usual distance between neighbouring real images
NOISE_LADDER = (5, 13, 26)  # grey levels


@dataclass(frozen=True)
class Features:
    """What a feature net says about N images.

    Attributes:
        values: float64 (N, 64), standardised.
        probabilities: float64 (N, classes), or None from a net without classes.
    """

    values: np.ndarray
    probabilities: np.ndarray | None


@dataclass(frozen=True)
class Reference:
    """Real images, with what every comparison needs of them.

    Attributes:
        features: of the real images.
        neighbours: float64 (N, 5), see `neighbour_distances`.
    """

    features: Features
    neighbours: np.ndarray

    @classmethod
    def of(cls, features: Features) -> Self:
        """Prepares real images, at least 6, for `compare`."""
        return cls(features, neighbour_distances(features.values, NUM_NEIGHBOURS))


def compare(reference: Reference, fake: Features) -> dict[str, float]:
    """Returns all metrics of N fakes against N real images.

    Returns:
        fcd, kcd and kcd_se (its standard error), density, coverage; diversity, the
        spread against the real one; duplicates, the share of fakes with another fake
        closer than a tenth of the distance usual between real neighbours; norm, the
        median length of a feature vector against the real one. With probabilities also
        class_tv, half the summed difference of the class histograms; num_classes, those
        above 1 %; class_score (blind to collapse within a class, a by-product).

    Raises:
        ValueError: for unequal numbers, which have no common scale.
    """
    real, values = reference.features.values, fake.values
    if len(real) != len(values):
        raise ValueError(
            f"received {len(values)} fakes, expected as many as real: {len(real)}"
        )
    kcd, kcd_se = kernel_distance(real, values)
    radii = reference.neighbours[:, -1]
    density, coverage = density_coverage(real, radii, values)
    usual = DUPLICATE_SHARE * np.median(reference.neighbours[:, 0])
    duplicates = np.mean(neighbour_distances(values, 1)[:, 0] < usual)
    norms = [np.median(np.linalg.norm(side, axis=1)) for side in (values, real)]
    metrics = {
        "fcd": frechet_distance(real, values),
        "kcd": kcd,
        "kcd_se": kcd_se,
        "density": density,
        "coverage": coverage,
        "diversity": spread(values) / spread(real),
        "duplicates": float(duplicates),
        "norm": float(norms[0] / norms[1]),
    }
    if reference.features.probabilities is None or fake.probabilities is None:
        return metrics
    histogram = class_histogram(fake.probabilities)
    gap = histogram - class_histogram(reference.features.probabilities)
    return metrics | {
        "class_tv": float(np.abs(gap).sum() / 2),
        "num_classes": int(np.sum(histogram > 0.01)),
        "class_score": class_score(fake.probabilities),
    }


def metric_name(metric: str, num_images: int, extractor_id: str) -> str:
    """Returns a name no two rulers share: `fcd/ID` at 10,000 images, else `fcd2k/ID`.

    Numbers that are no multiple of 1000 are spelled out: `fcd_n1500/ID`.
    """
    if num_images == STANDARD_NUM_IMAGES:
        return f"{metric}/{extractor_id}"
    thousands, rest = divmod(num_images, 1000)
    size = f"_n{num_images}" if rest else f"{thousands}k"
    return f"{metric}{size}/{extractor_id}"


def frechet_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Returns the squared Frechet distance of the Gaussians fitted to two sets.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)); the root's trace is taken through the
    symmetric C1^(1/2) C2 C1^(1/2), which has the same eigenvalues. 0 for equal sets;
    the bias for finite sets is positive and falls as 1/N.

    Args:
        real: float64 (N, D), N at least 2.
        fake: float64 (M, D).
    """
    cov_real, cov_fake = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    values, vectors = np.linalg.eigh(cov_real)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    product = root @ cov_fake @ root
    eigenvalues = np.linalg.eigvalsh((product + product.T) / 2)
    root_trace = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    mean_gap = np.sum((real.mean(axis=0) - fake.mean(axis=0)) ** 2)
    return float(mean_gap + np.trace(cov_real + cov_fake) - 2 * root_trace)


def kernel_distance(
    real: np.ndarray, fake: np.ndarray, num_blocks: int = 10, seed: int = 0
) -> tuple[float, float]:
    """Returns the unbiased kernel distance (MMD^2) and its standard error.

    The kernel is (x.y / D + 1)^3. Both sets are shuffled and cut into disjoint blocks
    (of 1000 at 10,000 images); a block against a block is one estimate, and independent
    estimates make an honest standard error. May be negative: it is unbiased.

    Args:
        real: float64 (N, D), N at least 4.
        fake: float64 (N, D).
        num_blocks: estimates, at least 2; fewer where blocks would be single images.
        seed: of the shuffle.
    """
    rng, size = np.random.default_rng(seed), max(2, len(real) // num_blocks)
    real, fake = rng.permutation(real), rng.permutation(fake)
    blocks = [slice(end - size, end) for end in range(size, len(real) + 1, size)]
    estimates = [
        unbiased_mmd(real[block], fake[block]) for block in blocks[:num_blocks]
    ]
    error = np.std(estimates, ddof=1) / np.sqrt(len(estimates))
    return float(np.mean(estimates)), float(error)


def unbiased_mmd(real: np.ndarray, fake: np.ndarray) -> float:
    """Returns the mean kernel inside each set, off the diagonal, less twice across."""
    size, dimensions = real.shape
    result = -2 * np.mean((real @ fake.T / dimensions + 1) ** 3)
    for side in (real, fake):
        kernel = (side @ side.T / dimensions + 1) ** 3
        result += (kernel.sum() - np.trace(kernel)) / (size * (size - 1))
    return float(result)


def squared_distances(
    queries: np.ndarray, targets: np.ndarray, chunk_size: int = 250
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields (rows, squared distances of these queries to all targets) in chunks."""
    squares = np.einsum("nd,nd->n", targets, targets)
    for start in range(0, len(queries), chunk_size):
        rows = slice(start, min(start + chunk_size, len(queries)))
        own = np.einsum("nd,nd->n", queries[rows], queries[rows])[:, np.newaxis]
        yield rows, np.maximum(own + squares - 2 * queries[rows] @ targets.T, 0)


def neighbour_distances(values: np.ndarray, num_neighbours: int) -> np.ndarray:
    """Returns each point's distances to its nearest others, nearest first.

    Args:
        values: float64 (N, D), more than `num_neighbours` points.
        num_neighbours: how many.

    Returns:
        float64 (N, num_neighbours).
    """
    result = np.empty((len(values), num_neighbours))
    for rows, squared in squared_distances(values, values):
        squared[np.arange(len(squared)), np.arange(rows.start, rows.stop)] = np.inf
        nearest = np.partition(squared, num_neighbours - 1)[:, :num_neighbours]
        result[rows] = np.sqrt(np.sort(nearest))
    return result


def density_coverage(
    real: np.ndarray, radii: np.ndarray, fake: np.ndarray
) -> tuple[float, float]:
    """Returns how crowded, and how completely visited, the balls of real images are.

    A ball reaches to the 5th neighbour among the real images. Density is the mean
    number of balls a fake lies in, divided by 5: 1 for fakes drawn like real images.
    Coverage is the share of balls with a fake inside: `expected_coverage` for such
    fakes, and about 10 % less for each of ten classes that is missing.

    Args:
        real: float64 (N, D).
        radii: float64 (N,), the last column of `neighbour_distances`.
        fake: float64 (M, D).
    """
    num_inside, covered = 0, np.zeros(len(real), bool)
    for _, squared in squared_distances(fake, real):
        inside = squared < radii**2
        num_inside += int(inside.sum())
        covered |= inside.any(axis=0)
    return num_inside / (NUM_NEIGHBOURS * len(fake)), float(covered.mean())


def expected_coverage(num_images: int) -> float:
    """Returns the coverage by N fakes drawn like the N real images; 0.969 at 10,000.

    A ball is missed if, of the other N - 1 real images and the N fakes, the 5 nearest
    are all real: 1 - prod_i (N - i) / (2 N - i), i = 1 .. 5.
    """
    i = np.arange(1, NUM_NEIGHBOURS + 1)
    return float(1 - np.prod((num_images - i) / (2 * num_images - i)))


def spread(values: np.ndarray) -> float:
    """Returns the root mean squared distance between two points of (N, D) values.

    Over all pairs that is the root of twice the trace of the covariance.
    """
    return float(np.sqrt(2 * values.var(axis=0, ddof=1).sum()))


def class_histogram(probabilities: np.ndarray) -> np.ndarray:
    """Returns the share of images (N, classes) that go to each class, (classes,)."""
    winners = probabilities.argmax(axis=1)
    return np.bincount(winners, minlength=probabilities.shape[1]) / len(winners)


def class_score(probabilities: np.ndarray) -> float:
    """Returns exp of the mean Kullback-Leibler distance to the mean: 1 to classes."""
    clipped = np.clip(probabilities, 1e-12, 1)
    gain = clipped * (np.log(clipped) - np.log(clipped.mean(axis=0)))
    return float(np.exp(gain.sum(axis=1).mean()))


def nearest_targets(
    queries: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns index int64 (N,) and distance float64 (N,) of each nearest target.

    With training images as targets it finds copies: the median distance of fakes,
    divided by that of test images, is about 1 for new images and 0 for copies.
    """
    chunks = squared_distances(queries, targets)
    nearest = np.concatenate([squared.argmin(axis=1) for _, squared in chunks])
    # Anew from the differences: a copy is then at distance 0 in float32 too.
    gaps = queries.astype(np.float64) - targets[nearest]
    return nearest, np.linalg.norm(gaps, axis=1)


def add_noise(images_uint8: np.ndarray, levels: float, seed: int = 0) -> np.ndarray:
    """Returns uint8 images with Gaussian noise of `levels` grey levels, clipped."""
    noise = np.random.default_rng(seed).normal(0, levels, images_uint8.shape)
    return round_to_uint8(images_uint8 + noise)
