"""Conversions of images: float and uint8, to one size, into a grid.

Nothing here reads or writes files. Images have two forms: `images` are float32 in
[-1, 1], `images_uint8` are 0 to 255. Axes are (batch, height, width, channels).
"""

import math

import numpy as np
from PIL import Image, ImageOps


def to_float(images_uint8: np.ndarray) -> np.ndarray:
    """Maps uint8 0..255 to float32 [-1, 1]; any shape."""
    return images_uint8.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Maps [-1, 1] to uint8 0..255, rounded; any shape.

    Values outside are clipped and NaN becomes 0, so that the samples of a diverged
    generator can still be shown.
    """
    levels = np.nan_to_num((np.asarray(images, np.float32) + 1) * 127.5, nan=0.0)
    return round_to_uint8(levels)


def round_to_uint8(levels: np.ndarray) -> np.ndarray:
    """Rounds grey levels to whole ones and clips them to uint8 0..255; any shape."""
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def tile(
    images_uint8: np.ndarray, columns: int | None = None, gap: int = 1
) -> np.ndarray:
    """Puts images row by row into one picture.

    Args:
        images_uint8: uint8 (N, H, W, C), N at least 1.
        columns: images per row; None: as many as make the grid nearly square.
        gap: grey pixels between neighbours.

    Returns:
        uint8 (rows*(H+gap)-gap, columns*(W+gap)-gap, C).
    """
    num_images, height, width, channels = images_uint8.shape
    columns = columns or math.ceil(math.sqrt(num_images))
    rows = math.ceil(num_images / columns)
    cells = np.full(
        (rows * columns, height + gap, width + gap, channels), 96, dtype=np.uint8
    )
    cells[:num_images, :height, :width] = images_uint8
    grid = cells.reshape(rows, columns, height + gap, width + gap, channels)
    grid = grid.swapaxes(1, 2).reshape(
        rows * (height + gap), columns * (width + gap), channels
    )
    return grid[: grid.shape[0] - gap, : grid.shape[1] - gap]


def to_picture(image_uint8: np.ndarray) -> Image.Image:
    """Makes a Pillow image of uint8 (H, W, 1) or (H, W, 3)."""
    return Image.fromarray(
        image_uint8[..., 0] if image_uint8.shape[2] == 1 else image_uint8
    )


def fit_image(image: np.ndarray, size: int, channels: int, fit: str) -> np.ndarray:
    """Brings one image to a square size and a number of channels.

    Args:
        image: uint8 (H, W, 1) or (H, W, 3).
        size: height and width of the result, in pixels.
        channels: 1 (grey, ITU-R 601 luma) or 3.
        fit: "crop" scales the short side and cuts out the centre, "pad" scales the
            long side and centres the image on black, "stretch" scales both sides.

    Returns:
        uint8 (size, size, channels); the image itself if it has that shape already.
    """
    if image.shape == (size, size, channels):
        return image
    picture = to_picture(image).convert("L" if channels == 1 else "RGB")
    target, method = (size, size), Image.Resampling.LANCZOS
    if fit == "crop":
        picture = ImageOps.fit(picture, target, method)
    elif fit == "pad":
        picture = ImageOps.pad(picture, target, method, color=0)
    else:
        picture = picture.resize(target, method)
    return np.asarray(picture).reshape(size, size, channels)
