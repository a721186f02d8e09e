import keras
import numpy as np
import pytest
from keras import layers

from analysis.checkerboard.kernels import Stage, chain_lines, phase_gains
from analysis.checkerboard.probe import probe
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


def balance(kernel):
    """The nearest kernel whose phase gains at stride 2 are all equal."""
    gains = phase_gains(kernel, (2, 2))
    taps = phase_gains(np.ones_like(kernel), (2, 2))
    common = (gains / taps).sum(axis=(0, 1)) / (1 / taps).sum(axis=(0, 1))
    step = (common - gains) / taps
    rows, columns = np.indices(kernel.shape[:2])
    return kernel + step[rows % 2, columns % 2]


def small_generator(upsample, seed, kernel_size=5):
    config = ModelConfig(
        upsample=upsample, kernel_size=kernel_size, generator_widths=(64, 32, 16)
    )
    return build_generator(config, seed=seed)


def last_family_db(result):
    return 10 * np.log10(sum(10 ** (result.lines_db[bin] / 10) for bin in LAST))


def test_kernels_of_ones_give_a_fifth_and_a_twenty_fifth_of_the_mean():
    result = probe(linear_chain([np.ones((5, 5, 1, 1))] * 2), latents(2, dim=3))
    assert result.strides == (4, 4)
    assert 10 ** (result.lines_db[2, 0] / 20) == pytest.approx(1 / 5, rel=1e-4)
    assert 10 ** (result.lines_db[0, 1] / 20) == pytest.approx(1 / 25, rel=1e-4)


def test_a_linear_chain_measures_what_its_kernels_predict():
    rng = np.random.default_rng(4)
    kernels = [rng.standard_normal((5, 5, 4, 3)), rng.standard_normal((4, 4, 1, 4))]
    model, z = linear_chain(kernels), latents(1, dim=3)
    base = keras.Model(model.input, model.layers[2].output)
    means = np.asarray(base(z))[0].mean(axis=(0, 1))
    stages = [Stage((2, 2), kernel) for kernel in kernels]
    predicted = np.abs(chain_lines(stages, means)[..., 0]) * 127.5
    # float32 layers against float64 sums.
    measured = probe(model, z).amplitudes_grey
    np.testing.assert_allclose(measured, predicted, rtol=1e-4, atol=1e-3)


def test_a_balanced_kernel_gives_no_line_and_the_original_does():
    kernel = np.random.default_rng(5).standard_normal((5, 5, 1, 8))
    balanced = balance(kernel)
    np.testing.assert_allclose(balance(balanced), balanced, atol=1e-12)
    clean = probe(linear_chain([balanced]), latents(4, dim=3))
    dirty = probe(linear_chain([kernel]), latents(4, dim=3))
    assert clean.lines_db.ravel()[1:].max() < -100
    assert dirty.lines_db.ravel()[1:].max() > -10


@pytest.mark.parametrize("upsample", ["resize-nearest", "resize-bilinear"])
def test_interpolation_before_convolution_gives_no_line(upsample):
    result = probe(small_generator(upsample, seed=0), latents(8))
    assert result.lines_db.ravel()[1:].max() < FLOOR_DB
    assert result.activation == "stage3_tanh"


def test_untrained_transposed_convolutions_give_lines_as_strong_as_the_mean():
    generators = (small_generator("transpose", seed=seed) for seed in range(24))
    powers = [last_family_db(probe(g, latents(2), size=12)) for g in generators]
    # Three lines with the power of DC each: +4.8 dB on average, skewed by the ratio.
    assert 2 < np.median(powers) < 8


def test_the_margins_are_those_of_the_geometry_for_a_border_of_one_pixel():
    margins = (1, 1)
    for size, stride in ((24, 1), (24, 2), (48, 2)):
        margins = conv_transpose_axis(size, 5, stride).clean_margins(margins)
    result = probe(small_generator("transpose", seed=0), latents(1))
    assert result.margins_px == (margins, margins)


def test_the_probe_leaves_the_model_as_it_was():
    generator = small_generator("transpose", seed=1)
    z = latents(2)
    before = np.asarray(generator(z)), [w.copy() for w in generator.get_weights()]
    probe(generator, z)
    np.testing.assert_array_equal(np.asarray(generator(z)), before[0])
    for old, new in zip(before[1], generator.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert generator.get_layer("stage1_conv").output.shape == (None, 7, 7, 32)


def test_a_small_field_and_a_model_without_a_map_are_refused():
    with pytest.raises(ValueError, match="larger field"):
        probe(small_generator("transpose", seed=0), latents(1), size=4)
    dense = keras.Sequential([keras.Input((3,)), layers.Dense(4)])
    with pytest.raises(ValueError, match="map"):
        probe(dense, latents(1, dim=3))
