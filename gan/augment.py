"""Random changes of the images that the discriminator sees, for small sets of images.

A discriminator soon knows a few images by heart. DiffAugment (Zhao et al. 2020,
arXiv:2006.10738) shows it randomly changed images, real and generated ones, in the
losses of both networks. The generator learns through the changes, which are therefore
differentiable, and its samples are not changed. The values are those of the authors'
code, https://github.com/mit-han-lab/data-efficient-gans: as there, each image has
random numbers of its own, real and generated ones do not share any, and both losses use
the same changed images.

That code takes the R1 penalty in two ways. This project takes it where the
discriminator is used, at the changed real images, as `ns_r1_DiffAugment` does there for
CIFAR and FFHQ. `ns_DiffAugment_r1`, StyleGAN2-ADA and R3GAN differentiate by the
unchanged image instead: there contrast scales the penalty, and pixels that are cut out
do not count.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from config.schema import Config
from gan.data.images import tile, to_float, to_uint8
from gan.devices import part_of_replica

# Independent random numbers of one step: of real images, of generated ones, of `flip`.
REAL, GENERATED, FLIP = STREAMS = range(3)
NUMBERS_PER_IMAGE = 7  # always all, so that no policy changes the numbers of another


def uniform(seed: int, step: Any, stream: int, shape: tuple[int, ...]) -> tf.Tensor:
    """Random float32 numbers in [0, 1), which depend on the arguments alone."""
    number = len(STREAMS) * tf.cast(step, tf.int64) + stream
    # The same numbers on CPU and GPU; XLA makes others of the same key.
    key = tf.stack([tf.constant(seed, tf.int64), number])
    return tf.random.stateless_uniform(shape, key, alg="philox")


def flip(images: tf.Tensor, config: Config, step: Any) -> tf.Tensor:
    """Mirrors images of a whole batch left to right, each with probability 1/2.

    Any dtype; unchanged without `data.flip`.
    """
    if not config.data.flip:
        return images
    mirrored = uniform(config.run.seed, step, FLIP, tuple(images.shape[:1])) < 0.5
    return tf.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def augment(images: tf.Tensor, config: Config, step: Any, stream: int) -> tf.Tensor:
    """Changes images by `train.augment`.

    Args:
        images: float32 (B, height, width, channels) in [-1, 1], the calling replica's
            part of a batch.
        config: the policies and the seed.
        step: number of finished steps.
        stream: REAL or GENERATED.

    Returns:
        Images of the same shape, in which colour can leave [-1, 1].
    """
    if config.train.augment == "none":
        return images
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    shape = replicas * images.shape[0], NUMBERS_PER_IMAGE
    numbers = part_of_replica(uniform(config.run.seed, step, stream, shape))
    return apply(images, config.train.augment, numbers)


def apply(images: tf.Tensor, policies: str, numbers: tf.Tensor) -> tf.Tensor:
    """Applies policies such as "colour,cutout" by numbers in [0, 1), (B, 7)."""
    _, height, width, _ = images.shape
    n = tf.unstack(numbers, axis=1)
    chosen = policies.split(",")
    if "colour" in chosen:
        images = adjust_colour(images, n[0] - 0.5, 2 * n[1], n[2] + 0.5)
    if "translation" in chosen:
        down, right = height // 8, width // 8
        images = translate(
            images, integers(n[3], -down, down), integers(n[4], -right, right)
        )
    if "cutout" in chosen:
        images = cut_out(images, integers(n[5], 0, height), integers(n[6], 0, width))
    return images


def integers(numbers: tf.Tensor, low: int, high: int) -> tf.Tensor:
    """From numbers in [0, 1) to int32 from `low` to `high`, all equally likely."""
    return low + tf.cast(numbers * (high - low + 1), tf.int32)


def adjust_colour(
    images: tf.Tensor, brightness: tf.Tensor, saturation: tf.Tensor, contrast: tf.Tensor
) -> tf.Tensor:
    """Adds brightness, then scales distances from grey, then those from the mean.

    The arguments are one number per image. As neither brightness nor saturation changes
    a distance from the mean of the image, all of it is one linear map.
    """
    brightness, saturation, contrast = (
        x[:, None, None, None] for x in (brightness, saturation, contrast)
    )
    grey = tf.reduce_mean(images, axis=3, keepdims=True)
    mean = tf.reduce_mean(grey, axis=(1, 2), keepdims=True)
    rest = contrast * (1 - saturation) * grey + ((1 - contrast) * mean + brightness)
    return contrast * saturation * images + rest


@tf.custom_gradient
def translate(images: tf.Tensor, down: tf.Tensor, right: tf.Tensor) -> Any:
    """Moves each image by int32 pixels; what becomes free is 0, a middle grey.

    The grey shows how far an image was moved, so that moved samples do not pass for
    moved images. The gradient is the opposite move, which is exact and faster than
    TensorFlow's sum over the pixels of a gather.
    """
    _, height, width, _ = images.shape
    rows, columns = tf.range(height) - down[:, None], tf.range(width) - right[:, None]
    moved = images
    for axis, positions, size in ((1, rows, height), (2, columns, width)):
        inside = tf.clip_by_value(positions, 0, size - 1)
        moved = tf.gather(moved, inside, axis=axis, batch_dims=1)
    valid_rows = (rows >= 0) & (rows < height)
    valid_columns = (columns >= 0) & (columns < width)

    def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, None, None]:
        return translate(upstream, -down, -right), None, None

    return moved * rectangle(valid_rows, valid_columns, images.dtype), gradients


def cut_out(images: tf.Tensor, row: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
    """Sets a rectangle of half the height and width to 0, a middle grey.

    `row` and `column` are its centre, int32 of one number per image. What reaches
    beyond the image is lost, so that a quarter of the image is the most that is cut.
    """
    sides = []
    for size, centre in zip(images.shape[1:3], (row, column), strict=True):
        position = tf.range(size) - centre[:, None] + size // 4
        sides.append((position >= 0) & (position < size // 2))
    rows, columns = sides
    return images * (1 - rectangle(rows, columns, images.dtype))


def rectangle(rows: tf.Tensor, columns: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """1 where bool (B, height) and (B, width) are both true, else 0, with 1 channel."""
    return tf.cast(rows[:, :, None] & columns[:, None, :], dtype)[..., None]


def preview(config: Config, images_uint8: np.ndarray, num_columns: int = 8) -> Any:
    """A picture of real images and of what the discriminator sees of them.

    Returns:
        uint8 (height, width, channels): a row per image, which comes first, followed by
        its changed forms in the first steps of a run.
    """
    images = tf.constant(to_float(images_uint8))
    seen = [
        augment(flip(images, config, step), config, step, REAL)
        for step in range(num_columns)
    ]
    stacked = np.stack([images, *seen], axis=1).reshape(-1, *images.shape[1:])
    return tile(to_uint8(stacked), num_columns + 1)
