import keras
import numpy as np
import pytest
from keras import layers

from analysis.checkerboard.kernels import Stage, chain_lines
from analysis.checkerboard.probe import clean_interior, probe
from analysis.geometry.arithmetic import conv_transpose_axis
from config.schema import ModelConfig
from gan.models import build_generator

FLOOR_DB = -120  # float32 rounding of a mean of about 1
LAST = ((2, 0), (0, 2), (2, 2))


def latents(count, dim=100, seed=0):
    return np.random.default_rng(seed).standard_normal((count, dim)).astype("float32")


def linear_chain(kernels):
    """Dense, then transposed convolutions of stride 2, nothing else."""
    inputs = keras.Input((3,))
    channels = kernels[0].shape[3]
    x = layers.Dense(7 * 7 * channels)(inputs)
    x = layers.Reshape((7, 7, channels))(x)
    for index, kernel in enumerate(kernels):
        x = layers.Conv2DTranspose(
            kernel.shape[2],
            kernel.shape[:2],
            2,
            padding="same",
            use_bias=False,
            name=f"up{index}",
        )(x)
    model = keras.Model(inputs, x)
    for index, kernel in enumerate(kernels):
        model.get_layer(f"up{index}").set_weights([kernel])
    return model


def small_generator(upsample, seed, kernel_size=5):
    config = ModelConfig(
        upsample=upsample, kernel_size=kernel_size, generator_widths=(64, 32, 16)
    )
    return build_generator(config, seed=seed)


def line_powers(phases):
    """Power at bin (a, b), mean over fields and channels."""
    table = np.fft.fft2(phases, axes=(1, 2), norm="forward")
    return np.mean(np.abs(table) ** 2, axis=(0, 3))


def lines_db(phases):
    """Power at the bins beside (0, 0) relative to that of the mean, dB."""
    power = line_powers(phases).ravel()
    return 10 * np.log10(np.maximum(power[1:] / power[0], 1e-20))


def test_kernels_of_ones_give_a_fifth_and_a_twenty_fifth_of_the_mean():
    phases = probe(linear_chain([np.ones((5, 5, 1, 1))] * 2), latents(2, dim=3))
    assert phases.shape == (2, 4, 4, 1)
    sizes = np.sqrt(line_powers(phases))
    assert sizes[2, 0] / sizes[0, 0] == pytest.approx(1 / 5, rel=1e-4)
    assert sizes[0, 1] / sizes[0, 0] == pytest.approx(1 / 25, rel=1e-4)


def test_a_linear_chain_measures_what_its_kernels_predict_with_their_phase():
    rng = np.random.default_rng(4)
    kernels = [rng.standard_normal((5, 5, 4, 3)), rng.standard_normal((4, 4, 1, 4))]
    model, z = linear_chain(kernels), latents(1, dim=3)
    base = keras.Model(model.input, model.layers[2].output)
    means = np.asarray(base(z))[0].mean(axis=(0, 1))
    stages = [Stage((2, 2), kernel) for kernel in kernels]
    predicted = chain_lines(stages, means)[..., 0]
    measured = np.fft.fft2(probe(model, z)[0, ..., 0], norm="forward")
    # float32 layers against float64 sums.
    np.testing.assert_allclose(
        np.abs(measured), np.abs(predicted), rtol=1e-4, atol=1e-5
    )
    # "same" padding crops (1, 2) and (1, 1) pixels, one of them before the other
    # enlargement: a shift of 3 pixels of the output.
    shift = np.add.outer(np.arange(4), np.arange(4)) * 3 / 4
    np.testing.assert_allclose(
        measured, predicted * np.exp(2j * np.pi * shift), rtol=1e-3, atol=1e-4
    )


def test_a_balanced_kernel_gives_no_line_and_the_original_does(balanced):
    kernel = np.random.default_rng(5).standard_normal((5, 5, 1, 8))
    clean = probe(linear_chain([balanced(kernel)]), latents(4, dim=3))
    assert lines_db(clean).max() < -100
    assert lines_db(probe(linear_chain([kernel]), latents(4, dim=3))).max() > -10


@pytest.mark.parametrize("upsample", ["resize-nearest", "resize-bilinear"])
def test_interpolation_before_convolution_gives_no_line(upsample):
    phases = probe(small_generator(upsample, seed=0), latents(8))
    assert lines_db(phases).max() < FLOOR_DB


def test_untrained_transposed_convolutions_give_lines_as_strong_as_the_mean():
    found = []
    for seed in range(24):
        power = line_powers(probe(small_generator("transpose", seed), latents(2)))
        found.append(sum(power[place] for place in LAST) / power[0, 0])
    # Three lines with the power of DC each: +4.8 dB on average, skewed by the ratio.
    assert 2 < 10 * np.log10(np.median(found)) < 8


def test_the_interior_is_that_of_the_geometry_for_a_border_of_one_pixel():
    before, after = 1, 1
    for size, stride in ((24, 1), (24, 2), (48, 2)):
        before, after = conv_transpose_axis(size, 5, stride).clean_margins(
            (before, after)
        )
    period, first, sides = clean_interior(small_generator("transpose", seed=0), 24)
    assert period == (4, 4)
    assert first == (before, before)
    assert sides == (96 - before - after,) * 2


def test_the_probe_leaves_the_model_as_it_was():
    generator = small_generator("transpose", seed=1)
    z = latents(2)
    before = np.asarray(generator(z)), [w.copy() for w in generator.get_weights()]
    probe(generator, z)
    np.testing.assert_array_equal(np.asarray(generator(z)), before[0])
    for old, new in zip(before[1], generator.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert generator.get_layer("stage1_conv").output.shape == (None, 7, 7, 32)


def test_a_small_field_and_a_model_without_a_map_are_refused(monkeypatch):
    monkeypatch.setattr("analysis.checkerboard.probe.FIELD_SIZES", (4,))
    with pytest.raises(ValueError, match="reaches every pixel of a field of 4 px"):
        probe(small_generator("transpose", seed=0), latents(1))
    dense = keras.Sequential([keras.Input((3,)), layers.Dense(4)])
    with pytest.raises(ValueError, match="map"):
        probe(dense, latents(1, dim=3))
