"""From the size of the images to the doublings and the widths of both networks.

The generator makes a base grid and doubles it until it has the size of the images:
7 -> 14 -> 28, or 4 -> 8 -> 16 -> 32 -> 64 as in Radford, Metz and Chintala 2015
(arXiv:1511.06434).
"""

import dataclasses

from config.schema import Config, ConfigError, ModelConfig

SMALLEST_BASE_SIZE = 4  # px; no smaller base grid is chosen


def num_doublings(model: ModelConfig, image_size: int) -> int:
    """Returns how often the generator doubles height and width.

    This follows from `base_size`; if it is 0, from the number of `generator_widths`;
    if there are none, images are halved while they are even and stay at least 4 px.

    Raises:
        ConfigError: when base size, widths and image size (px) do not fit each other.
    """
    bases = []  # the possible base sizes, for 1, 2, 3 ... doublings
    size = image_size
    while size % 2 == 0:
        size //= 2
        bases.append(size)
    num_widths = len(model.generator_widths)
    if model.base_size:
        if model.base_size not in bases:
            raise ConfigError(
                f"model.base_size: received {model.base_size} for images of "
                f"{image_size} px, expected 0 or one of {', '.join(map(str, bases))}"
            )
        count = bases.index(model.base_size) + 1
        lengths = [count + model.base_stage]
    else:
        count = num_widths - model.base_stage
        lengths = [n + model.base_stage for n in range(1, len(bases) + 1)]
        if not num_widths:
            return max(1, sum(base >= SMALLEST_BASE_SIZE for base in bases))
    if num_widths and num_widths not in lengths:
        raise ConfigError(
            f"model.generator_widths: received {num_widths} numbers for images of "
            f"{image_size} px, expected {' or '.join(map(str, lengths))}: one for each "
            f"doubling{' and one for the base stage' if model.base_stage else ''}"
        )
    return count


def strides(model: ModelConfig, image_size: int) -> tuple[int, ...]:
    """Returns the strides of the generator's upsamplings, first to last."""
    return (2,) * num_doublings(model, image_size)


def with_widths(model: ModelConfig, image_size: int) -> ModelConfig:
    """Chooses the widths of both networks where they are not set.

    The generator has 64 channels before its last doubling (32 with more than two), and
    twice as many before each earlier one, at most 256. The discriminator has as many
    strided convolutions as the generator has doublings. The first has 64 channels (32),
    and each later one twice as many, at most 128.

    Raises:
        ConfigError: when base size, widths and image size do not fit each other.
    """
    count = num_doublings(model, image_size)
    last = 64 if count <= 2 else 32
    widths = [min(256, last << k) for k in reversed(range(count))]
    if model.base_stage:
        widths[:1] = [widths[0], max(widths[0] // 2, last)]
    return dataclasses.replace(
        model,
        generator_widths=model.generator_widths or tuple(widths),
        discriminator_widths=model.discriminator_widths
        or tuple(min(128, last << k) for k in range(count)),
    )


def resolve(config: Config, num_images: int, image_size: int) -> Config:
    """Sets what depends on the images: the number of steps and the widths.

    Raises:
        ConfigError: when base size, widths and image size do not fit each other.
    """
    train = config.train
    passes = round(train.epochs * num_images / train.batch_size)
    train = dataclasses.replace(train, num_steps=train.num_steps or max(1, passes))
    model = with_widths(config.model, image_size)
    return dataclasses.replace(config, train=train, model=model)
