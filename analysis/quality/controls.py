"""Controls that the quality metrics must pass on real images before one trusts them.

Each control changes real images in a way whose effect is known beforehand. It judges
the metrics only; `python -m analysis validate --quality` prints the table.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from scipy import ndimage

from analysis.checkerboard.controls import Control
from analysis.quality import metrics
from analysis.quality.reference import NUM_COMPARED, Scores, Yardstick
from config.schema import Config, DataConfig
from gan.data.dataset import latents
from gan.data.images import round_to_uint8, to_uint8
from gan.models import build_generator

CHECKERBOARD_LEVELS = 3
MEMORISED_BELOW = 0.7  # of the usual distance to a training image
# Dropped in this order: classes that look like no other first, as related ones (three
# kinds of shoes, five of tops) cover for each other.
DROP_ORDER = (1, 8, 9, 3, 5, 2, 0, 7, 4, 6)


def run_controls(num_images: int = metrics.STANDARD_NUM_IMAGES) -> list[Control]:
    """Runs every control on Fashion-MNIST; some minutes at 10,000 images a side.

    Args:
        num_images: a side, at most 10,000; the default tests use fewer.
    """
    real = Yardstick.of(DataConfig(), num_images)
    floor = real.score(real.draw())
    return [control for run in CONTROLS for control in run(real, floor)]


def same_images(real: Yardstick, floor: Scores) -> Iterator[Control]:
    """The test images against themselves."""
    scores = real.score(real.test.images_uint8[: real.num_images])
    yield Control(
        "test images against themselves",
        abs(scores["fcd"]) < 1e-6 and scores["kcd"] <= 0 and scores["coverage"] == 1,
        f"FCD {scores['fcd']:.0e}, KCD {scores['kcd']:.1e}, "
        f"coverage {scores['coverage']:.3f}",
        "FCD 0, KCD not above 0, coverage 1",
    )


def five_draws(real: Yardstick, floor: Scores) -> Iterator[Control]:
    """The floor: real training images against real test images."""
    draws = [floor] + [real.score(real.draw(seed)) for seed in range(1, 5)]
    middle = {key: float(np.median([draw[key] for draw in draws])) for key in floor}
    expected = metrics.expected_coverage(real.num_images)
    yield Control(
        "training images against test images, median of 5 draws",
        abs(middle["kcd"]) < 3 * middle["kcd_se"]
        and abs(middle["density"] - 1) < 0.1
        and abs(middle["coverage"] - expected) < 0.02
        and middle["class_tv"] < 5 / np.sqrt(real.num_images),
        f"FCD {middle['fcd']:.3f}, KCD {middle['kcd']:.1e} +- {middle['kcd_se']:.1e}, "
        f"density {middle['density']:.3f}, coverage {middle['coverage']:.3f}",
        f"the floor; KCD 0 within 3 s.e., density 1, coverage {expected:.3f}",
    )


def sizes(real: Yardstick, floor: Scores) -> Iterator[Control]:
    """Two disjoint sets of training images, of growing size."""
    values = real.extractor.features(real.draw(5)).values
    half = len(values) // 2
    numbers = [half // 4, half // 2, half]
    pairs = [(values[:number], values[half : half + number]) for number in numbers]
    distances = [metrics.frechet_distance(*pair) for pair in pairs]
    scaled = np.multiply(numbers, distances)
    kernel, error = metrics.kernel_distance(*pairs[-1])
    yield Control(
        f"real images against others, {', '.join(map(str, numbers))} a side",
        max(scaled) < 1.5 * min(scaled) and abs(kernel) < 4 * error,
        f"FCD {', '.join(f'{value:.3f}' for value in distances)}; "
        f"KCD {kernel:.1e} +- {error:.1e}",
        "N x FCD constant within 1.5x, KCD 0 within 4 s.e.",
    )


def degradations(real: Yardstick, floor: Scores) -> Iterator[Control]:
    """Noise, blur, salt and pepper, and squares of growing strength."""
    images = real.draw()
    ladders: dict[str, tuple[Callable[..., np.ndarray], tuple[float, ...]]] = {
        "noise of {} grey levels": (metrics.add_noise, (*metrics.NOISE_LADDER, 51)),
        "box blur of {} px": (box_blur, (3, 5, 7)),
        "salt and pepper on {} of pixels": (salt_and_pepper, (0.01, 0.04, 0.16)),
        "black square of {} px": (black_square, (4, 8, 12)),
    }
    for name, (degrade, strengths) in ladders.items():
        scores = [floor] + [real.score(degrade(images, s)) for s in strengths]
        yield Control(
            name.format(", ".join(map(str, strengths))),
            increase(s["fcd"] for s in scores) and increase(s["kcd"] for s in scores),
            "FCD " + " < ".join(f"{s['fcd']:.2f}" for s in scores),
            "FCD and KCD increase strictly from the floor",
        )


def missing_classes(real: Yardstick, floor: Scores) -> Iterator[Control]:
    """Real images of ever fewer classes, balanced otherwise."""
    numbers, scores = np.array([1, 2, 4, 8]), [floor]
    for number in numbers:
        allowed = ~np.isin(np.asarray(real.train.labels), DROP_ORDER[:number])
        scores.append(real.score(real.draw(allowed=np.flatnonzero(allowed))))
    coverage = np.array([s["coverage"] for s in scores])
    falls = (1 - coverage[1:] / coverage[0]) / numbers
    histogram = np.array([s["class_tv"] for s in scores[1:]]) / numbers
    yield Control(
        f"{', '.join(map(str, numbers))} of ten classes dropped",
        increase(s["fcd"] for s in scores)
        and bool(np.all(np.abs(falls - 0.1) < 0.025))
        and bool(np.all(np.abs(histogram - 0.1) < 1.5 / np.sqrt(real.num_images))),
        f"coverage -{', -'.join(f'{100 * value:.1f}' for value in falls)} % and class "
        f"TV {', '.join(f'{value:.3f}' for value in histogram)} a class",
        "coverage -10 +- 2.5 %, class TV 0.1 a class; FCD increases",
    )


def repeats(real: Yardstick, floor: Scores) -> Iterator[Control]:
    """Few different images, repeated: what a collapsed generator makes."""
    images = real.draw()
    scores = [real.score(np.resize(images[:k], images.shape)) for k in (1, 10, 100)]
    coverage = [s["coverage"] for s in scores]
    yield Control(
        "1, 10, 100 images repeated",
        increase([*coverage, 0.5 * floor["coverage"]])
        and scores[0]["diversity"] < 1e-6
        and min(s["duplicates"] for s in scores) > 0.99 > 0.1 > floor["duplicates"],
        f"coverage {', '.join(f'{value:.3f}' for value in coverage)}; duplicates "
        f"{scores[-1]['duplicates']:.2f} (real {floor['duplicates']:.3f})",
        "coverage below half the floor's, all duplicates, diversity 0 at one image",
    )


def faint_checkerboard(real: Yardstick, floor: Scores) -> Iterator[Control]:
    """Obvious in a spectrum, almost nothing to the features: why both are kept."""
    images = real.draw()
    marked = checkerboard(images, CHECKERBOARD_LEVELS)
    fcd = real.score(marked)["fcd"]
    noise = real.score(metrics.add_noise(images, 13))["fcd"]
    gain_db = 10 * np.log10(corner_power(marked) / corner_power(images))
    yield Control(
        f"checkerboard of +-{CHECKERBOARD_LEVELS} grey levels",
        bool(fcd < noise / 2 and gain_db > 10),
        f"FCD {fcd:.3f} (floor {floor['fcd']:.3f}, noise of 13 levels {noise:.2f}); "
        f"{gain_db:+.1f} dB at (1/2, 1/2) cycles per pixel",
        "FCD below half that of noise of 13 levels, yet more than 10 dB",
    )


def copies(real: Yardstick, floor: Scores) -> Iterator[Control]:
    """Training images as fakes: perfect scores (the floor), and caught as copies."""
    copied = real.copies(real.draw())
    fresh = real.copies(real.test.images_uint8[-NUM_COMPARED:])
    ratios = [
        [found[space].ratio for space in ("pixels", "features")]
        for found in (copied, fresh)
    ]
    yield Control(
        "training images as fakes, and unseen images",
        max(ratios[0]) < MEMORISED_BELOW < min(ratios[1]),
        "copying in pixels and features "
        + " against ".join(
            f"{pixels:.2f}, {features:.2f}" for pixels, features in ratios
        ),
        f"flagged below {MEMORISED_BELOW} against about 1",
    )


def mixtures(real: Yardstick, floor: Scores) -> Iterator[Control]:
    """Real images of which a growing share is replaced by noise."""
    images, scores = real.draw(), [floor]
    noise = np.random.default_rng(0).integers(0, 256, images.shape, np.uint8)
    for share in (0.05, 0.2, 0.5):
        num_noise = int(share * len(images))
        mixed = np.concatenate([noise[:num_noise], images[num_noise:]])
        scores.append(real.score(mixed))
    yield Control(
        "5, 20, 50 % of images replaced by noise",
        increase(s["fcd"] for s in scores) and increase(-s["coverage"] for s in scores),
        "FCD " + " < ".join(f"{s['fcd']:.2f}" for s in scores),
        "FCD increases, coverage falls",
    )


def untrained_generator(real: Yardstick, floor: Scores) -> Iterator[Control]:
    """A generator before its first step: the far end of the scale."""
    config = Config().model
    noise = latents(0, 0, real.num_images, config.latent_dim)
    generated = build_generator(config).predict(noise, batch_size=250, verbose=0)
    scores = real.score(to_uint8(generated))
    yield Control(
        "untrained generator",
        scores["fcd"] > 10 and scores["coverage"] < 0.1,
        f"FCD {scores['fcd']:.0f}, coverage {scores['coverage']:.3f}",
        "FCD above 10, coverage below 0.1",
    )


CONTROLS: tuple[Callable[[Yardstick, Scores], Iterator[Control]], ...] = (
    same_images,
    five_draws,
    sizes,
    degradations,
    missing_classes,
    repeats,
    faint_checkerboard,
    copies,
    mixtures,
    untrained_generator,
)


def increase(values: Iterable[float]) -> bool:
    """Whether each value is above the one before."""
    return bool(np.all(np.diff(list(values)) > 0))


def box_blur(images_uint8: np.ndarray, size_px: int) -> np.ndarray:
    """Returns uint8 images, each pixel the mean of a square around it."""
    window = (1, size_px, size_px, 1)
    return round_to_uint8(
        ndimage.uniform_filter(images_uint8.astype(np.float32), window)
    )


def salt_and_pepper(images_uint8: np.ndarray, share: float) -> np.ndarray:
    """Returns uint8 images with a share of pixels set to 0 or 255."""
    draw = np.random.default_rng(0).random(images_uint8.shape)
    result = np.where(draw < share / 2, 0, images_uint8)
    return np.where(draw > 1 - share / 2, 255, result).astype(np.uint8)


def black_square(images_uint8: np.ndarray, size_px: int) -> np.ndarray:
    """Returns uint8 images with a black square in the middle."""
    result = images_uint8.copy()
    top, left = ((length - size_px) // 2 for length in images_uint8.shape[1:3])
    result[:, top : top + size_px, left : left + size_px] = 0
    return result


def signs(images_uint8: np.ndarray) -> np.ndarray:
    """Returns +1 and -1 in a checkerboard, (H, W, 1)."""
    return 1.0 - 2 * (np.indices(images_uint8.shape[1:3]).sum(axis=0) % 2)[..., None]


def checkerboard(images_uint8: np.ndarray, levels: float) -> np.ndarray:
    """Returns uint8 images with a checkerboard of +-levels added."""
    return round_to_uint8(images_uint8 + levels * signs(images_uint8))


def corner_power(images_uint8: np.ndarray) -> float:
    """Returns the mean power at (1/2, 1/2) cycles per pixel: that of a checkerboard."""
    sums = np.einsum("nhwc,hwc->nc", images_uint8, signs(images_uint8))
    return float(np.mean(sums**2))
