"""Generator and discriminator builders.

The generator is that of the seed article and of TensorFlow's DCGAN tutorial, after
Radford, Metz and Chintala 2015 (arXiv:1511.06434): a dense layer makes a base grid,
then come a stage of stride 1 and as many doublings as the image size asks for. Without
`base_stage` it is the paper's own, as pytorch/examples has it: the transposed
convolution of one pixel there is the dense layer here, and its batch norm has one scale
and shift for each channel. The initial weights of a layer depend on the seed and its
name alone, so that runs with different methods start from equal weights wherever they
share a layer.
"""

import zlib
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from config.schema import ModelConfig
from config.sizes import num_doublings, with_widths
from gan.layers import (
    FastConv2D,
    FastConv2DTranspose,
    FusedBatchNormalization,
    MinibatchStddev,
    SharedDropout,
)
from gan.upsampling import FIR, KERAS, Checker, LayerKinds, smooth, upsample

BASE_STAGE_KERNEL = 5  # this stage does not double, so no experiment varies it


class Build:
    """What the layers of one network share; the arguments are those of its builder."""

    def __init__(
        self, config: ModelConfig, seed: int, precision: str, fused: bool
    ) -> None:
        self.config, self.seed, self.precision = config, seed, precision
        self.slope = config.leaky_slope
        self.kinds = LayerKinds(FastConv2D, FastConv2DTranspose) if fused else KERAS
        self.norm = FusedBatchNormalization if fused else layers.BatchNormalization

    def weights(self, name: str, bias: bool = False) -> dict[str, Any]:
        """Keyword arguments for the layer `name`, which has a kernel."""
        seed = zlib.crc32(f"{self.seed}/{name}".encode())
        initializer = keras.initializers.GlorotUniform(seed=seed)
        if stddev := self.config.initializer_stddev:
            initializer = keras.initializers.RandomNormal(stddev=stddev, seed=seed)
        options = {"kernel_initializer": initializer, "use_bias": bias}
        return options | {"name": name, "dtype": self.precision}

    def upsample(self, x: Any, filters: int, method: str, name: str) -> Any:
        """Doubles height and width by a method of `config.upsamplers`."""
        size, options = self.config.kernel_size, self.weights(name)
        return upsample(method, x, filters, size, kinds=self.kinds, **options)

    def activate(self, x: Any, name: str) -> Any:
        """LeakyReLU, or ReLU where the slope is 0."""
        options: dict[str, Any] = {"name": f"{name}_act", "dtype": self.precision}
        if self.slope:
            return layers.LeakyReLU(self.slope, **options)(x)
        return layers.ReLU(**options)(x)

    def normalize(self, x: Any, name: str) -> Any:
        """Batch normalisation, then LeakyReLU."""
        x = self.norm(
            momentum=self.config.batch_norm_momentum,
            # Several replicas take the statistics of the whole batch, as one does.
            synchronized=tf.distribute.get_strategy().num_replicas_in_sync > 1,
            name=f"{name}_norm",
            dtype=self.precision,
        )(x)
        return self.activate(x, name)


def build_generator(
    config: ModelConfig,
    image_size: int = 28,
    channels: int = 1,
    seed: int = 0,
    precision: str = "float32",
    fused: bool = False,
) -> keras.Model:
    """Builds the generator.

    Args:
        config: widths, upsampling method and kernel size.
        image_size: height and width of the images in pixels.
        channels: number of colour channels, 1 or 3.
        seed: seed of the initial weights.
        precision: Keras dtype policy of the layers. The images stay float32.
        fused: use layers that train faster; plain Keras cannot load them from a file.

    Returns:
        A model from latents float32 (batch, latent_dim) to images float32 (batch,
        image_size, image_size, channels) in [-1, 1].

    Raises:
        ConfigError: when base size, widths and image size do not fit each other.
    """
    config = with_widths(config, image_size)
    build = Build(config, seed, precision, fused)
    if config.generator_relu:
        build.slope = 0.0
    count = num_doublings(config, image_size)
    base, width = image_size >> count, config.generator_widths[0]

    latents = keras.Input((config.latent_dim,), name="latents")
    x = layers.Dense(base * base * width, **build.weights("base_dense"))(latents)
    reshape = layers.Reshape((base, base, width), name="base_reshape")
    if config.base_stage:
        x = reshape(build.normalize(x, "base"))
        options = build.weights("stage1_conv") | {"padding": "same"}
        width = config.generator_widths[1]
        x = build.kinds.transposed(width, BASE_STAGE_KERNEL, **options)(x)
        x = build.normalize(x, "stage1")
    else:
        x = build.normalize(reshape(x), "base")
    first = 1 + config.base_stage  # the number of the first doubling among the stages
    last = first + count - 1
    for stage, width in enumerate(config.generator_widths[first:], start=first):
        x = build.upsample(x, width, config.upsample, f"stage{stage}_upsample")
        x = build.normalize(x, f"stage{stage}")
    method = config.upsample_last or config.upsample
    x = build.upsample(x, channels, method, f"stage{last}_upsample")
    # float32, because half precision would round the pixels before they are measured.
    images = layers.Activation("tanh", name=f"stage{last}_tanh", dtype="float32")(x)
    if config.checker_grey_levels:
        images = Checker(config.checker_grey_levels, name="checker")(images)
    return keras.Model(latents, images, name="generator")


def build_discriminator(
    config: ModelConfig,
    image_size: int = 28,
    channels: int = 1,
    seed: int = 0,
    precision: str = "float32",
    fused: bool = False,
) -> keras.Model:
    """Builds the discriminator: convolutions that halve, then one dense layer.

    By the settings, batch normalisation follows all but the first, dropout each, and
    the last layer also gets the standard deviations of `MinibatchStddev`. The arguments
    are those of `build_generator`; `seed` decides the dropout too.

    The gradient that passes back through a convolution of stride 2 has a checkerboard
    (Odena et al. 2016), through the average or the blur (Zhang 2019, arXiv:1904.11486)
    it has none.

    Returns:
        A model from images float32 (batch, image_size, image_size, channels) in [-1, 1]
        to logits float32 (batch, 1), for every `precision`.
    """
    config = with_widths(config, image_size)
    build = Build(config, seed, precision, fused)
    size, downsample = config.discriminator_kernel_size, config.discriminator_downsample
    stride = 2 if downsample == "strided" else 1
    images = keras.Input((image_size, image_size, channels), name="images")
    x = images
    for stage, width in enumerate(config.discriminator_widths, start=1):
        options = build.weights(f"stage{stage}_conv", bias=True)
        x = build.kinds.plain(width, size, stride, padding="same", **options)(x)
        if stage > 1 and config.discriminator_norm == "batch":
            x = build.normalize(x, f"stage{stage}")
        else:
            x = build.activate(x, f"stage{stage}")
        if downsample == "average":
            options = {"name": f"stage{stage}_average", "dtype": precision}
            x = layers.AveragePooling2D(2, padding="same", **options)(x)
        elif downsample == "blur":
            options = {"name": f"stage{stage}", "dtype": precision}
            x = smooth(x, FIR, options, stride=2)
        if config.dropout:
            x = SharedDropout(
                config.dropout,
                seed=zlib.crc32(f"{seed}/dropout{stage}".encode()),
                name=f"stage{stage}_dropout",
                dtype=precision,
            )(x)
    if config.minibatch_stddev:
        group, name = config.minibatch_stddev, "minibatch_stddev"
        stddev = MinibatchStddev(group, name=name, dtype=precision)
        x = layers.Concatenate(name="features", dtype=precision)([x, stddev(x)])
    x = layers.Flatten(name="flatten")(x)
    options = build.weights("logits", bias=True) | {"dtype": "float32"}
    logits = layers.Dense(1, **options)(x)
    return keras.Model(images, logits, name="discriminator")
