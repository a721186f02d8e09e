"""Conversions of images: float and uint8, to one size, into a grid.

Images have two forms: `images` are float32 in [-1, 1], `images_uint8` are 0 to 255.
Axes are (batch, height, width, channels).
"""

import math

import numpy as np
from PIL import Image, ImageColor, ImageOps

from config.schema import ConfigError

VIEWED_PX = 168  # 6 x 28: width of one image in a picture to be looked at


def to_float(images_uint8: np.ndarray) -> np.ndarray:
    """Maps uint8 0..255 to float32 [-1, 1]; any shape."""
    return images_uint8.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Maps [-1, 1] to uint8 0..255, rounded; any shape."""
    # The samples of a diverged generator, with NaN, can still be shown.
    levels = np.nan_to_num((np.asarray(images, np.float32) + 1) * 127.5, nan=0.0)
    return round_to_uint8(levels)


def round_to_uint8(levels: np.ndarray) -> np.ndarray:
    """Rounds grey levels to whole ones and clips them to uint8 0..255; any shape."""
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def tile(
    images_uint8: np.ndarray, columns: int | None = None, gap: int = 1
) -> np.ndarray:
    """Puts uint8 images (N, H, W, C) row by row into one picture.

    Without `columns` the grid is nearly square; `gap` grey pixels are between images.
    The result is uint8 (rows*(H+gap)-gap, columns*(W+gap)-gap, C).
    """
    num_images, height, width, channels = images_uint8.shape
    columns = columns or math.ceil(math.sqrt(num_images))
    rows = math.ceil(num_images / columns)
    high, wide = height + gap, width + gap
    cells = np.full((rows * columns, high, wide, channels), 96, np.uint8)
    cells[:num_images, :height, :width] = images_uint8
    grid = cells.reshape(rows, columns, high, wide, channels).swapaxes(1, 2)
    grid = grid.reshape(rows * high, columns * wide, channels)
    return grid[: rows * high - gap, : columns * wide - gap]


def to_picture(image_uint8: np.ndarray) -> Image.Image:
    """Makes a Pillow image of uint8 (H, W, 1) or (H, W, 3)."""
    grey = image_uint8.shape[2] == 1
    return Image.fromarray(image_uint8[..., 0] if grey else image_uint8)


def magnify(picture: Image.Image, scale: int) -> Image.Image:
    """Enlarges a picture by nearest neighbour, which shows every pixel as it is."""
    return ImageOps.scale(picture, scale, Image.Resampling.NEAREST)


def to_grid(
    images_uint8: np.ndarray, columns: int | None = None, scale: int | None = None
) -> Image.Image:
    """Puts uint8 images (N, H, W, C) side by side into one picture to look at.

    Each pixel becomes `scale` x `scale` pixels; None: an image becomes about VIEWED_PX
    wide.
    """
    grid = to_picture(tile(images_uint8, columns))
    scale = scale or viewing_scale(images_uint8.shape[2], max(grid.size))
    return magnify(grid, scale)


def viewing_scale(
    image_px: int, picture_px: int, least_px: int = 0, most_px: int = 1400
) -> int:
    """Returns the whole factor by which a picture is enlarged to be looked at.

    Args:
        image_px: width of an image in the picture, which becomes about VIEWED_PX wide.
        picture_px: the longer side of the picture.
        least_px: what this side has at least after the enlargement.
        most_px: what it has at most, unless it is longer already.
    """
    wanted = max(round(VIEWED_PX / image_px), math.ceil(least_px / picture_px))
    return max(1, min(wanted, most_px // picture_px))


def parse_colour(text: str) -> tuple[int, int, int]:
    """Returns red, green and blue, 0 to 255, of a colour that Pillow understands."""
    try:
        levels: tuple[int, ...] = ImageColor.getrgb(text)
    except ValueError:
        levels = ()
    if len(levels) != 3 or max(levels) > 255:  # the fourth level is an opacity
        raise ConfigError(
            f"data.background: received {text!r}, expected a colour such as white, "
            "#ff8000 or rgb(255, 128, 0)"
        )
    return levels[0], levels[1], levels[2]


def fit_image(
    image: np.ndarray, size: int, channels: int, fit: str, background: str = "black"
) -> np.ndarray:
    """Brings an image, uint8 (H, W, 1 or 3), to uint8 (size, size, channels).

    The fit "crop" scales the short side and cuts out the centre, "pad" scales the long
    side and centres the image on the background, "stretch" scales both sides. Grey is
    the luma of ITU-R 601.
    """
    if image.shape == (size, size, channels):
        return image
    picture = to_picture(image).convert("L" if channels == 1 else "RGB")
    target, method = (size, size), Image.Resampling.LANCZOS
    if fit == "crop":
        picture = ImageOps.fit(picture, target, method)
    elif fit == "pad":
        picture = ImageOps.pad(picture, target, method, color=background)
    else:
        picture = picture.resize(target, method)
    return np.asarray(picture).reshape(size, size, channels)
