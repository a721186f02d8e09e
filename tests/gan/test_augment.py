"""Changes of the images that the discriminator sees: by hand, keyed, differentiable."""

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from PIL import Image

from config.loader import load_config
from config.schema import AUGMENTATIONS, ConfigError
from gan import augment
from gan.__main__ import main as gan
from gan.augment import FLIP, GENERATED, REAL, adjust_colour, cut_out, translate
from gan.data.dataset import latents
from gan.data.images import to_float
from gan.losses import LOSSES
from gan.run.checkpoint import Restored
from gan.run.environment import prepare_tensorflow
from gan.run.folder import RunFolder
from gan.state import build_state
from gan.step import (
    batch_inputs,
    make_train_steps,
    one_pass_is_enough,
    replica_gradients,
)
from gan.training import show_augmented, train

prepare_tensorflow()
ALL = ",".join(AUGMENTATIONS)
ON = {"train.augment": ALL, "data.flip": True}


def numbers(*values):
    return tf.constant(values, tf.float32)


def test_colour_by_hand():
    """Brightness 0.1, saturation 2, contrast 0.5; the second image stays as it is."""
    image = [[[0.6, 0.0, 0.0], [0.4, 0.4, 0.4]]]
    # Brightness: grey 0.3 and 0.5, mean 0.4; saturation: (1.1, -0.1, -0.1) and 0.5.
    expected = [[[0.75, 0.15, 0.15], [0.45, 0.45, 0.45]]]
    got = adjust_colour(
        tf.constant([image, image]), numbers(0.1, 0), numbers(2, 1), numbers(0.5, 1)
    )
    np.testing.assert_allclose(got, [expected, image], atol=1e-6)


def test_saturation_does_not_change_grey_images(images):
    grey = tf.constant(to_float(images.images_uint8[:2]))
    got = adjust_colour(grey, numbers(0, 0), numbers(0, 2), numbers(1, 1))
    np.testing.assert_allclose(got, grey, atol=1e-6)


def test_translation_by_hand():
    """By 1 down and 2 to the left, and not at all; 0 comes in at the borders."""
    image = np.arange(1, 17, dtype=np.float32).reshape(4, 4, 1)
    got = translate(
        tf.constant([image, image]), tf.constant([1, 0]), tf.constant([-2, 0])
    ).numpy()
    expected = [[0, 0, 0, 0], [3, 4, 0, 0], [7, 8, 0, 0], [11, 12, 0, 0]]
    np.testing.assert_array_equal(got[0, ..., 0], expected)
    np.testing.assert_array_equal(got[1], image)


def test_cutout_by_hand():
    """A square of 4 of 8 pixels; about a corner, a quarter of it is in the image."""
    got = cut_out(tf.ones((2, 8, 8, 3)), tf.constant([4, 0]), tf.constant([4, 8]))
    expected = np.ones((2, 8, 8, 3))
    expected[0, 2:6, 2:6] = expected[1, 0:2, 6:8] = 0
    np.testing.assert_array_equal(got, expected)


def test_the_mean_over_all_random_numbers_is_as_computed():
    """Of ones: brightness 0 on average; moves by -1 to 1 px keep (11/12)^2 of 8 px;

    a cut of 30/9 px on average, over centres from 0 to 8, keeps 1 - (30/72)^2.
    """
    draws = augment.uniform(0, 0, REAL, (20_000, 7))
    ones = tf.ones((20_000, 8, 8, 1))
    expected = {
        "colour": 1.0,
        "translation": (11 / 12) ** 2,
        "cutout": 1 - (5 / 12) ** 2,
    }
    for policy, mean in expected.items():
        got = augment.apply(ones, policy, draws).numpy()
        assert got.mean() == pytest.approx(mean, abs=0.01), policy
    colour = augment.apply(ones, "colour", draws).numpy()[:, 0, 0, 0]
    assert (colour.min(), colour.max()) == pytest.approx((0.5, 1.5), abs=1e-3)


def test_all_whole_numbers_of_a_range_are_equally_likely():
    draws = tf.constant((np.arange(3400) + 0.5) / 3400, tf.float32)
    values, counts = np.unique(augment.integers(draws, -8, 8), return_counts=True)
    assert values.tolist() == list(range(-8, 9)) and set(counts) == {200}
    ends = numbers(0.0, np.nextafter(np.float32(1), np.float32(0)))
    assert augment.integers(ends, -128, 128).numpy().tolist() == [-128, 128]


@pytest.mark.parametrize("policies", [*AUGMENTATIONS, ALL])
def test_gradients_equal_numeric_differences(policies):
    """All changes are linear, so that a difference of large steps is exact."""
    normal = np.random.default_rng(0).standard_normal
    x, direction, weights = (normal((4, 16, 16, 3)).astype("f") for _ in range(3))
    draws = augment.uniform(0, 0, GENERATED, (4, 7))

    def loss(images):
        return tf.reduce_sum(augment.apply(images, policies, draws) * weights)

    with tf.GradientTape() as tape:
        images = tf.constant(x)
        tape.watch(images)
        value = loss(images)
    slope = np.sum(tape.gradient(value, images) * direction)
    expected = (loss(x + direction) - loss(x - direction)) / 2
    assert slope == pytest.approx(float(expected), rel=1e-3) and abs(slope) > 1


def changed(config, step=0, stream=REAL):
    """The same six images, changed."""
    pixels = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 3)).astype("f")
    return augment.augment(tf.repeat(pixels, 6, axis=0), config, step, stream).numpy()


def test_random_numbers_belong_to_seed_step_stream_and_image(tiny):
    config = tiny(ON)
    found = [
        changed(config),
        changed(config, stream=GENERATED),
        changed(config, step=1),
        changed(tiny(ON | {"run.seed": 1})),
    ]
    np.testing.assert_array_equal(found[0], changed(config))
    each = {image.tobytes() for batch in found for image in batch}
    assert len(each) == 24
    draws = [augment.uniform(0, 5, stream, (4,)) for stream in (REAL, GENERATED, FLIP)]
    assert len(set(np.ravel(draws))) == 12


def test_a_policy_acts_the_same_alone_as_with_others(tiny):
    alone, both = (
        changed(tiny({"train.augment": p})) for p in ("cutout", "colour,cutout")
    )
    np.testing.assert_array_equal(alone == 0, both == 0)


def test_half_of_the_images_are_mirrored(tiny, images):
    pixels = images.images_uint8
    got = augment.flip(tf.constant(pixels), tiny(ON), 3).numpy()
    mirrored = (got == pixels[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored | (got == pixels).all((1, 2, 3))).all()
    assert 100 < mirrored.sum() < 156  # 3.5 standard deviations
    np.testing.assert_array_equal(got, augment.flip(tf.constant(pixels), tiny(ON), 3))
    assert np.any(got != augment.flip(tf.constant(pixels), tiny(ON), 4))


def test_by_default_nothing_is_changed(tiny):
    images = tf.ones((2, 8, 8, 1))
    assert augment.augment(images, tiny(), 0, REAL) is images
    assert augment.flip(images, tiny(), 0) is images


@pytest.mark.parametrize("loss", LOSSES)
def test_one_pass_still_serves_both_losses(tiny, images, monkeypatch, loss):
    """And the gradients are those of changed images, which are others."""
    plain = {"model.minibatch_stddev": 0, "model.initializer_stddev": 0.2}
    config = tiny(ON | plain | {"train.loss": loss, "model.dropout": 0.0})

    def gradients(config, once):
        monkeypatch.setattr("gan.step.one_pass_is_enough", lambda _: once)
        state = build_state(config, 28, 1)
        real = to_float(images.images_uint8[:8])
        one = tf.constant(1.0)
        inputs = tf.constant(real), tf.constant(latents(0, 0, 8, 8)), one, one
        _, g_gradients, d_gradients = replica_gradients(config, state, *inputs)
        return [np.asarray(x) for x in (*g_gradients, *d_gradients)]

    assert one_pass_is_enough(config)
    once, twice = gradients(config, True), gradients(config, False)
    for a, b in zip(once, twice, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max())
    off = gradients(tiny(plain | {"train.loss": loss, "model.dropout": 0.0}), True)
    assert np.abs(once[0] - off[0]).max() > 0.1 * np.abs(off[0]).max()


def run_steps(config, images, calls, state=None):
    """The state after the steps in `calls`, and their metrics, as in a new process."""
    tf.random.set_seed(0)  # of generators with a memory
    state = state or build_state(config, 28, 1)
    function = make_train_steps(config, state)
    pixels = tf.constant(images.images_uint8)
    rows = [function(pixels, *batch_inputs(config, c, 256)).numpy() for c in calls]
    return state, np.concatenate(rows)


def resumed(config, images, path, calls):
    """The state after some calls, a checkpoint, and other calls from it."""
    first, _ = run_steps(config, images, calls[0])
    saved = first.checkpoint.write(str(path / "ckpt"))
    second = build_state(config, 28, 1)
    second.checkpoint.read(saved).assert_consumed()
    return run_steps(config, images, calls[1], second)[0]


HINGE = ON | {"train.loss": "hinge", "train.r1_gamma": 0.1}


@pytest.mark.slow
def test_neither_a_stop_nor_the_steps_per_call_matter(tiny, images, tmp_path):
    config = tiny(HINGE)
    straight, _ = run_steps(config, images, [(0, 1, 2), (3, 4, 5)])
    state = resumed(config, images, tmp_path, [[(0,), (1,), (2,)], [(3,), (4, 5)]])
    assert state.digest() == straight.digest()


def test_numbers_of_a_generator_with_a_memory_are_noticed(
    tiny, images, tmp_path, monkeypatch, eagerly
):
    """Without that a stop does not matter: the test above, not compiled."""

    def is_equal(folder):
        straight, _ = run_steps(tiny(HINGE), images, [(0, 1)])
        state = resumed(tiny(HINGE), images, tmp_path / folder, [[(0,)], [(1,)]])
        return state.digest() == straight.digest()

    assert is_equal("keyed")
    monkeypatch.setattr(augment, "uniform", lambda *key: tf.random.uniform(key[-1]))
    assert not is_equal("drawn")


def test_xla_changes_the_images_alike():
    """Values and gradients, from the same random numbers."""
    draws = augment.uniform(0, 0, REAL, (4, 7))
    pixels, weights = (
        np.random.default_rng(0).normal(size=(2, 4, 16, 16, 3)).astype("f")
    )

    def change(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            value = augment.apply(images, ALL, draws)
        return value, tape.gradient(value, images, weights)

    expected = change(tf.constant(pixels))
    got = tf.function(change, jit_compile=True, autograph=False)(tf.constant(pixels))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_a_step_of_xla_depends_on_the_key_alone(tiny, images):
    config = tiny(ON | {"model.dropout": 0.0, "train.jit": True})
    straight, metrics = run_steps(config, images, [(0, 1)])
    assert np.isfinite(metrics).all()
    assert run_steps(config, images, [(0,), (1,)])[0].digest() == straight.digest()


@pytest.mark.slow
def test_half_precision_changes_the_images_alike(tiny, images):
    smooth = ON | {"model.dropout": 0.0}
    _, plain = run_steps(tiny(smooth), images, [(0,)])
    half = {"train.precision": "mixed_float16"}
    _, same = run_steps(tiny(smooth | half), images, [(0,)])
    np.testing.assert_allclose(same, plain, rtol=0.02)
    _, off = run_steps(tiny({"model.dropout": 0.0}), images, [(0,)])
    assert np.any(np.abs(off / plain - 1) > 0.1)  # the control


@pytest.mark.parametrize("text", ["cutout,colour", "colour,colour", "color", "1"])
def test_unknown_policies_are_refused(text):
    with pytest.raises(
        ConfigError, match=r"train\.augment: received .*expected one of"
    ):
        load_config(sets=[f"train.augment={text}"])


class Log:
    """What `RunLog` is told."""

    def __init__(self):
        self.pictures = []

    def picture(self, *what):
        self.pictures.append(what)


def test_a_new_run_shows_once_what_the_discriminator_sees(tiny, images):
    pixels = images.images_uint8
    new, again, plain = Log(), Log(), Log()
    show_augmented(new, None, tiny(ON), pixels)
    show_augmented(again, Restored(5, {}, []), tiny(ON), pixels)
    show_augmented(plain, None, tiny(), pixels)
    assert again.pictures == plain.pictures == []
    ((step, name, picture),) = new.pictures
    assert (step, name) == (0, "real/augmented")
    np.testing.assert_array_equal(picture, augment.preview(tiny(ON), pixels[:8]))


def test_the_training_calls_it(tiny, images, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    def stop(log, restored, config, images_uint8):
        assert images_uint8 is images.images_uint8 and restored is None
        raise Stop

    monkeypatch.setattr("gan.training.show_augmented", stop)
    with RunFolder(tmp_path / "run") as folder, pytest.raises(Stop):
        train(tiny(ON), images, folder)


def test_the_command_draws_a_row_per_image(images, tmp_path):
    out = tmp_path / "new" / "p.png"
    flags = ["--set", "train.augment=translation", "--out", str(out)]
    result = CliRunner().invoke(gan, ["augment", *flags])
    assert result.exit_code == 0 and "8 images ->" in result.output, result.output
    picture = np.asarray(Image.open(out))
    assert picture.shape == (8 * 29 - 1, 9 * 29 - 1)
    for row, image in enumerate(images.images_uint8[:8, ..., 0]):
        np.testing.assert_array_equal(picture[29 * row :][:28, :28], image)
        assert np.any(picture[29 * row :][:28, 29:57] != image)
