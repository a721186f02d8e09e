"""Compares speed and memory of the mean spectrum with two common ways to compute it.

    python -m benchmarks.spectra [--n 60000] [--out FILE.json]

Three methods take turns in one process on the same images:
`analysis.checkerboard.spectrum.measure`; a NumPy loop that transforms image by image
and adds up power; and the radial profile of each image, as papers about spectra compute
it. `measure` also keeps what resampling, phases and borders need.
"""

import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
from analysis.checkerboard.layout import Protocol, make_layout
from analysis.checkerboard.spectrum import mean_level, measure

from benchmarks.results import save
from gan.data.dataset import BUNDLED_FILE


def chunked(images_uint8: np.ndarray) -> np.ndarray:
    """The mean spectrum of this project."""
    return measure(images_uint8, level=mean_level(images_uint8)).power


def numpy_loop(images_uint8: np.ndarray) -> np.ndarray:
    """The same mean spectrum, one image at a time."""
    window = make_layout(28, 28, Protocol()).window
    level, total = images_uint8.mean(), np.zeros((28, 28))
    for image in images_uint8[..., 0]:
        total += np.abs(np.fft.fft2((image - level) * window)) ** 2
    return total / len(images_uint8) / (window**2).sum()


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
        sums = np.cumsum(magnitude.ravel()[order])
        profile = np.diff(sums[ends]) / np.diff(ends)
        total += (profile - profile.min()) / (profile.max() - profile.min())
    return total / len(images_uint8)


METHODS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "this project": chunked,
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
    """Returns the peak of allocated memory while a stream of images is measured."""

    def stream() -> Iterator[np.ndarray]:
        random = np.random.default_rng(0)
        for start in range(0, num_images, 500):
            size = min(500, num_images - start), 28, 28, 1
            yield random.integers(0, 256, size, np.uint8)

    tracemalloc.start()
    measure(stream(), level=128.0)
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
    half = chunked(images[:500])
    if not np.allclose(half, numpy_loop(images[:500])[:, :15], rtol=1e-4):
        raise click.ClickException("the two mean spectra differ")
    seconds = time_in_turn(images, rounds)
    memory = {n: peak_megabytes(n) for n in (30_000, 60_000, 240_000)}
    for name, times in seconds.items():
        ratios = np.array(times) / np.array(seconds["this project"])
        low, middle, high = np.quantile(ratios, [0, 0.5, 1], axis=0)
        speed = num_images / np.median([wall for wall, _ in times])
        click.echo(
            f"{name:>16}: {speed:>8.0f} images/s; ours is faster "
            f"{middle[0]:.1f} times ({low[0]:.1f} to {high[0]:.1f}), "
            f"in CPU time {middle[1]:.1f} ({low[1]:.1f} to {high[1]:.1f})"
        )
    for count, megabytes in memory.items():
        click.echo(f"{count:>16} images in a stream: at most {megabytes:.1f} MB")
    result = {
        "num_images": num_images,
        "wall_and_cpu_seconds": seconds,
        "peak_megabytes": memory,
    }
    save(out, result)


if __name__ == "__main__":
    main()
