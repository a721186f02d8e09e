"""Predictions agree with hand-worked numbers, with each other and with images."""

import keras
import numpy as np
import pytest
from keras import layers

from analysis.checkerboard.frequencies import grid_frequencies
from analysis.checkerboard.meter import content_power, fit_gain, fit_line
from analysis.checkerboard.moments import measure_moments
from analysis.checkerboard.predictions import (
    estimate,
    predict,
    predict_by_probe,
    windowed_means,
)
from config.schema import ModelConfig
from gan.models import build_generator

ONES = np.ones((5, 5, 1, 1))
FREE = np.random.default_rng(3).normal(0, 0.3, (5, 5, 1, 1))
NUM_MODES = 9  # constant, and the waves of one period per map: content near frequency 0


def small_generator(**changes):
    config = ModelConfig(
        generator_widths=(8, 6, 4), initializer_stddev=0.1, latent_dim=16, **changes
    )
    return build_generator(config)


def linear_generator(kernels, side=32):
    """Smooth random fields about 0.2, then transposed convolutions of stride 2."""
    angle = 2 * np.pi * np.arange(side) / side
    waves = np.stack([np.ones(side), np.cos(angle), np.sin(angle)])
    modes = np.einsum("ih,jw->ijhw", waves, waves).reshape(NUM_MODES, -1)
    inputs = keras.Input((NUM_MODES,))
    dense = layers.Dense(side**2)
    x = layers.Reshape((side, side, 1))(dense(inputs))
    for index, kernel in enumerate(kernels):
        layer = layers.Conv2DTranspose(
            1, kernel.shape[0], 2, "same", use_bias=False, name=f"up{index}"
        )
        x = layer(x)
        layer.set_weights([kernel / kernel.sum() * 4])
    dense.set_weights([0.1 * modes, np.full(side**2, 0.2)])
    return keras.Model(inputs, x)


def names(strides):
    return [frequency.name for frequency in grid_frequencies(strides)]


def gains(predicted):
    return np.array([p.imaging_gain_percent.value for p in predicted])


def fixed(predicted):
    return np.array([p.fixed_pattern_levels.value for p in predicted])


@pytest.mark.parametrize("predictor", ["geometry", "weights", "probe"])
def test_five_equal_taps_have_the_gains_of_nine_six_six_four(predictor):
    # (9 - 6 + 6 - 4) / 25 = 1/5 along one axis, (9 - 6 - 6 + 4) / 25 = 1/25 at the
    # corner; the bias of 0.2 is 25.5 grey levels.
    found = predict(linear_generator([ONES]), (2,))[predictor]
    assert names((2,)) == ["(0, 1/2)", "(1/2, 0)", "(1/2, 1/2)"]
    np.testing.assert_allclose(gains(found), [20, 20, 4], rtol=1e-3)
    # The latents of the constant mode add 12.75 / sqrt(512) levels to the bias.
    np.testing.assert_allclose(fixed(found), 25.5 * gains(found) / 100, rtol=0.07)


def test_two_stages_of_equal_taps():
    found = predict(small_generator(kernel_size=5), (2, 2), 64)["geometry"]
    by_name = dict(zip(names((2, 2)), gains(found), strict=True))
    assert by_name["(1/2, 0)"] == pytest.approx(20)
    assert by_name["(1/2, 1/2)"] == pytest.approx(4)
    assert by_name["(1/4, 0)"] < 20 / 3
    assert gains(
        predict(small_generator(kernel_size=4), (2, 2), 64)["geometry"]
    ).max() < (1e-9)


@pytest.mark.parametrize(
    "method",
    ["resize-nearest", "resize-bilinear", "resize-bicubic"]
    + ["transpose-blur", "transpose-fir", "transpose-balanced"]
    + ["subpixel-icnr", "subpixel-icnr-blur"],
)
def test_methods_without_a_pattern_have_none_by_any_predictor(method):
    found = predict(small_generator(upsample=method), (2, 2), 64)
    assert set(found) == {"geometry", "weights", "probe"}
    if method == "transpose-balanced":  # its taps are not equal, as geometry assumes
        assert gains(found.pop("geometry")).max() > 10
    for predicted in found.values():
        assert gains(predicted).max() < 1e-2
        assert fixed(predicted).max() < 1e-4


@pytest.mark.parametrize("predictor", ["weights", "probe"])
@pytest.mark.parametrize("unbalanced", [0, 1])
def test_a_planted_imbalance_is_attributed_to_its_stage_alone(
    predictor, unbalanced, balanced
):
    kernels = [balanced(ONES + FREE), balanced(ONES - FREE)]
    kernels[unbalanced] = ONES + FREE
    found = predict(linear_generator(kernels, side=8), (2, 2), 64)[predictor]
    for frequency, gain in zip(grid_frequencies((2, 2)), gains(found), strict=True):
        if frequency.stage == 2 - unbalanced:
            assert gain > 0.1
        else:
            assert gain < 1e-3


@pytest.mark.parametrize("kernel", [ONES, ONES + FREE], ids=["equal", "random"])
def test_measured_gain_and_pattern_of_smooth_content_are_the_predicted_ones(kernel):
    generator = linear_generator([kernel])
    latents = np.random.default_rng(1).standard_normal((600, NUM_MODES))
    moments = measure_moments(np.asarray(generator(latents.astype("float32"))), (2,))
    found = predict(generator, (2,))
    for k in range(3):
        scale = 100 / np.sqrt(content_power(moments, k))
        gain, line = fit_gain(moments, k).estimate(scale), fit_line(moments, k)
        for predictor in ("weights", "probe"):
            predicted = found[predictor][k]
            expected = predicted.imaging_gain_percent
            # Content of one period per image is not quite of frequency 0.
            assert gain.value == pytest.approx(expected.value, rel=0.03)
            assert gain.value != pytest.approx(1.1 * expected.value, rel=0.03)
            pattern, measured = predicted.fixed_pattern_levels, line.estimate()
            assert measured.low < pattern.high and pattern.low < measured.high


def test_intervals_hold_what_many_latents_give():
    generator = small_generator(kernel_size=5)
    truth = predict_by_probe(generator, (2, 2), num_latents=2048, seed=99)
    inside = []
    for seed in range(8):
        for one, exact in zip(
            predict_by_probe(generator, (2, 2), 128, seed), truth, strict=True
        ):
            for key in ("imaging_gain_percent", "fixed_pattern_levels"):
                interval = getattr(one, key)
                inside.append(
                    interval.low <= getattr(exact, key).value <= interval.high
                )
    assert np.mean(inside) > 0.88  # of 144 dependent intervals of 95 %


def test_a_squared_level_makes_a_gain_of_its_own():
    """A line that follows the square of the level is explained, as by the meter."""
    levels = np.random.default_rng(0).normal(0, 20, (512, 1))
    corner = grid_frequencies((2,))[2]
    found = estimate(levels, levels**2 / 127.5, corner).imaging_gain_percent
    expected = np.std(levels**2 / 127.5) / np.std(levels)
    assert found.value == pytest.approx(100 * expected, rel=0.01)
    noise = np.random.default_rng(1).normal(0, 1, (512, 1))
    assert estimate(levels, noise, corner).imaging_gain_percent.low == 0


def test_weights_say_what_the_probe_says_of_a_linear_subpixel_generator():
    inputs = keras.Input((1,))
    dense = layers.Dense(400, kernel_initializer="ones", bias_initializer="ones")
    x = layers.Reshape((20, 20, 1))(dense(inputs))
    initial = keras.initializers.RandomNormal(seed=1)
    x = layers.Conv2D(8, 3, padding="same", kernel_initializer=initial)(x)
    x = keras.ops.depth_to_space(x, 2)
    x = layers.Conv2D(1, 1, use_bias=False, kernel_initializer=initial)(x)
    found = predict(keras.Model(inputs, x), (2,))
    assert gains(found["probe"]).min() > 1
    # Not equal, because the border of the recorded map is not constant.
    np.testing.assert_allclose(
        gains(found["weights"]), gains(found["probe"]), rtol=0.05
    )


def test_weights_are_near_the_probe_with_all_layers_in_between():
    found = predict(small_generator(kernel_size=5), (2, 2))
    ratio = np.linalg.norm(gains(found["weights"])) / np.linalg.norm(
        gains(found["probe"])
    )
    assert 0.5 < ratio < 1.5


def test_windowed_means_weigh_the_middle():
    maps = np.zeros((1, 7, 7, 1))
    maps[0, 3, 3] = 1
    assert windowed_means(np.ones((1, 7, 7, 2)), (28, 28)) == pytest.approx(1)
    assert windowed_means(maps, (28, 28))[0, 0] > 2 / 49


def test_a_predictor_that_cannot_run_is_missing():
    inputs = keras.Input((4,))
    x = layers.Reshape((4, 4, 1))(layers.Dense(16)(inputs))
    x = layers.Conv2DTranspose(2, 4, 2, "same", name="up")(x)
    pooled = keras.Model(inputs, layers.MaxPooling2D(3, 1, "same")(x))
    assert set(predict(pooled, (2,), 64)) == {"probe"}
    # Other strides than the model's, and latents that change nothing.
    assert predict(pooled, (2, 2), 64) == {}
    still = layers.Rescaling(0.0, 0.5)(inputs)
    x = layers.Conv2DTranspose(1, 4, 2, "same")(layers.Reshape((2, 2, 1))(still))
    assert predict(keras.Model(inputs, x), (2,), 64) == {}
