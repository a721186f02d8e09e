"""Layers of networks that train: Keras' own in faster forms, and MinibatchStddev.

None of them is in an exported generator, so plain Keras can load it.
"""

import math
from typing import Any

import tensorflow as tf
from keras import layers

from gan import convolution
from gan.devices import part_of_replica


class SharedDropout(layers.Dropout):
    """Dropout by 16 random bits per activation, of which Keras generates 32.

    The rate is rounded to a multiple of 1 / 65536. Each replica takes its part of the
    mask that one device would generate for the whole batch.
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Sets activations to 0 in training and scales the others to keep the mean."""
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

    It takes half of the time and differs in rounding only. Several replicas use the
    form of Keras, which shares the statistics among them.
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Normalises the last axis, in training by the statistics of the batch."""
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
        # The kernel divides the sum of squares by count - 1, Keras divides it by count.
        count = tf.cast(tf.shape(rows)[2], tf.float32)
        variance = variance * (count - 1) / count
        averages = ((self.moving_mean, mean), (self.moving_variance, variance))
        for moving, value in averages:
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
    """Standard deviation of each feature at each position over a group of images.

    A group is gcd(batch size, group size) consecutive images. The maps let the
    discriminator recognise a generator whose samples resemble one another. Source:
    Karras et al. 2018 (arXiv:1710.10196, section 3), who average all values to one
    number. Here each map is kept: it costs no more and says which features vary where
    (docs/results.md compares both).
    """

    def __init__(self, group_size: int, **options: Any) -> None:
        super().__init__(**options)
        self.group_size = group_size

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """From (batch, height, width, channels) to the same shape."""
        size, *shape = features.shape
        group = math.gcd(size or self.group_size, self.group_size)
        # Without 1e-8 the gradient at equal images is infinite. In half precision 1e-8
        # is 0, hence float32.
        groups = tf.reshape(tf.cast(features, tf.float32), (-1, group, *shape))
        deviation = tf.sqrt(tf.math.reduce_variance(groups, axis=1) + 1e-8)
        return tf.cast(tf.repeat(deviation, group, axis=0), features.dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return super().get_config() | {"group_size": self.group_size}
