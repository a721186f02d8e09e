"""Identities that hold for the upsampling methods, before and during training."""

import keras
import numpy as np
import pytest
from keras import layers

from analysis.checkerboard.frequencies import grid_frequencies
from analysis.checkerboard.kernels import imbalance, subpixel_kernel
from analysis.checkerboard.meter import fit_line
from analysis.checkerboard.moments import measure_moments
from analysis.checkerboard.predictions import predict
from analysis.checkerboard.probe import learned_kernel
from analysis.checkerboard.words import decibels
from analysis.geometry.audit import audit_model, upsamplers
from analysis.samples import load_reference
from config.schema import ConfigError, ModelConfig
from config.upsamplers import UPSAMPLERS
from gan.data.dataset import latents
from gan.data.images import to_float, to_uint8
from gan.models import build_generator
from gan.run.folder import RunFolder, default_name
from gan.sampling import open_run, sample
from gan.state import build_state
from gan.step import METRICS, make_step
from gan.training import train
from gan.upsampling import (
    ICNR,
    PENALTY,
    BalancedPhases,
    Checker,
    PhasePenalty,
    phase_gains,
    upsample,
)

TINY = {"generator_widths": (8, 8, 4), "latent_dim": 8}
NORMAL = keras.initializers.RandomNormal(stddev=0.3, seed=1)
FREE_OF_LINES_DB = -100  # float32 leaves about -120


def draws(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def applied(method, x, kernel_size, filters=3):
    """A method alone on maps x, with random weights: its output and its model."""
    inputs = keras.Input(x.shape[1:])
    options = {"use_bias": False, "dtype": "float32", "kernel_initializer": NORMAL}
    outputs = upsample(method, inputs, filters, kernel_size, "up", **options)
    model = keras.Model(inputs, outputs)
    return np.asarray(model(x)), model


@pytest.mark.parametrize("kernel_size", [3, 4, 5])
def test_reflected_borders_leave_no_frame_and_change_nothing_inside(kernel_size):
    flat = np.ones((1, 4, 4, 2), np.float32)
    found, _ = applied("resize-nearest-reflect", flat, kernel_size)
    np.testing.assert_allclose(found, np.broadcast_to(found[:, :1, :1], found.shape))
    control, _ = applied("resize-nearest", flat, kernel_size)
    assert np.ptp(control, axis=(1, 2)).min() > 0.1
    x, inside = draws(1, 6, 6, 2), np.s_[:, 2:-2, 2:-2]
    pair = [
        applied(f"resize-nearest{end}", x, kernel_size)[0] for end in ("", "-reflect")
    ]
    np.testing.assert_allclose(pair[0][inside], pair[1][inside], atol=1e-5)


def test_a_map_that_is_too_small_to_reflect_is_refused():
    assert applied("resize-nearest-reflect", draws(1, 2, 2, 1), 7)[0].shape[1] == 4
    with pytest.raises(ConfigError, match="received 8, expected at most 7, since"):
        applied("resize-nearest-reflect", draws(1, 2, 2, 1), 8)


@pytest.mark.parametrize("size", [5, 7, 9])
def test_a_small_kernel_beside_a_large_one_is_one_large_kernel(size):
    """The layers' SAME padding centres both kernels on the same pixel."""
    x, (large, small) = draws(1, 6, 5, 2), (draws(n, n, 3, 2) for n in (size, 3))

    def enlarged(kernel):
        layer = layers.Conv2DTranspose(3, len(kernel), 2, "same", use_bias=False)
        layer.build(x.shape)
        layer.set_weights([kernel])
        return np.asarray(layer(x))

    margin = (size - 3) // 2
    both = large + np.pad(small, [(margin, margin)] * 2 + [(0, 0)] * 2)
    np.testing.assert_allclose(
        enlarged(large) + enlarged(small), enlarged(both), atol=1e-5
    )
    moved = large + np.pad(small, [(margin - 1, margin + 1)] * 2 + [(0, 0)] * 2)
    assert not np.allclose(enlarged(large) + enlarged(small), enlarged(moved), atol=0.1)


def gains_db(generator, predictor="probe"):
    """The largest predicted imaging gain of the first and of the last upsampling."""
    found = predict(generator, (2, 2), num_latents=64)[predictor]
    pairs = list(zip(grid_frequencies((2, 2)), found, strict=True))
    return [
        max(
            decibels(p.imaging_gain_percent.value) for f, p in pairs if f.stage == stage
        )
        for stage in (2, 1)
    ]


@pytest.mark.parametrize("method", UPSAMPLERS)
@pytest.mark.parametrize("kernel_size", [2, 3, 4, 5, 6])
def test_every_kernel_doubles_the_map(method, kernel_size):
    outputs, _ = applied(method, draws(2, 4, 6, 5), kernel_size)
    assert outputs.shape == (2, 8, 12, 3)


@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("method", UPSAMPLERS)
def test_every_method_trains_saves_restores_samples_and_is_audited(
    method, compiled, tiny, images, tmp_path, request
):
    if not compiled:
        request.getfixturevalue("eagerly")
    config = tiny({"model.upsample": method, "train.num_steps": 2})
    with RunFolder(tmp_path) as folder:
        assert train(config, images, folder).step == 2
    generator = open_run(tmp_path, "2").generator
    assert sample(generator, range(3)).shape == (3, 28, 28, 1)
    records = audit_model(generator, (28, 28, 1))
    assert all(record.checked for record in records)
    assert not [f for r in records for f in r.findings if f.level == "error"]
    assert [strides for _, strides in upsamplers(records)] == [(2, 2), (2, 2)]


def test_icnr_is_nearest_resize_of_a_convolution():
    """Exactly, until the first step; with other initial weights it is not."""
    x = draws(2, 5, 5, 4)
    convolved = layers.Conv2D(
        3, 3, padding="same", use_bias=False, kernel_initializer=NORMAL
    )(x)
    expected = np.asarray(convolved).repeat(2, axis=1).repeat(2, axis=2)
    outputs, _ = applied("subpixel-icnr", x, 3)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    assert np.abs(applied("subpixel", x, 3)[0] - expected).max() > 0.1
    # Channel p C' + c: C' apart, not 4 apart.
    kernel = np.asarray(ICNR(NORMAL)((3, 3, 4, 12)))
    assert (kernel[..., 2] == kernel[..., 5]).all()
    assert not (kernel[..., 2] == kernel[..., 3]).any()


@pytest.mark.parametrize("kernel_size", [2, 3, 4, 5])
def test_subpixel_is_a_transposed_convolution_of_twice_the_taps(kernel_size):
    x = draws(1, 8, 8, 4)
    outputs, model = applied("subpixel", x, kernel_size)
    kernel = np.asarray(model.get_layer("up_conv").kernel)
    equal = subpixel_kernel(kernel)
    assert equal.shape == (2 * kernel_size, 2 * kernel_size, 3, 4)
    name = upsamplers(audit_model(model))[0][0]
    assert (learned_kernel(model, name) == equal).all()
    same = layers.Conv2DTranspose(3, 2 * kernel_size, 2, "valid", use_bias=False)
    same.build(x.shape)
    same.set_weights([equal])
    full = np.asarray(same(x))
    before = 2 * (kernel_size - 1 - (kernel_size - 1) // 2)
    np.testing.assert_allclose(
        outputs, full[:, before : before + 16, before : before + 16], atol=1e-5
    )


def test_projection_by_hand():
    """2 x 2: every tap is a phase, and becomes the mean. 3 x 2: see the sums."""
    balance = BalancedPhases()
    square = np.array([[1, 2], [3, 6]], np.float32)[..., None, None]
    np.testing.assert_allclose(balance(square), np.full((2, 2, 1, 1), 3), rtol=1e-6)
    # Gains 4, 0 of two taps and 2, 4 of one: g = (2 + 0 + 2 + 4) / (1/2 + 1/2 + 1 + 1).
    tall = np.array([[1, 0], [2, 4], [3, 0]], np.float32)[..., None, None]
    expected = np.array([[1, 4], [8, 8], [7, 4]]) / 3
    np.testing.assert_allclose(balance(tall)[..., 0, 0], expected, rtol=1e-6)
    with pytest.raises(ValueError, match="received 1 tap, expected at least 2"):
        balance(np.ones((1, 3, 1, 1), np.float32))


@pytest.mark.parametrize("kernel_size", [2, 3, 4, 5, 6])
def test_the_projection_is_idempotent_orthogonal_and_balances(kernel_size):
    balance = BalancedPhases()
    kernel, other = draws(2, kernel_size, kernel_size, 3, 4)
    once = np.asarray(balance(kernel))
    np.testing.assert_allclose(balance(once), once, atol=1e-6)
    assert imbalance(kernel, (2, 2)) > 0.5 and imbalance(once, (2, 2)) < 1e-12
    # What is taken away is orthogonal to every balanced kernel.
    assert abs(np.vdot(kernel - once, np.asarray(balance(other)))) < 1e-3
    gains = np.asarray(phase_gains(once))
    assert np.ptp(gains, axis=(0, 1)).max() < 1e-5


def test_the_constraint_keeps_any_transposed_convolution_free_of_lines():
    """Trained by Adam on noise, with the constraint and, as a control, without."""

    def trained(constraint):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8,))
        x = layers.Reshape((7, 7, 6))(layers.Dense(7 * 7 * 6)(inputs))
        x = layers.LeakyReLU()(
            layers.Conv2DTranspose(
                5, 5, 2, "same", kernel_constraint=constraint, name="a"
            )(x)
        )
        x = layers.Conv2DTranspose(
            1, 4, 2, "same", kernel_constraint=constraint, name="b"
        )(x)
        model = keras.Model(inputs, x)
        model.compile(keras.optimizers.Adam(1e-2), "mse")
        model.fit(draws(64, 8), draws(64, 28, 28, 1), epochs=2, verbose=0)
        return gains_db(model)

    assert max(trained(BalancedPhases())) < FREE_OF_LINES_DB
    assert min(trained(None)) > -40


@pytest.mark.parametrize(
    ("method", "free"),
    [
        ("transpose", False),
        ("transpose-penalized", False),
        ("subpixel", False),
        ("transpose-blur", True),
        ("transpose-fir", True),
        ("transpose-balanced", True),
        ("resize-nearest", True),
        ("resize-bilinear", True),
        ("resize-bicubic", True),
        ("subpixel-icnr", True),
        ("subpixel-icnr-blur", True),
    ],
)
def test_which_methods_draw_lines_before_training(method, free):
    config = ModelConfig(upsample=method, initializer_stddev=0.2, **TINY)
    found = gains_db(build_generator(config))
    assert max(found) < FREE_OF_LINES_DB if free else min(found) > -20


def test_blur_has_its_zero_at_half_in_every_row_and_column():
    x = np.zeros((1, 16, 16, 1), np.float32)
    x[0, 8, 8] = 1  # the whole response of an impulse lies inside
    blurred = ("transpose-blur", "transpose-fir", "subpixel-icnr-blur")
    for method in (*blurred, "transpose", "subpixel"):
        spectrum = np.abs(np.fft.fft2(applied(method, x, 5, 1)[0][0, ..., 0]))
        edge = max(spectrum[16].max(), spectrum[:, 16].max()) / spectrum.max()
        assert (edge < 1e-6) == (method in blurred)


def test_the_penalty_is_the_power_of_the_lines():
    kernel = draws(5, 5, 3, 4)
    power = np.abs(np.fft.fft2(phase_gains(kernel), axes=(0, 1))) ** 2
    lines = power.sum() - power[0, 0].sum()
    assert float(PhasePenalty()(kernel)) == pytest.approx(PENALTY * lines, rel=1e-4)
    assert float(PhasePenalty()(BalancedPhases()(kernel))) == pytest.approx(0, abs=1e-6)


def test_the_penalty_takes_part_in_training_and_not_in_the_logged_loss(
    tiny, images, monkeypatch, eagerly
):
    """A hundred times stronger, it shrinks the imbalance that plain steps keep."""
    monkeypatch.setattr("gan.upsampling.PENALTY", 0.1)
    real, losses, etas = to_float(images.images_uint8[:8]), [], []
    for method in ("transpose-penalized", "transpose"):
        changes = {"model.upsample": method, "model.initializer_stddev": 0.1}
        config = tiny(changes | {"train.g_learning_rate": 5e-3})
        state = build_state(config, 28, 1)
        step = make_step(config, state)
        metrics = [step(real, latents(0, number, 8, 8)).numpy() for number in range(4)]
        losses.append(metrics[0][METRICS.index("loss/g")])
        kernel = state.generator.get_layer("stage2_upsample").kernel
        etas.append(imbalance(np.asarray(kernel), (2, 2)))
    assert losses[0] == losses[1]
    assert etas[0] < 0.7 * etas[1]


def test_the_meter_reads_the_checker_that_was_added():
    real = load_reference().images_uint8
    samples = to_float(real[::2][:5000])
    with_checker = to_uint8(np.asarray(Checker(4.0)(samples, training=False)))
    assert (np.asarray(Checker(4.0)(samples, training=True)) == samples).all()
    k = [f.name for f in grid_frequencies((2, 2))].index("(1/2, 1/2)")
    found = fit_line(measure_moments(with_checker, (2, 2)), k).estimate()
    assert found.value == pytest.approx(4, abs=0.05)


def test_the_checker_is_in_samples_and_not_in_what_the_discriminator_sees():
    config = ModelConfig(initializer_stddev=0.2, **TINY)
    marked = ModelConfig(initializer_stddev=0.2, checker_grey_levels=4, **TINY)
    plain, checked = build_generator(config), build_generator(marked)
    z = draws(3, 8)
    expected = np.asarray(plain(z, training=False)) * (1 - 4 / 127.5)
    difference = 127.5 * (np.asarray(checked(z, training=False)) - expected)
    signs = (-1.0) ** np.add.outer(np.arange(28), np.arange(28))
    np.testing.assert_allclose(
        difference[..., 0], 4 * signs[None].repeat(3, 0), atol=1e-3
    )
    np.testing.assert_allclose(plain(z, training=True), checked(z, training=True))


def test_the_last_stage_may_differ():
    """So that a line can be attributed to a stage by experiment."""
    config = ModelConfig(
        upsample="transpose",
        upsample_last="resize-nearest",
        initializer_stddev=0.2,
        **TINY,
    )
    generator = build_generator(config)
    names = [layer.name for layer in generator.layers]
    assert "stage2_upsample" in names and "stage3_upsample_resize" in names
    previous, last = gains_db(generator, "weights")
    assert last < FREE_OF_LINES_DB < -20 < previous
    # In the images, tanh makes harmonics of the pattern of the stage before.
    assert gains_db(generator)[1] > -20


def test_a_run_with_another_last_stage_has_a_name_of_its_own(tiny):
    config = tiny({"model.upsample": "resize", "model.upsample_last": "resize"})
    assert config.model.upsample_last == "resize-nearest"
    assert default_name(config) == "fashion_mnist-resize-nearest-seed0"
    other = tiny({"model.upsample_last": "subpixel"})
    assert default_name(other) == "fashion_mnist-transpose-last_subpixel-seed0"
    with pytest.raises(ConfigError, match="model.upsample_last"):
        tiny({"model.upsample_last": "pixels"})
