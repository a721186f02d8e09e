import numpy as np
import pytest

from config.schema import ConfigError
from gan.data.images import (
    fit_image,
    parse_colour,
    round_to_uint8,
    tile,
    to_float,
    to_uint8,
    viewing_scale,
)


@pytest.mark.parametrize(
    ("image_px", "picture_px", "limits", "scale"),
    [
        (28, 231, (0, 1400), 6),  # a grid of 8 x 8
        (28, 28, (256, 700), 10),
        (28, 231, (256, 700), 3),
        (64, 519, (0, 1400), 2),
        (256, 256, (256, 700), 1),
        (28, 2899, (0, 1400), 1),  # 100 x 100 images are large enough
    ],
)
def test_pictures_to_look_at_are_enlarged_by_whole_factors(
    image_px, picture_px, limits, scale
):
    assert viewing_scale(image_px, picture_px, *limits) == scale


def test_every_grey_level_stays_the_same_as_float_and_back():
    levels = np.arange(256, dtype=np.uint8)
    images = to_float(levels)
    assert images.dtype == np.float32
    assert (images[0], images[255]) == (-1.0, 1.0)
    np.testing.assert_array_equal(to_uint8(images), levels)


def test_values_outside_are_clipped_and_nan_is_black():
    images = np.array([-3.0, -1.0, 0.0, 1.0, 3.0, np.nan, np.inf], np.float32)
    # 0 maps to 127.5, which rounds half to even.
    assert to_uint8(images).tolist() == [0, 0, 128, 255, 255, 0, 255]


def test_grey_levels_are_rounded_to_even_and_clipped():
    levels = np.array([-1.0, 0.5, 1.5, 254.5, 300.0])
    rounded = round_to_uint8(levels)
    assert rounded.dtype == np.uint8 and rounded.tolist() == [0, 0, 2, 254, 255]


@pytest.mark.parametrize("channels", [1, 3])
def test_tile_by_hand(channels):
    images = np.repeat(np.arange(1, 4, dtype=np.uint8), 4 * channels)
    grid = tile(images.reshape(3, 2, 2, channels), columns=2, gap=1)
    assert grid.shape == (5, 5, channels) and grid.dtype == np.uint8
    gap = 96
    expected = [
        [1, 1, gap, 2, 2],
        [1, 1, gap, 2, 2],
        [gap] * 5,
        [3, 3, gap, gap, gap],
        [3, 3, gap, gap, gap],
    ]
    for channel in range(channels):
        np.testing.assert_array_equal(grid[..., channel], expected)


def test_tile_without_gap_is_as_square_as_possible():
    images = np.zeros((5, 4, 4, 1), np.uint8)
    assert tile(images, gap=0).shape == (8, 12, 1)


def wide_image():
    """Black, white and black thirds, each 8x8 px."""
    image = np.zeros((8, 24, 1), np.uint8)
    image[:, 8:16] = 255
    return image


def test_each_fit_by_hand():
    crop = fit_image(wide_image(), 8, 1, "crop")
    assert (crop == 255).all()
    pad = fit_image(wide_image(), 24, 1, "pad")
    assert pad[8:16, 8:16].mean() == 255 and pad.mean() == pytest.approx(255 / 9)
    stretch = fit_image(wide_image(), 24, 1, "stretch")
    assert stretch.mean() == pytest.approx(255 / 3, abs=1)
    assert (stretch[:, 12] == 255).all()


def test_grey_images_stay_the_same_with_three_channels_and_back():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    colour = fit_image(grey, 8, 3, "crop")
    np.testing.assert_array_equal(colour, np.repeat(grey, 3, axis=2))
    np.testing.assert_array_equal(fit_image(colour, 8, 1, "crop"), grey)
    assert fit_image(grey, 8, 1, "crop") is grey


def test_pad_puts_the_background_around_the_image():
    image = np.full((8, 24, 3), 200, np.uint8)
    for name, colour in (("black", (0, 0, 0)), ("#ff8000", (255, 128, 0))):
        pad = fit_image(image, 24, 3, "pad", name)
        assert (pad[8:16] == 200).all()
        assert (pad[:8] == colour).all() and (pad[16:] == colour).all()
    np.testing.assert_array_equal(
        fit_image(image, 24, 3, "pad"), fit_image(image, 24, 3, "pad", "black")
    )
    # Luma of red: 0.299 x 255 = 76.2
    assert (fit_image(wide_image(), 24, 1, "pad", "red")[0] == 76).all()


@pytest.mark.parametrize(
    ("text", "colour"),
    [
        ("white", (255, 255, 255)),
        ("#f80", (255, 136, 0)),
        ("#FF8000", (255, 128, 0)),
        ("rgb(1, 2, 3)", (1, 2, 3)),
        ("hsl(120, 100%, 50%)", (0, 255, 0)),
    ],
)
def test_colours_that_pillow_understands(text, colour):
    assert parse_colour(text) == colour


@pytest.mark.parametrize(
    "text", ["", "whit", "#ff", "#ff800080", "rgb(256, 0, 0)", "255", "w" * 200]
)
def test_other_colours_are_refused_in_one_line(text):
    with pytest.raises(ConfigError, match="data.background: received") as caught:
        parse_colour(text)
    assert "\n" not in str(caught.value)
