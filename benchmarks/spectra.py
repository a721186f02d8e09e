"""Compares speed and memory of the meter's sums with common ways to take spectra.

    python -m benchmarks.spectra [--n 60000] [--out FILE.json]

Four methods take turns in one process on the same images:
`analysis.checkerboard.moments.measure_moments`, behind all readings of this project; a
mean power spectrum in chunks, as the retired meter took it (`benchmarks.rival_meters`);
a NumPy loop that transforms image by image and adds up power; and the radial profile of
each image, as papers about spectra compute it. Times are ratios to one plain transform
of all images in single precision, which takes its turn as well.
"""

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import scipy.fft

from analysis.checkerboard.frequencies import make_layout
from analysis.checkerboard.moments import measure_moments
from benchmarks.results import save, spread
from benchmarks.rival_meters import CHUNK_IMAGES, mean_power
from gan.data.dataset import BUNDLED_FILE

STRIDES = (2, 2)
MEMORY_NUMBERS = (30_000, 60_000, 240_000)  # of images


def sums(images_uint8: np.ndarray) -> np.ndarray:
    """All sums of this project's meter, and of them the mean spectrum."""
    return measure_moments(images_uint8, STRIDES).power


def chunked_spectrum(images_uint8: np.ndarray) -> np.ndarray:
    """The mean spectrum alone."""
    window = make_layout(28, 28, STRIDES).window
    return mean_power(images_uint8, float(images_uint8.mean()), window)


def numpy_loop(images_uint8: np.ndarray) -> np.ndarray:
    """The same mean spectrum, one image at a time."""
    window = make_layout(28, 28, STRIDES).window
    level, total = images_uint8.mean(), np.zeros((28, 28))
    for image in images_uint8[..., 0]:
        total += np.abs(np.fft.fft2((image - level) * window)) ** 2
    return total / len(images_uint8)


def radial_profiles(images_uint8: np.ndarray) -> np.ndarray:
    """Mean over images of their logarithmic radial profiles, each scaled to [0, 1].

    As published, the pixels are sorted by distance from the centre, and a ring's sum is
    the difference of a cumulative sum.
    """
    total = np.zeros(18)
    for image in images_uint8[..., 0]:
        shifted = np.fft.fftshift(np.fft.fft2(image))
        magnitude = 20 * np.log(np.abs(shifted) + 1e-8)
        rows, columns = np.indices(magnitude.shape)
        radius = np.hypot(columns - 13.5, rows - 13.5)
        order = np.argsort(radius.ravel())
        rings = radius.ravel()[order].astype(int)
        ends = np.flatnonzero(np.diff(rings))
        totals = np.cumsum(magnitude.ravel()[order])
        profile = np.diff(totals[ends]) / np.diff(ends)
        total += (profile - profile.min()) / (profile.max() - profile.min())
    return total / len(images_uint8)


def plain_transform(images_uint8: np.ndarray) -> None:
    """One transform of every image, and nothing done with it."""
    for start in range(0, len(images_uint8), CHUNK_IMAGES):
        chunk = images_uint8[start : start + CHUNK_IMAGES, ..., 0]
        scipy.fft.fft2(chunk.astype(np.float32))


METHODS: dict[str, Callable[[np.ndarray], np.ndarray | None]] = {
    "plain transform": plain_transform,
    "this project": sums,
    "chunked spectrum": chunked_spectrum,
    "NumPy loop": numpy_loop,
    "radial profiles": radial_profiles,
}


def time_in_turn(
    images_uint8: np.ndarray, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Returns wall and CPU seconds of each method in each round."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in METHODS}
    for _ in range(rounds):
        for name, method in METHODS.items():
            start = time.perf_counter(), time.process_time()
            method(images_uint8)
            wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
            seconds[name].append((wall, cpu))
    return seconds


def peak_megabytes(num_images: int) -> float:
    """Returns the peak of memory that the sums of a set allocate beside its images."""
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 1), np.uint8)
    images = np.broadcast_to(image, (num_images, *image.shape))
    tracemalloc.start()
    measure_moments(images, STRIDES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


@click.command()
@click.option("--n", "num_images", default=60_000, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path))
def main(num_images: int, rounds: int, out: Path | None) -> None:
    """Compares speed and memory."""
    with np.load(BUNDLED_FILE, allow_pickle=False) as arrays:
        real = arrays["train_images"][..., np.newaxis]
    images = np.resize(real, (num_images, *real.shape[1:]))
    spectra = [method(images[:500]) for method in (sums, chunked_spectrum, numpy_loop)]
    if not all(np.allclose(other, spectra[0], rtol=1e-4) for other in spectra[1:]):
        raise click.ClickException("the mean spectra differ")
    seconds = time_in_turn(images, rounds)
    memory = {n: peak_megabytes(n) for n in MEMORY_NUMBERS}
    for name, times in seconds.items():
        wall, cpu = (np.array(times) / np.array(seconds["plain transform"])).T
        speed = num_images / np.median([wall for wall, _ in times])
        click.echo(
            f"{name:>16}: {speed:>8.0f} images/s; as long as {spread(wall)} plain "
            f"transforms, in CPU time {spread(cpu)}"
        )
    for count, megabytes in memory.items():
        click.echo(f"{count:>16} images: at most {megabytes:.1f} MB beside them")
    result = {
        "num_images": num_images,
        "wall_and_cpu_seconds": seconds,
        "peak_megabytes": memory,
    }
    save(out, result)


if __name__ == "__main__":
    main()
