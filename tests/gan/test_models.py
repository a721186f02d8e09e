from itertools import pairwise

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from config.loader import load_config
from config.schema import ModelConfig
from config.upsamplers import UPSAMPLERS
from gan.convolution import DIRECT, FOURIER, PHASES, fastest_form
from gan.layers import (
    FastConv2D,
    FastConv2DTranspose,
    FusedBatchNormalization,
    MinibatchStddev,
    SharedDropout,
)
from gan.models import build_discriminator, build_generator
from gan.upsampling import upsample

TINY = {"generator_widths": (8, 8, 4), "discriminator_widths": (4, 8), "latent_dim": 8}
KERNELS = [(method, 5) for method in UPSAMPLERS] + [("transpose", 4)]


def tiny(upsample="transpose", kernel_size=5, **settings):
    return ModelConfig(upsample=upsample, kernel_size=kernel_size, **(TINY | settings))


def any_widths(factor):
    """Small widths of a generator that enlarges its base grid by this factor."""
    return (8,) * factor.bit_length()


def latents(num, seed=0):
    return np.random.default_rng(seed).standard_normal((num, 8)).astype(np.float32)


@pytest.mark.parametrize(("method", "kernel_size"), KERNELS)
def test_images_have_the_size_asked_for_and_stay_in_range(method, kernel_size):
    bases = {16: 4, 28: 7, 32: 4, 48: 6, 64: 4, 128: 4}
    for (size, base), channels in zip(bases.items(), (1, 1, 3, 3, 3, 3), strict=True):
        config = tiny(method, kernel_size, generator_widths=any_widths(size // base))
        generator = build_generator(config, size, channels)
        images = generator(1e3 * latents(2)).numpy()
        assert images.shape == (2, size, size, channels)
        assert images.dtype == np.float32 and np.abs(images).max() <= 1
        assert generator.get_layer("base_reshape").output.shape[1] == base


@pytest.mark.parametrize("size", [28, 32, 64])
def test_the_discriminator_gives_one_logit_an_image(size):
    for channels in (1, 3):
        discriminator = build_discriminator(tiny(), size, channels)
        logits = discriminator(np.ones((5, size, size, channels), np.float32))
        assert logits.shape == (5, 1)


def test_the_default_networks_have_the_parameters_of_the_sum():
    generator, discriminator = (
        build_generator(ModelConfig()),
        build_discriminator(ModelConfig()),
    )
    weights = [100 * 7 * 7 * 128, 25 * 128 * 64, 25 * 64 * 64, 25 * 64 * 1]  # no bias
    norms = [7 * 7 * 128, 64, 64]  # scale, offset, and two statistics each
    assert generator.count_params() == sum(weights) + 4 * sum(norms) == 961_600
    trainable = sum(np.prod(v.shape) for v in generator.trainable_variables)
    assert trainable == sum(weights) + 2 * sum(norms) == 948_800
    # The spread of the batch is as many maps again for the last layer.
    sums = [25 * 1 * 64 + 64, 25 * 64 * 128 + 128, 7 * 7 * (128 + 128) + 1]
    assert discriminator.count_params() == sum(sums) == 219_137


def test_dcgan64_has_the_parameters_of_pytorch_examples():
    """3,576,704 and 2,765,568 there; ours counts moving statistics and biases too."""
    config = load_config("dcgan64").model
    generator = build_generator(config, 64, 3)
    channels = [100, 512, 256, 128, 64, 3]
    kernels = [16 * before * after for before, after in pairwise(channels)]
    norms = [512, 256, 128, 64]  # scale and offset
    trainable = sum(np.prod(v.shape) for v in generator.trainable_variables)
    assert trainable == sum(kernels) + 2 * sum(norms) == 3_576_704
    assert generator.count_params() == trainable + 2 * sum(norms)
    names = {type(layer).__name__ for layer in generator.layers}
    assert "ReLU" in names and "LeakyReLU" not in names
    discriminator = build_discriminator(config, 64, 3)
    channels = [3, 64, 128, 256, 512, 1]
    kernels = [16 * before * after for before, after in pairwise(channels)]
    norms, biases = [128, 256, 512], [64, 128, 256, 512, 1]
    trainable = sum(np.prod(v.shape) for v in discriminator.trainable_variables)
    assert trainable - sum(biases) == sum(kernels) + 2 * sum(norms) == 2_765_568
    assert discriminator.get_layer("stage1_act").negative_slope == 0.2


def test_the_stages_are_numbered_in_order():
    """The number of a doubling counts the base stage, if there is one."""
    for base_stage, expected in ((True, [2, 3, 4]), (False, [1, 2, 3])):
        config = ModelConfig(base_stage=base_stage)
        names = [layer.name for layer in build_generator(config, 32).layers]
        doublings = [name for name in names if name.endswith("_upsample")]
        assert doublings == [f"stage{k}_upsample" for k in expected]


def test_the_last_doubling_can_have_another_method():
    config = ModelConfig(upsample="resize-nearest", upsample_last="subpixel")
    names = [layer.name for layer in build_generator(config, 64).layers]
    resized = [name for name in names if name.endswith("_resize")]
    assert resized == [f"stage{k}_upsample_resize" for k in (2, 3, 4)]
    assert "stage5_upsample_conv" in names


def test_the_spread_of_a_group_is_the_standard_deviation_of_each_feature():
    """By hand: the features of two images have spreads |a - b| / 2."""
    features = np.zeros((4, 1, 2, 2), np.float32)
    features[1] = [[[2, 4], [6, 8]]]
    maps = MinibatchStddev(2)(features).numpy()
    expected = [[[[1, 2], [3, 4]]]] * 2
    np.testing.assert_allclose(maps[:2], expected, rtol=1e-6)
    np.testing.assert_allclose(maps[2:], 1e-4, rtol=1e-4)  # equal images: sqrt(1e-8)


def test_groups_are_of_consecutive_images_and_of_a_common_divisor():
    features = np.random.default_rng(0).standard_normal((12, 3, 3, 5)).astype("f")
    maps = MinibatchStddev(8)(features).numpy()  # gcd(12, 8) = 4
    np.testing.assert_array_equal(maps, np.repeat(maps[::4], 4, axis=0))
    assert len(set(maps[:, 0, 0, 0])) == 3
    np.testing.assert_array_equal(maps[:4], MinibatchStddev(8)(features[:4]).numpy())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_equal_images_have_a_finite_slope(dtype):
    features = tf.ones((4, 2, 2, 3), dtype)
    with tf.GradientTape() as tape:
        tape.watch(features)
        spread = MinibatchStddev(4, dtype=dtype)(features)
    assert spread.dtype == dtype
    assert np.isfinite(tape.gradient(spread, features).numpy()).all()


def test_the_discriminator_sees_copies_by_their_spread_alone():
    """The control: without the map an image's logit knows nothing of its neighbours."""
    images = np.random.default_rng(0).uniform(-1, 1, (8, 28, 28, 1)).astype("f")
    copies = np.concatenate([images[:1]] * 8)
    for group, differs in ((0, False), (8, True)):
        settings = {"minibatch_stddev": group, "initializer_stddev": 0.2}
        discriminator = build_discriminator(tiny(**settings))
        gap = discriminator(images)[0] - discriminator(copies)[0]
        assert (abs(float(gap[0])) > 1e-3) == differs


@pytest.mark.parametrize("downsample", ["strided", "average", "blur"])
def test_a_gradient_that_passes_a_stride_has_a_checkerboard(downsample):
    """A constant one from above, behind two linear stages, away from the borders."""
    config = tiny(discriminator_downsample=downsample, leaky_slope=1.0)
    network = build_discriminator(config, 64)
    assert network.get_layer("features").output.shape[1:3] == (16, 16)
    halved = network.get_layer("features").input[0]
    images = tf.zeros((1, 64, 64, 1))
    with tf.GradientTape() as tape:
        tape.watch(images)
        total = tf.reduce_sum(keras.Model(network.inputs, halved)(images))
    inner = tape.gradient(total, images).numpy()[0, 20:44, 20:44, 0]
    uneven = np.ptp(inner) / np.abs(inner).mean()
    assert uneven > 0.1 if downsample == "strided" else uneven < 1e-4


def test_batch_normalisation_of_the_discriminator_is_of_its_second_convolution():
    plain = build_discriminator(tiny())
    normed = build_discriminator(tiny(discriminator_norm="batch"))
    names = [{layer.name for layer in model.layers} for model in (plain, normed)]
    assert names[1] - names[0] == {"stage2_norm"}


def test_every_learning_layer_has_the_name_that_the_analysis_asks_for():
    names = {
        method: {layer.name for layer in build_generator(tiny(method)).layers}
        for method in ("transpose", "resize-nearest")
    }
    assert names["transpose"] - names["resize-nearest"] == {
        "stage2_upsample",
        "stage3_upsample",
    }
    assert names["resize-nearest"] - names["transpose"] == {
        f"stage{stage}_upsample_{part}"
        for stage in (2, 3)
        for part in ("resize", "conv")
    }
    assert {"base_dense", "base_norm", "base_act", "base_reshape", "stage1_conv"} < (
        names["transpose"]
    )


def upsampled(method, x, kernel, filters):
    """`method` applied with a kernel of our choice (size, size, in, out)."""
    inputs = keras.Input(x.shape[1:])
    outputs = upsample(
        method, inputs, filters, len(kernel), "up", use_bias=False, dtype="float32"
    )
    model = keras.Model(inputs, outputs)
    transposed = isinstance(model.layers[-1], layers.Conv2DTranspose)
    model.set_weights([kernel.swapaxes(2, 3) if transposed else kernel])
    return model(x).numpy()


def test_nearest_is_repetition():
    """Seen through a kernel that passes its centre."""
    x = np.random.default_rng(1).standard_normal((1, 3, 4, 1)).astype(np.float32)
    delta = np.zeros((5, 5, 1, 1), np.float32)
    delta[2, 2] = 1
    expected = x.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(upsampled("resize-nearest", x, delta, 1), expected)
    assert np.abs(upsampled("resize-bilinear", x, delta, 1) - expected).max() > 0.1


def test_bilinear_weighs_the_two_neighbours_three_to_one():
    """Half-pixel centres: 0, 4 becomes 0, 1, 3, 4, and the ends repeat."""
    x = np.array([0, 4], np.float32).reshape(1, 1, 2, 1)
    delta = np.ones((1, 1, 1, 1), np.float32)
    rows = upsampled("resize-bilinear", x, delta, 1)[0, :, :, 0]
    np.testing.assert_allclose(rows, [[0, 1, 3, 4]] * 2, atol=1e-6)


@pytest.mark.parametrize("kernel_size", [4, 5])
def test_the_transposed_convolution_is_the_adjoint_of_the_convolution(kernel_size):
    """<conv(x), y> = <x, convT(y)> for the same kernel, stride and padding."""
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((1, 8, 8, 2)), rng.standard_normal((1, 4, 4, 3))
    kernel = rng.standard_normal((kernel_size, kernel_size, 3, 2))
    down = tf.nn.conv2d(x, kernel.swapaxes(2, 3), strides=2, padding="SAME").numpy()
    up = upsampled("transpose", y.astype("f"), kernel.astype("f"), 2)
    assert np.vdot(down, y) == pytest.approx(np.vdot(x, up), rel=1e-5)


def test_constant_input_ripples_with_kernel_5_and_not_with_4():
    """Ones through ones: a pixel counts the taps that reach it, 2 or 3 of 5 an axis."""
    x = np.ones((1, 6, 6, 1), np.float32)
    for size, levels in ((5, {4, 6, 9}), (4, {4})):
        image = upsampled("transpose", x, np.ones((size, size, 1, 1), "f"), 1)
        assert set(image[0, 3:-3, 3:-3, 0].ravel().tolist()) == levels


def weights(model):
    return {v.path: v.value.numpy() for v in model.variables}


def test_weights_depend_on_the_seed_alone():
    keras.utils.set_random_seed(1)
    first = weights(build_generator(tiny(), seed=7))
    keras.utils.set_random_seed(2)
    build_discriminator(tiny(), seed=7)  # what else was built does not matter
    again = weights(build_generator(tiny(), seed=7))
    assert first.keys() == again.keys()
    assert all(np.array_equal(first[path], again[path]) for path in first)
    other = weights(build_generator(tiny(), seed=8))
    assert not np.array_equal(first["base_dense/kernel"], other["base_dense/kernel"])


def test_runs_with_different_methods_start_from_equal_shared_layers():
    start = {method: weights(build_generator(tiny(method))) for method in UPSAMPLERS}
    reference = start.pop("transpose")
    for other in start.values():
        shared = {p for p in other if p in reference and "upsample" not in p}
        assert {"base_dense/kernel", "stage1_conv/kernel"} <= shared
        assert all(np.array_equal(reference[p], other[p]) for p in shared)


def test_initial_weights_have_the_spread_asked_for():
    kernel = weights(build_generator(ModelConfig()))["stage1_conv/kernel"]
    assert kernel.std() == pytest.approx(0.02, rel=0.01)  # 204,800 draws: 0.2 %
    glorot = weights(build_generator(ModelConfig(initializer_stddev=0)))
    limit = np.sqrt(6 / (25 * 128 + 25 * 64))
    assert np.abs(glorot["stage1_conv/kernel"]).max() == pytest.approx(limit, rel=1e-3)


def test_an_image_does_not_depend_on_its_neighbours_unless_training():
    generator, z = build_generator(tiny(initializer_stddev=0.2)), latents(6)
    together = generator(z, training=False).numpy()
    alone = np.concatenate([generator(z[i : i + 1], training=False) for i in range(6)])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    mixed = generator(z, training=True).numpy()[:2]
    pair = generator(z[:2], training=True).numpy()
    assert np.abs(mixed - pair).max() > 1e-3  # batch statistics: the negative control


def test_half_precision_keeps_pixels_logits_and_variables_in_float32():
    generator = build_generator(tiny(), precision="mixed_bfloat16")
    discriminator = build_discriminator(tiny(), precision="mixed_bfloat16")
    images = generator(latents(2))
    assert images.dtype == discriminator(images).dtype == tf.float32
    variables = generator.variables + discriminator.variables
    assert {v.dtype for v in variables if "seed" not in v.path} == {"float32"}
    assert generator.get_layer("stage1_conv").compute_dtype == "bfloat16"


def test_dropout_keeps_its_rate_its_mean_and_its_sequence():
    images = tf.ones((64, 14, 14, 64))
    first, again = (SharedDropout(0.3, seed=1) for _ in range(2))
    one, two = (first(images, training=True).numpy() for _ in range(2))
    share = (one == 0).mean()
    assert abs(share - 0.3) < 5 * np.sqrt(0.3 * 0.7 / one.size)
    assert set(np.unique(one)) == {0, np.float32(2**16 / round(0.7 * 2**16))}
    assert abs(((one == 0) & (two == 0)).mean() - 0.09) < 1e-3  # independent masks
    np.testing.assert_array_equal(again(images, training=True), one)
    np.testing.assert_array_equal(first(images), images)


@pytest.mark.parametrize("shape", [(8, 50), (8, 7, 7, 16), (1, 5)])
def test_fused_batch_normalisation_is_that_of_keras(shape):
    """Values, gradients and gathered statistics; the control is another momentum."""
    random = np.random.default_rng(0)
    images, weights = (random.normal(1, 2, shape).astype("f") for _ in range(2))
    results = []
    for layer in (
        keras.layers.BatchNormalization(momentum=0.9),
        FusedBatchNormalization(momentum=0.9),
        FusedBatchNormalization(momentum=0.8),
    ):
        layer.build(shape)
        layer.gamma.assign(np.full(shape[-1:], 1.5))
        with tf.GradientTape() as tape:
            x = tf.Variable(images)
            y = layer(x, training=True)
        slopes = tape.gradient(y, [x, layer.gamma.value, layer.beta.value], weights)
        gathered = [layer.moving_mean.numpy(), layer.moving_variance.numpy()]
        results.append([y, *slopes, *gathered, layer(x)])
    for keras_value, fused in zip(*results[:2], strict=True):
        np.testing.assert_allclose(keras_value, fused, rtol=1e-4, atol=2e-5)
    assert np.abs(results[0][-2] - results[2][-2]).max() > 1e-3


@pytest.mark.parametrize(
    ("transposed", "shape", "filters", "taps", "stride", "form"),
    [
        (False, (4, 28, 28, 1), 6, 5, 2, PHASES),
        (False, (4, 8, 12, 3), 6, 5, 2, PHASES),
        (True, (4, 14, 14, 6), 1, 5, 2, PHASES),
        (True, (4, 4, 6, 6), 3, 5, 2, PHASES),
        (False, (2, 8, 8, 128), 256, 4, 2, PHASES),
        (True, (2, 4, 4, 256), 128, 4, 2, PHASES),
        (True, (32, 7, 7, 32), 32, 5, 1, FOURIER),
        (False, (32, 14, 14, 64), 128, 5, 2, FOURIER),
        (True, (64, 8, 8, 128), 64, 5, 2, FOURIER),
        (True, (64, 8, 8, 64), 64, 4, 1, FOURIER),
        (False, (4, 14, 14, 6), 6, 5, 2, DIRECT),
        (True, (4, 7, 9, 32), 16, 5, 1, DIRECT),
        (True, (4, 7, 7, 8), 8, 4, 2, DIRECT),
        (True, (2, 4, 4, 256), 127, 4, 2, DIRECT),
    ],
)
def test_a_fast_form_is_that_of_keras(transposed, shape, filters, taps, stride, form):
    """Values and gradients; the control is the mirrored kernel."""
    random = np.random.default_rng(0)
    images = tf.constant(random.normal(size=shape).astype("f"))
    options = {"bias_initializer": "normal", "strides": stride, "padding": "same"}
    plain = layers.Conv2DTranspose if transposed else layers.Conv2D
    fast = FastConv2DTranspose if transposed else FastConv2D
    both = plain(filters, taps, **options), fast(filters, taps, **options)
    for layer in both:
        layer.build(shape)
    both[1].set_weights(both[0].get_weights())
    small = shape[0], *(n if transposed else n // stride for n in shape[1:3])
    assert fastest_form(small, both[1].kernel.value, stride) == form
    results = []
    for layer in both:
        with tf.GradientTape() as tape:
            tape.watch(images)
            y = layer(images)
            loss = tf.reduce_sum(y * tf.sin(y))
        variables = [images, layer.kernel.value, layer.bias.value]
        results.append([y, *tape.gradient(loss, variables)])
    for value, other in zip(*results, strict=True):
        # Rounding of a transform is spread over the whole map.
        near = 1e-5 * np.abs(value).max() if form == FOURIER else 1e-4
        np.testing.assert_allclose(value, other, rtol=1e-4, atol=near)
    kernel, bias = both[0].get_weights()
    both[1].set_weights([kernel[::-1], bias])
    assert np.abs(both[1](images) - results[0][0]).max() > 0.1


@pytest.mark.parametrize("method", UPSAMPLERS)
def test_a_generator_that_trains_equals_that_of_keras(method):
    """Values, gradients and initial weights of each method; the control is a seed.

    The widths are such that a stage is convolved at its frequencies.
    """
    config = tiny(method, generator_widths=(8, 32, 32), initializer_stddev=0.05)
    results = []
    for fused, seed in ((False, 0), (True, 0), (True, 1)):
        generator = build_generator(config, 16, 1, seed, fused=fused)
        kinds = {type(x) for x in generator.layers if "_upsample" in x.name}
        learning = kinds & {layers.Conv2D, layers.Conv2DTranspose}
        fast = kinds & {FastConv2D, FastConv2DTranspose}
        assert (len(learning), len(fast)) == ((0, 1) if fused else (1, 0))
        with tf.GradientTape() as tape:
            images = generator(latents(32), training=True)
            loss = tf.reduce_sum(images * tf.sin(3 * images))
            loss += 1e3 * tf.add_n([0.0, *generator.losses])
        weights = generator.trainable_variables
        results.append([images, *tape.gradient(loss, weights), *weights])
    for value, other in zip(*results[:2], strict=True):
        near = 2e-5 * np.abs(value).max()
        np.testing.assert_allclose(value, other, rtol=1e-4, atol=near)
    assert np.abs(results[0][0] - results[2][0]).max() > 0.1


def test_half_precision_unknown_batches_and_gpus_keep_the_direct_form(monkeypatch):
    kernel, small = tf.zeros((5, 5, 128, 256)), (64, 7, 7)
    assert fastest_form(small, kernel, stride=1) == FOURIER
    assert fastest_form(small, tf.cast(kernel, tf.bfloat16), stride=1) == DIRECT
    assert fastest_form((None, 7, 7), kernel, stride=1) == DIRECT
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    assert fastest_form(small, kernel, stride=1) == DIRECT
