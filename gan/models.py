"""Generator and discriminator builders.

The generator of the seed article and of TensorFlow's DCGAN tutorial, after Radford,
Metz and Chintala 2015 (arXiv:1511.06434): a dense layer paints a base grid of a quarter
of the image size, one stride-1 stage and two doublings follow. Only the doublings
depend on the upsampling method, and a layer's initial weights depend on the seed and on
its own name alone, so that runs with different methods start from equal weights
wherever they share a layer.
"""

import zlib
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from config.schema import ModelConfig
from gan.layers import (
    FastConv2D,
    FastConv2DTranspose,
    FusedBatchNormalization,
    MinibatchStddev,
    SharedDropout,
)
from gan.upsampling import CATALOGUE, Checker

STAGE1_KERNEL = 5  # the stride-1 stage doubles nothing, so no experiment varies it


class Build:
    """What the layers of one network share: initial weights and numerics."""

    def __init__(
        self, config: ModelConfig, seed: int, precision: str, fused: bool
    ) -> None:
        """Keeps the settings; `precision` is a Keras dtype policy."""
        self.config, self.seed, self.precision = config, seed, precision
        self.norm = FusedBatchNormalization if fused else layers.BatchNormalization
        self.convolution = FastConv2D if fused else layers.Conv2D
        self.transposed = FastConv2DTranspose if fused else layers.Conv2DTranspose

    def weights(self, name: str, bias: bool = False) -> dict[str, Any]:
        """Keyword arguments of the layer `name` that owns a kernel."""
        seed = zlib.crc32(f"{self.seed}/{name}".encode())
        stddev = self.config.initializer_stddev
        initializer = (
            keras.initializers.RandomNormal(stddev=stddev, seed=seed)
            if stddev
            else keras.initializers.GlorotUniform(seed=seed)
        )
        return {
            "kernel_initializer": initializer,
            "use_bias": bias,
            "dtype": self.precision,
        }

    def upsample(self, x: Any, filters: int, method: str, name: str) -> Any:
        """Twice the size."""
        options = self.weights(name)
        if method == "transpose":
            options["layer"] = self.transposed
        build = CATALOGUE[method].build
        return build(x, filters, self.config.kernel_size, name, **options)

    def activate(self, x: Any, name: str) -> Any:
        """LeakyReLU."""
        return layers.LeakyReLU(
            self.config.leaky_slope, name=f"{name}_act", dtype=self.precision
        )(x)

    def normalize(self, x: Any, name: str) -> Any:
        """Batch normalisation and LeakyReLU."""
        x = self.norm(
            momentum=self.config.batch_norm_momentum,
            # Statistics of the global batch, as one device takes them.
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
        image_size: height and width of the output in pixels, a multiple of 4.
        channels: of the output, 1 or 3.
        seed: of the initial weights.
        precision: Keras dtype policy of the layers; the output stays float32.
        fused: in the form that trains faster and that plain Keras cannot load.

    Returns:
        A model from latents float32 (batch, latent_dim) to images float32 in [-1, 1],
        (batch, image_size, image_size, channels).
    """
    build = Build(config, seed, precision, fused)
    base = image_size // 4
    width0, width1, width2 = config.generator_widths

    latents = keras.Input((config.latent_dim,), name="latents")
    x = layers.Dense(
        base * base * width0, name="base_dense", **build.weights("base_dense")
    )(latents)
    x = build.normalize(x, "base")
    x = layers.Reshape((base, base, width0), name="base_reshape")(x)
    x = build.transposed(
        width1,
        STAGE1_KERNEL,
        padding="same",
        name="stage1_conv",
        **build.weights("stage1_conv"),
    )(x)
    x = build.normalize(x, "stage1")
    x = build.upsample(x, width2, config.upsample, "stage2_upsample")
    x = build.normalize(x, "stage2")
    last = config.upsample_last or config.upsample
    x = build.upsample(x, channels, last, "stage3_upsample")
    # float32: half precision would round the pixels before anybody measures them.
    images = layers.Activation("tanh", name="stage3_tanh", dtype="float32")(x)
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
    """Builds the discriminator.

    Two 5x5 convolutions of stride 2, the second with batch normalisation if asked for,
    dropout after each, and maps of how much the images of the batch differ.

    Args:
        config: widths, slope, dropout, normalisation and group size.
        image_size: height and width of the input in pixels.
        channels: of the input.
        seed: of the initial weights and of dropout.
        precision: Keras dtype policy of the layers; the logits stay float32.
        fused: in the form that trains faster.

    Returns:
        A model from images float32 in [-1, 1] to logits float32 (batch, 1).
    """
    build = Build(config, seed, precision, fused)
    images = keras.Input((image_size, image_size, channels), name="images")
    x = images
    for stage, width in enumerate(config.discriminator_widths, start=1):
        name = f"stage{stage}_conv"
        x = build.convolution(
            width, 5, 2, padding="same", name=name, **build.weights(name, bias=True)
        )(x)
        if stage > 1 and config.discriminator_norm == "batch":
            x = build.normalize(x, f"stage{stage}")
        else:
            x = build.activate(x, f"stage{stage}")
        if config.dropout:
            x = SharedDropout(
                config.dropout,
                seed=zlib.crc32(f"{seed}/dropout{stage}".encode()),
                name=f"stage{stage}_dropout",
                dtype=precision,
            )(x)
    if config.minibatch_stddev:
        stddev = MinibatchStddev(
            config.minibatch_stddev, name="minibatch_stddev", dtype=precision
        )
        x = layers.Concatenate(name="features", dtype=precision)([x, stddev(x)])
    x = layers.Flatten(name="flatten")(x)
    options = build.weights("logits", bias=True) | {"dtype": "float32"}
    return keras.Model(
        images, layers.Dense(1, name="logits", **options)(x), name="discriminator"
    )
