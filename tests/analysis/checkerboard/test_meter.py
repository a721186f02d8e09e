"""Amplitudes and ratios against real images, and whether the intervals cover."""

import dataclasses

import numpy as np
import pytest

from analysis.checkerboard.layout import Layout, Protocol
from analysis.checkerboard.meter import (
    cell_powers,
    contrast,
    detection_limit,
    families,
    pnr_db,
    signed_root,
    squared_amplitudes,
    trimmed_pnr_db,
)
from analysis.checkerboard.spectrum import Spectrum, mean_level, measure
from analysis.statistics import Interval, bootstrap_means, percentile_interval
from gan.data.dataset import BUNDLED_FILE

ROWS, COLUMNS = np.indices((28, 28))
PATTERNS = {
    "14,14": (-1.0) ** (ROWS + COLUMNS),
    "14,0": (-1.0) ** ROWS,
    "7,7": np.sqrt(2) * np.cos(np.pi * (ROWS + COLUMNS) / 2 + 0.7),
}
NUM_REPETITIONS = 200


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    with np.load(BUNDLED_FILE, allow_pickle=False) as arrays:
        return arrays["test_images"]


@pytest.fixture(scope="module")
def real_spectrum(real: np.ndarray) -> Spectrum:
    return measure(real, level=mean_level(real))


def index_of(name: str, spectrum: Spectrum) -> int:
    return [line.name for line in spectrum.layout.lines].index(name)


def rounded(levels: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def test_amplitude_of_a_pattern_alone(real_spectrum: Spectrum):
    """No background: the root mean square of the pattern comes back exactly."""
    layout = real_spectrum.layout
    for name, pattern in PATTERNS.items():
        images = (3 * pattern / 127.5).astype(np.float32)[None]
        powers = cell_powers(measure(images, level=127.5))
        squares = squared_amplitudes(powers, np.ones_like(powers), layout)
        assert squares[index_of(name, real_spectrum)] == pytest.approx(9, rel=1e-4)


def test_lack_of_power_is_a_negative_amplitude():
    assert signed_root(np.array([-4.0, 9.0])) == pytest.approx([-2, 3])


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize(
    "protocol", [Protocol(), Protocol("kaiser"), Protocol(crop_px=24)]
)
def test_recovery_under_each_protocol(real: np.ndarray, name: str, protocol: Protocol):
    base = real * 0.9 + 12.75
    level = float(base.mean())
    clean = measure(rounded(base[::2]), level=level, protocol=protocol)
    injected = rounded(base[1::2] + 4 * PATTERNS[name])
    result = contrast(measure(injected, level=level, protocol=protocol), clean)
    side = protocol.crop_px or 28
    index = index_of(
        name.replace("14", str(side // 2)).replace("7", str(side // 4)), clean
    )
    measured = result.amplitude[index]
    assert abs(measured.value - 4) < 0.2 or measured.low < 4 < measured.high
    assert result.delta_pnr_db.low[index] > 0


def test_clipping_loses_a_share(real: np.ndarray, real_spectrum: Spectrum):
    """Half of the pixels are 0: without headroom 88 % of a pattern is left."""
    shares = {}
    for amplitude in (0.5, 2.0, 4.0):
        images = rounded(real + amplitude * PATTERNS["14,14"])
        injected = measure(images, level=mean_level(real))
        squares = squared_amplitudes(
            cell_powers(injected), cell_powers(real_spectrum), real_spectrum.layout
        )
        square = squares[index_of("14,14", real_spectrum)]
        shares[amplitude] = np.sqrt(square) / amplitude
    assert shares == pytest.approx({0.5: 0.80, 2.0: 0.88, 4.0: 0.88}, abs=0.01)


def test_coherence_tells_fixed_from_random_signs(real: np.ndarray):
    base, level = real[:4000] * 0.9 + 12.75, float(real.mean() * 0.9 + 12.75)
    signs = np.random.default_rng(0).choice([-1, 1], (4000, 1, 1))
    clean = measure(rounded(base), level=level)
    index = index_of("14,14", clean)
    fixed, mixed = (
        contrast(measure(rounded(base + 2 * s * PATTERNS["14,14"]), level=level), clean)
        for s in (1, signs)
    )
    assert fixed.coherence[index] == pytest.approx(0.93, abs=0.02)
    assert mixed.coherence[index] < 0.01
    assert mixed.amplitude.value[index] == pytest.approx(2, abs=0.05)
    assert fixed.amplitude.value[index] == pytest.approx(2, abs=0.05)


def test_a_filter_leaves_a_notch(real: np.ndarray):
    """Averaging 2x2 pixels has a zero at 1/2: far below real images, no line."""
    smooth = sum(np.roll(real, s, (1, 2)) / 4 for s in ((0, 0), (0, 1), (1, 0), (1, 1)))
    result = contrast(
        measure(rounded(smooth), level=mean_level(real)),
        measure(real, level=mean_level(real)),
    )
    assert (result.family_delta_pnr_db[1].high) < -3
    assert result.family_amplitude[1].value < 0


def test_detection_limits_of_5000_real_images(real: np.ndarray):
    """The diagonal shows a quarter of a grey level, the axes only more than one."""
    level = mean_level(real)
    null = contrast(measure(real[1::2], level=level), measure(real[::2], level=level))
    names = [line.name for line in measure(real[:2], level=level).layout.lines]
    limits = dict(zip(names, detection_limit(null.amplitude), strict=True))
    assert 0.1 < limits["14,14"] < 0.35
    assert 0.4 < limits["7,7"] < 0.9
    assert 0.8 < limits["14,0"] < 1.6
    assert 1.2 < limits["7,0"] < 2.1
    assert detection_limit(Interval(0.0, -1.0, 1.0)) == pytest.approx(1)


def test_trimming_moves_only_heavy_tails(real_spectrum: Spectrum):
    shift = trimmed_pnr_db(real_spectrum) - pnr_db(
        cell_powers(real_spectrum), real_spectrum.layout
    )
    assert shift[index_of("14,0", real_spectrum)] < -0.5
    assert abs(shift[index_of("7,14", real_spectrum)]) < 0.3


def test_other_sizes_are_refused(real: np.ndarray, real_spectrum: Spectrum):
    with pytest.raises(ValueError, match=r"\(24, 24\)"):
        contrast(measure(real[:10, :24, :24], level=72.0), real_spectrum)


def coverage(
    rows: np.ndarray, real_rows: np.ndarray, layout: Layout
) -> tuple[list[Interval], list[Interval]]:
    """Intervals of delta PNR and of squared amplitudes from random disjoint halves."""
    random, half = np.random.default_rng(1), len(rows) // 2
    deltas, squares = [], []

    def table(drawn: np.ndarray, seed: int) -> np.ndarray:
        estimate = drawn[:, :-1].mean(axis=0, dtype=np.float64)
        return np.vstack([estimate, bootstrap_means(drawn, 400, seed)])

    for repetition in range(NUM_REPETITIONS):
        order = random.permutation(len(rows))
        first = table(rows[order[:half]], 2 * repetition)
        second = table(real_rows[order[half:]], 2 * repetition + 1)
        square = squared_amplitudes(first, second, layout)
        sums = [square[:, own].sum(axis=1) for own in families(layout).values()]
        deltas.append(
            percentile_interval(pnr_db(first, layout) - pnr_db(second, layout))
        )
        squares.append(percentile_interval(np.column_stack([square, *sums])))
    return deltas, squares


def share(intervals: list[Interval], target: float) -> np.ndarray:
    return np.mean([(i.low <= target) & (target <= i.high) for i in intervals], axis=0)


def test_intervals_of_real_halves_hold_the_null(real_spectrum: Spectrum):
    rows = real_spectrum.rows
    deltas, squares = coverage(rows, rows, real_spectrum.layout)
    assert share(deltas, 0).min() >= 0.90
    assert share(squares, 0).min() >= 0.90  # every line, then both families


def test_intervals_hold_an_injected_amplitude(real: np.ndarray):
    base = real * 0.9 + 12.75
    level = float(base.mean())
    clean = measure(rounded(base), level=level)
    lines, tables, real_tables, start = [], [], [], 0
    for name, pattern in PATTERNS.items():
        line = clean.layout.lines[index_of(name, clean)]
        cells = [line.center, *line.ring]
        ring = tuple(range(start + 1, start + len(cells)))
        lines.append(dataclasses.replace(line, center=start, ring=ring))
        injected = measure(rounded(base + 2 * pattern), level=level)
        tables.append(injected.rows[:, cells])
        real_tables.append(clean.rows[:, cells])
        start += len(cells)
    ones = np.ones((len(real), 1), np.float32)
    layout = dataclasses.replace(clean.layout, lines=tuple(lines))
    rows, real_rows = np.hstack([*tables, ones]), np.hstack([*real_tables, ones])
    _, squares = coverage(rows, real_rows, layout)
    assert share(squares, 4.0)[: len(lines)].min() >= 0.90
