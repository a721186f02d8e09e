import pytest

from config.schema import Config, ConfigError, ModelConfig
from config.sizes import num_doublings, resolve, strides, with_widths


@pytest.mark.parametrize(
    ("image_size", "base_size", "count"),
    [
        (8, 4, 1),
        (16, 4, 2),
        (28, 7, 2),
        (32, 4, 3),
        (36, 9, 2),
        (48, 6, 3),
        (56, 7, 3),
        (64, 4, 4),
        (100, 25, 2),
        (128, 4, 5),
        (256, 4, 6),
    ],
)
def test_the_chosen_base_grid_is_the_smallest_of_at_least_4_px(
    image_size, base_size, count
):
    assert num_doublings(ModelConfig(), image_size) == count
    assert base_size * 2**count == image_size
    assert strides(ModelConfig(), image_size) == (2,) * count


@pytest.mark.parametrize("base_stage", [True, False])
@pytest.mark.parametrize("image_size", [8, 16, 28, 32, 48, 64, 128, 256])
def test_chosen_widths_fit_every_size(image_size, base_stage):
    """Their number alone gives the same doublings again, as config.json needs it."""
    model = with_widths(ModelConfig(base_stage=base_stage), image_size)
    assert num_doublings(model, image_size) == num_doublings(ModelConfig(), image_size)
    assert with_widths(model, image_size) == model
    assert len(model.discriminator_widths) == num_doublings(model, image_size)


def test_the_widths_of_the_default_and_of_64_px():
    default = with_widths(ModelConfig(), 28)
    assert default.generator_widths == (128, 64, 64)
    assert default.discriminator_widths == (64, 128)
    larger = with_widths(ModelConfig(base_stage=False), 64)
    assert larger.generator_widths == (256, 128, 64, 32)
    assert larger.discriminator_widths == (32, 64, 128, 128)


def test_widths_that_are_set_decide_the_doublings():
    """So a run of 64 px with three widths keeps the 16x16 grid that it began with."""
    assert num_doublings(ModelConfig(generator_widths=(128, 64, 64)), 64) == 2
    assert num_doublings(ModelConfig(base_size=16), 64) == 2


@pytest.mark.parametrize(
    ("image_size", "settings", "message"),
    [
        (64, {"base_size": 5}, "5 for images of 64 px, expected 0 or one of 32, 16, 8"),
        (28, {"base_size": 28}, "expected 0 or one of 14, 7"),
        (
            64,
            {"base_size": 4, "generator_widths": (8, 8, 8)},
            "received 3 numbers for images of 64 px, expected 5: one for each doubling "
            "and one for the base stage",
        ),
        (28, {"generator_widths": (8,) * 4}, "28 px, expected 2 or 3: one for each"),
        (28, {"generator_widths": (8,)}, "expected 2 or 3"),
        (
            28,
            {"generator_widths": (8,) * 3, "base_stage": False},
            "expected 1 or 2: one for each doubling",
        ),
    ],
)
def test_what_does_not_fit_is_named_with_what_fits(image_size, settings, message):
    with pytest.raises(ConfigError) as refusal:
        resolve(Config(model=ModelConfig(**settings)), 100, image_size)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_number_of_steps_is_passes_times_images_by_batch_size():
    assert resolve(Config(), 60_000, 28).train.num_steps == 33_750
    assert resolve(Config(), 1, 28).train.num_steps == 1
