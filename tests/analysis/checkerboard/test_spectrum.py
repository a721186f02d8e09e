"""Theory of the mean spectrum, and the defects of other ways to average it."""

import numpy as np
import pytest

from analysis.checkerboard import profiles, spectrum
from analysis.checkerboard.layout import Protocol, line_bins, make_layout, neighbours
from analysis.checkerboard.meter import cell_powers, pnr_db
from analysis.checkerboard.profiles import (
    full,
    log_spectral_distance_db,
    radial_profile,
)
from analysis.checkerboard.spectrum import mean_level, measure
from gan.data.dataset import BUNDLED_FILE

SHAPE = (28, 28)
ROWS, COLUMNS = np.indices(SHAPE)
CHECKER = (-1.0) ** (ROWS + COLUMNS)
SELF_CONJUGATE = ((14, 0), (0, 14), (14, 14))


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    """The 10,000 test images of Fashion-MNIST, uint8 (N, 28, 28)."""
    with np.load(BUNDLED_FILE, allow_pickle=False) as arrays:
        return arrays["test_images"]


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    """White noise of 20 grey levels, uint8."""
    levels = np.random.default_rng(0).normal(128, 20, (15_000, *SHAPE))
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def wave(row: int, column: int) -> np.ndarray:
    return np.cos(2 * np.pi * (row * ROWS + column * COLUMNS) / 28)


def levels_to_float(levels: np.ndarray) -> np.ndarray:
    return (levels / 127.5 - 1).astype(np.float32)


def test_lines_of_two_doublings_and_their_layers():
    bins = line_bins(SHAPE, (2, 2))
    last = {(14, 0), (0, 14), (14, 14)}
    prev = {(7, 0), (0, 7), (7, 7), (7, 21), (7, 14), (14, 7)}
    assert {(r, c) for r, c, layer in bins if layer == 1} == last
    assert {(r, c) for r, c, layer in bins if layer == 2} == prev
    multiplicity = [line.multiplicity for line in make_layout(28, 28, Protocol()).lines]
    assert 1 + sum(multiplicity) == 16  # with DC, all multiples of 1/4


def test_lines_of_other_strides():
    layers = {(r, c): layer for r, c, layer in line_bins((64, 64), (2, 2, 2))}
    assert layers[32, 0] == 1
    assert layers[16, 32] == 2
    assert layers[8, 32] == 3
    assert {layer for *_, layer in line_bins((30, 30), (3,))} == {1}
    mixed = {(r, c): layer for r, c, layer in line_bins((36, 36), (2, 3))}
    assert mixed[12, 0] == 1  # 1/3 comes from the last stride, 3
    assert mixed[18, 0] == 2


def test_neighbours_on_an_axis_stay_on_it():
    assert set(neighbours(14, 0, SHAPE, 4)) == {(11, 0), (12, 0), (16, 0), (17, 0)}
    assert len(neighbours(7, 7, SHAPE, 4)) == 7 * 7 - 3 * 3
    # 4 bins between lines: those at distance 3 guard the next line.
    assert set(neighbours(8, 0, (32, 32), 8)) == {(6, 0), (10, 0)}


def test_images_are_cut_to_a_multiple_of_the_strides():
    assert make_layout(30, 29, Protocol()).shape == (28, 28)
    assert make_layout(28, 28, Protocol(crop_px=24)).shape == (24, 24)
    with pytest.raises(ValueError, match="16 px or more"):
        make_layout(12, 28, Protocol())


@pytest.mark.parametrize(("window", "bandwidth"), [("hann", 1.5), ("kaiser", 1.73)])
def test_noise_bandwidth_of_the_windows(window: str, bandwidth: float):
    layout = make_layout(28, 28, Protocol(window))
    assert 28 * np.sqrt(layout.line_gain) == pytest.approx(bandwidth, abs=0.01)
    hann = make_layout(28, 28, Protocol())
    assert hann.line_gain == pytest.approx(110.25 / 196**2)


def test_a_line_leaks_one_bin_under_hann_and_none_without_window():
    images = levels_to_float(127.5 + 8 * wave(7, 5))[None]
    hann = measure(images, level=127.5).power
    assert np.unravel_index(hann.argmax(), hann.shape) == (7, 5)
    assert hann[8, 5] / hann[7, 5] == pytest.approx(1 / 4, rel=1e-4)  # -6 dB
    assert hann[9, 5] / hann[7, 5] < 1e-10
    flat = measure(images, level=127.5, protocol=Protocol("rectangular")).power
    assert flat[7, 5] / flat.sum() == pytest.approx(1, rel=1e-6)


def test_a_checkerboard_is_the_corner_bin():
    power = measure(levels_to_float(127.5 + 8 * CHECKER)[None], level=127.5).power
    assert np.unravel_index(power.argmax(), power.shape) == (14, 14)


def test_a_constant_image_has_no_power_once_its_mean_is_gone():
    images = np.full((3, *SHAPE), 60, np.uint8)
    assert measure(images, level=mean_level(images)).power.max() <= spectrum.FLOOR


def test_parseval(real: np.ndarray):
    level = mean_level(real)
    rectangular = Protocol("rectangular")
    power = measure(real[:500], level=level, protocol=rectangular).power
    squares = ((real[:500] - level) ** 2).sum(axis=(1, 2)).mean()
    assert full(power, SHAPE).sum() == pytest.approx(squares, rel=1e-6)


def test_float32_transforms_equal_float64_ones(real: np.ndarray):
    level, window = mean_level(real), make_layout(28, 28, Protocol()).window
    exact = np.abs(np.fft.rfft2((real[:2000] - level) * window)) ** 2
    expected = exact.mean(axis=0) / (window**2).sum()
    spectrum = measure(real[:2000], level=level)
    assert spectrum.power == pytest.approx(expected, rel=1e-5)
    floats = measure(levels_to_float(real[:2000]), level=level)
    assert floats.power == pytest.approx(expected, rel=1e-5)


def test_chunks_iterators_and_memmaps_make_no_difference(
    real: np.ndarray, monkeypatch: pytest.MonkeyPatch, tmp_path
):
    level = mean_level(real)
    whole = measure(real[:3000], level=level)
    np.save(tmp_path / "images.npy", real[:3000])
    memmap = np.load(tmp_path / "images.npy", mmap_mode="r")
    pieces = (real[start : start + 700] for start in range(0, 2800, 700))
    chunks = iter([*pieces, real[2800:3000]])
    others = [measure(chunks, level=level), measure(memmap, level=level)]
    monkeypatch.setattr(spectrum, "CHUNK_VALUES", 7 * 784)
    others.append(measure(real[:3000], level=level))
    for other in others:
        assert other.num_images == 3000
        assert other.power == pytest.approx(whole.power, rel=1e-12)
        assert other.laplacian == pytest.approx(whole.laplacian, rel=1e-12)
        assert np.array_equal(other.rows, whole.rows)


def test_rows_for_resampling_stay_few(
    real: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(spectrum, "MAX_ROWS", 1000)
    found = measure(real[:2500], level=72.0)
    assert found.rows.shape[0] == 1000
    assert spectrum.rows[:, -1].sum() == 2500
    means = spectrum.rows[:, :-1].sum(axis=0) / 2500
    assert means == pytest.approx(cell_powers(spectrum), rel=1e-4)


def test_colours_are_averaged_in_power(real: np.ndarray):
    rgb = np.stack([real[:600], real[600:1200], real[1200:1800]], axis=-1)
    grey = measure(real[:1800], level=72.0)
    colour = measure(rgb, level=72.0)
    assert colour.power == pytest.approx(grey.power, rel=1e-6)
    assert colour.mean_transform.shape == (3, 28, 15)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no images"),
        ([np.zeros((2, 28, 28), np.uint8), np.zeros((2, 32, 32), np.uint8)], "several"),
        (np.full((2, 28, 28), np.nan, np.float32), "not finite"),
    ],
)
def test_what_cannot_be_measured(images, message: str):
    with pytest.raises(ValueError, match=message):
        measure(images, level=0.0)


def test_real_images_against_their_neighbourhoods(real: np.ndarray):
    """Recorded once for this set: no line, but nothing is exactly 0 dB either."""
    spectrum = measure(real, level=mean_level(real))
    ratios = pnr_db(cell_powers(spectrum), spectrum.layout)
    found = {line.name: ratios[i] for i, line in enumerate(spectrum.layout.lines)}
    expected = {"14,0": -1.6, "0,14": -2.5, "14,14": -2.0, "7,0": -0.3, "7,7": 0.1}
    expected |= {"7,21": 0.4, "7,14": -1.3, "14,7": -0.6}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=0.06)
    phases = [profiles.phase_variance_db(spectrum, period) for period in (2, 4)]
    assert phases == pytest.approx([0.17, 0.64], abs=0.01)


def test_white_noise_is_flat_and_logarithms_dip(noise: np.ndarray):
    """Averaging logarithms of power lowers the bins where checkerboards are by 3 dB.

    Their transform is real: log chi^2_1 has a lower mean than log chi^2_2.
    """
    spectrum = measure(noise, level=128.0)
    decibels = 10 * np.log10(spectrum.power / (20**2 + 1 / 12))
    # 15,000 images: one standard error is 0.04 dB, 0.05 dB in self-conjugate bins.
    assert np.abs(decibels[1:]).max() < 0.2
    window = make_layout(28, 28, Protocol()).window
    transform = np.fft.rfft2((noise - 128.0) * window)
    logs = (10 * np.log10(np.abs(transform) ** 2)).mean(axis=0)
    dips = [logs[place] - np.median(logs) for place in SELF_CONJUGATE]
    # One standard error of each is 0.08 dB, of their mean 0.05 dB.
    assert np.mean(dips) == pytest.approx(-3.01, abs=0.1)
    assert dips == pytest.approx([-3.01] * 3, abs=0.25)


def usual_azimuthal_average(power: np.ndarray) -> np.ndarray:
    """Averages a shifted spectrum over rings as most public code does."""
    rows, columns = np.indices(power.shape)
    centre = (np.array(power.shape) - 1) / 2  # half a bin beside DC
    radius = np.hypot(rows - centre[0], columns - centre[1]).astype(int)
    sums = np.bincount(radius.ravel(), power.ravel())
    means = sums / np.bincount(radius.ravel())
    return means[: power.shape[0] // 2]  # and nothing beyond


def test_a_profile_without_corners_misses_the_checkerboard(real: np.ndarray):
    level, base = mean_level(real), real[:2000] * 0.9 + 12.75
    clean = measure(levels_to_float(base), level=level).power
    checkered = measure(levels_to_float(base + 8 * CHECKER), level=level).power
    usual = [
        usual_azimuthal_average(np.fft.fftshift(full(power, SHAPE)))
        for power in (clean, checkered)
    ]
    assert 10 * np.log10(usual[1] / usual[0]) == pytest.approx(np.zeros(14), abs=0.01)
    ours = [radial_profile(power, SHAPE) for power in (clean, checkered)]
    assert len(ours[0]) == 20
    assert 10 * np.log10(ours[1][19] / ours[0][19]) > 15


def test_rings_hold_each_pair_once():
    assert profiles.independent(SHAPE).sum() == (28 * 28 + 4) / 2 - 1
    ones = np.ones((28, 15))
    assert radial_profile(ones, SHAPE)[1:] == pytest.approx(np.ones(19))
    assert profiles.high_band_share(ones, SHAPE) == pytest.approx(0.81, abs=0.005)


def test_half_spectra_unfold(real: np.ndarray):
    for shape in ((28, 28), (27, 24), (24, 27)):
        image = real[0, : shape[0], : shape[1]].astype(float)
        half = np.abs(np.fft.rfft2(image))
        assert full(half, shape) == pytest.approx(np.abs(np.fft.fft2(image)))


def test_log_spectral_distance_of_known_spectra():
    ones = np.ones((28, 15))
    assert log_spectral_distance_db(10 * ones, ones, SHAPE) == pytest.approx(10)
    assert log_spectral_distance_db(ones, ones, SHAPE) == 0


def test_phases_of_unequal_variance_have_no_line(noise: np.ndarray):
    """Cyclostationary noise: twice the variance in one phase of four, flat spectrum."""
    deviations = (noise - 128.0) * np.where((ROWS % 2 == 0) & (COLUMNS % 2 == 0), 2, 1)
    spectrum = measure(levels_to_float(deviations + 127.5), level=127.5)
    assert np.abs(pnr_db(cell_powers(spectrum), spectrum.layout)).max() < 0.3
    assert profiles.phase_variance_db(spectrum, 2) > 2
    assert profiles.phase_variance_db(measure(noise, level=128.0), 2) < 0.1


def test_border_profile(noise: np.ndarray):
    framed = noise[:2000].copy()
    framed[:, 0] = 255
    profile = profiles.border_profile(measure(framed, level=128.0))
    assert profile[0, 0] == pytest.approx([255, 128, 128, 128], abs=1)
    assert profile[1, 0] == pytest.approx([0, 400, 400, 400], abs=20)
    assert profile[0, 1] == pytest.approx([128] * 4, abs=1)
