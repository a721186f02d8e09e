"""Generator and discriminator builders.

The generator of the seed article and of TensorFlow's DCGAN tutorial, after Radford,
Metz and Chintala 2015 (arXiv:1511.06434): a dense layer paints a base grid of a quarter
of the image size, one stride-1 stage and two doublings follow. Only the doublings
depend on the upsampling method, and a layer's initial weights depend on the seed and on
its own name alone, so that runs with different methods start from equal weights
wherever they share a layer.
"""

import math
import zlib
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from config.schema import ModelConfig
from gan.devices import part_of_replica
from gan.upsampling import CATALOGUE, Checker

STAGE1_KERNEL = 5  # the stride-1 stage doubles nothing, so no experiment varies it


class SharedDropout(layers.Dropout):
    """Dropout from 16 random bits an activation, of which replicas share one mask.

    Keras draws a float32 for each, which took longer than all else in the layer. The
    rate is kept to 1 / 65536. Each of several replicas takes its part of the mask that
    one device would have drawn.
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Drops, in training, what one device would have dropped of the batch."""
        if not training:
            return inputs
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        shape = (replicas * inputs.shape[0], *inputs.shape[1:])
        count, kept = math.prod(shape), round((1 - self.rate) * 2**16)
        seed = tf.cast(self.seed_generator.next(), tf.int32)
        words = tf.random.stateless_uniform(
            (-(-count // 2),), seed, minval=None, maxval=None, dtype=tf.int32
        )
        halves = tf.reshape(tf.bitcast(words, tf.uint16), (-1,))[:count]
        mask = tf.cast(tf.reshape(halves, shape) < kept, inputs.dtype)
        return inputs * part_of_replica(mask * (2**16 / kept))


class FusedBatchNormalization(layers.BatchNormalization):
    """Keras' batch normalisation, in training by one kernel instead of a dozen.

    The same but for rounding, in half of the time. It serves networks while they are
    trained; what is saved for others to load is made of Keras' own layers.
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Normalises the last axis by the batch, or by what was gathered before."""
        if not training:
            return super().call(inputs, training=False)
        channels = inputs.shape[-1]
        rows = tf.reshape(tf.cast(inputs, tf.float32), (1, 1, -1, channels))
        normal, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=rows,
            scale=self.gamma.value,
            offset=self.beta.value,
            mean=[],
            variance=[],
            epsilon=self.epsilon,
            exponential_avg_factor=1.0,
            is_training=True,
        )
        # The kernel's variance is that of a sample, Keras gathers that of the batch.
        count = tf.cast(tf.shape(rows)[2], tf.float32)
        gathered = (self.moving_mean, self.moving_variance)
        batch = (mean, variance * (count - 1) / count)
        for moving, value in zip(gathered, batch, strict=True):
            moving.assign(moving * self.momentum + value * (1 - self.momentum))
        return tf.cast(tf.reshape(normal, tf.shape(inputs)), inputs.dtype)


class CellConv2D(layers.Conv2D):
    """Keras' 5x5 convolution of stride 2, computed by `convolve_cells`."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """From (batch, height, width, channels) to half the size."""
        outputs = convolve_cells(inputs, self.kernel)
        return tf.nn.bias_add(outputs, self.bias) if self.use_bias else outputs


def convolve_cells(images: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """A 5x5 convolution of stride 2 as one of stride 1 over cells of 2x2 pixels.

    The same products in two thirds of the time, where input channels are few. Tap t of
    an axis meets pixel 2 i + t - 1 of output i: phase (t + 1) % 2 of cell
    i + (t + 1) // 2 - 1. Height and width must be even, the padding is `same`.
    """
    *_, channels, filters = kernel.shape
    taps = tf.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
    taps = tf.reshape(taps, (3, 2, 3, 2, channels, filters))
    taps = tf.transpose(taps, (0, 2, 1, 3, 4, 5))
    taps = tf.reshape(taps, (3, 3, 4 * channels, filters))
    return tf.nn.conv2d(tf.nn.space_to_depth(images, 2), taps, 1, "SAME")


class MinibatchStddev(layers.Layer):
    """Maps that tell the discriminator how much the images of a group differ.

    The standard deviation of each feature at each position over a group of consecutive
    images. A generator whose samples resemble one another gives itself away. Source:
    Karras et al. 2018, arXiv:1710.10196, section 3, who average all of them to one
    number; here each map is kept, which costs nothing and tells what lacks variety
    where (docs/results.md has both).
    """

    def __init__(self, group_size: int, **options: Any) -> None:
        """Names the size; a batch is cut by the greatest divisor that both have."""
        super().__init__(**options)
        self.group_size = group_size

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """From (batch, height, width, channels) to the same shape."""
        size, *shape = features.shape
        group = math.gcd(size or self.group_size, self.group_size)
        # float32: 1e-8, without which the slope at equal images is infinite, is 0 in
        # half precision.
        groups = tf.reshape(tf.cast(features, tf.float32), (-1, group, *shape))
        deviation = tf.sqrt(tf.math.reduce_variance(groups, axis=1) + 1e-8)
        return tf.cast(tf.repeat(deviation, group, axis=0), features.dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return super().get_config() | {"group_size": self.group_size}


class Build:
    """What the layers of one network share: initial weights and numerics."""

    def __init__(
        self, config: ModelConfig, seed: int, precision: str, fused: bool
    ) -> None:
        """Keeps the settings; `precision` is a Keras dtype policy."""
        self.config, self.seed, self.precision = config, seed, precision
        # Statistics of the global batch, as one device takes them.
        several = tf.distribute.get_strategy().num_replicas_in_sync > 1
        self.norm = layers.BatchNormalization
        self.norm_options = {"synchronized": True} if several else {}
        if fused and not several:
            self.norm = FusedBatchNormalization

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

    def activate(self, x: Any, name: str) -> Any:
        """LeakyReLU."""
        return layers.LeakyReLU(
            self.config.leaky_slope, name=f"{name}_act", dtype=self.precision
        )(x)

    def normalize(self, x: Any, name: str) -> Any:
        """Batch normalisation and LeakyReLU."""
        x = self.norm(
            momentum=self.config.batch_norm_momentum,
            name=f"{name}_norm",
            dtype=self.precision,
            **self.norm_options,
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
    upsample = CATALOGUE[config.upsample].build
    upsample_last = CATALOGUE[config.upsample_last or config.upsample].build

    latents = keras.Input((config.latent_dim,), name="latents")
    x = layers.Dense(
        base * base * width0, name="base_dense", **build.weights("base_dense")
    )(latents)
    x = build.normalize(x, "base")
    x = layers.Reshape((base, base, width0), name="base_reshape")(x)
    x = layers.Conv2DTranspose(
        width1,
        STAGE1_KERNEL,
        padding="same",
        name="stage1_conv",
        **build.weights("stage1_conv"),
    )(x)
    x = build.normalize(x, "stage1")
    name = "stage2_upsample"
    x = upsample(x, width2, config.kernel_size, name, **build.weights(name))
    x = build.normalize(x, "stage2")
    name = "stage3_upsample"
    x = upsample_last(x, channels, config.kernel_size, name, **build.weights(name))
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

    Returns:
        A model from images float32 in [-1, 1] to logits float32 (batch, 1).
    """
    build = Build(config, seed, precision, fused=True)
    images = keras.Input((image_size, image_size, channels), name="images")
    x = images
    for stage, width in enumerate(config.discriminator_widths, start=1):
        name = f"stage{stage}_conv"
        convolution = CellConv2D if stage == 1 else layers.Conv2D
        x = convolution(
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
