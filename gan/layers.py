"""Layers of networks in training: Keras' own in faster forms, and the batch's spread.

None of them is in an exported generator, which plain Keras can therefore load.
"""

import math
from typing import Any

import tensorflow as tf
from keras import layers

from gan import convolution
from gan.devices import part_of_replica


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
    trained; what is saved for others to load is made of Keras' own layers. Statistics
    of several replicas stay Keras'.
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Normalises the last axis by the batch, or by what was gathered before."""
        if not training or self.synchronized:
            return super().call(inputs, training=training)
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


class FastConv2D(layers.Conv2D):
    """Keras' convolution, padding "same", in the fastest form known for its shape."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """From (batch, stride * size, stride * size, channels) to size x size."""
        kernel = tf.convert_to_tensor(self.kernel)
        outputs = convolution.convolve(inputs, kernel, self.strides[0])
        return tf.nn.bias_add(outputs, self.bias) if self.use_bias else outputs


class FastConv2DTranspose(layers.Conv2DTranspose):
    """Keras' transposed convolution, padding "same", in the fastest form known."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """From (batch, size, size, channels) to stride * size."""
        kernel = tf.convert_to_tensor(self.kernel)
        outputs = convolution.convolve_transposed(inputs, kernel, self.strides[0])
        return tf.nn.bias_add(outputs, self.bias) if self.use_bias else outputs


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
        # float32: 1e-8, without which the gradient at equal images is infinite, is 0 in
        # half precision.
        groups = tf.reshape(tf.cast(features, tf.float32), (-1, group, *shape))
        deviation = tf.sqrt(tf.math.reduce_variance(groups, axis=1) + 1e-8)
        return tf.cast(tf.repeat(deviation, group, axis=0), features.dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return super().get_config() | {"group_size": self.group_size}
