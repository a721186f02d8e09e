"""The training loops of TensorFlow's and Keras' own documentation, written anew.

Each takes uint8 images (N, 28, 28, 1) or (N, 64, 64, 3) and a batch size, and returns a
function that does a number of steps. Only the loops are compared, so that both train
the network of TensorFlow's DCGAN tutorial or, at 64 pixels, that of PyTorch's example.
The last, smaller batch of an epoch is dropped, because it would be compiled anew.
"""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

LATENT_DIM = 100
SLOPE = 0.3
Burst = Callable[[int], None]


def build_generator(image_size: int = 28) -> keras.Model:
    """Latents (batch, 100) to images (batch, 28, 28, 1), by three transposed layers.

    With 64 pixels to images (batch, 64, 64, 3), by five transposed layers.
    """
    if image_size == 64:
        stages: list[Any] = []
        for width in (256, 128, 64):
            stages += [
                layers.Conv2DTranspose(width, 4, 2, padding="same", use_bias=False),
                layers.BatchNormalization(),
                layers.ReLU(),
            ]
        return keras.Sequential(
            [
                keras.Input((LATENT_DIM,)),
                layers.Reshape((1, 1, LATENT_DIM)),
                layers.Conv2DTranspose(512, 4, use_bias=False),
                layers.BatchNormalization(),
                layers.ReLU(),
                *stages,
                layers.Conv2DTranspose(
                    3, 4, 2, padding="same", use_bias=False, activation="tanh"
                ),
            ]
        )
    return keras.Sequential(
        [
            keras.Input((LATENT_DIM,)),
            layers.Dense(7 * 7 * 256, use_bias=False),
            layers.BatchNormalization(),
            layers.LeakyReLU(SLOPE),
            layers.Reshape((7, 7, 256)),
            layers.Conv2DTranspose(128, 5, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.LeakyReLU(SLOPE),
            layers.Conv2DTranspose(64, 5, 2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.LeakyReLU(SLOPE),
            layers.Conv2DTranspose(
                1, 5, 2, padding="same", use_bias=False, activation="tanh"
            ),
        ]
    )


def build_discriminator(image_size: int = 28) -> keras.Model:
    """Images (batch, 28, 28, 1), or (batch, 64, 64, 3), to logits (batch, 1)."""
    if image_size == 64:
        stages: list[Any] = []
        for width in (128, 256, 512):
            stages += [
                layers.Conv2D(width, 4, 2, padding="same", use_bias=False),
                layers.BatchNormalization(),
                layers.LeakyReLU(0.2),
            ]
        return keras.Sequential(
            [
                keras.Input((64, 64, 3)),
                layers.Conv2D(64, 4, 2, padding="same", use_bias=False),
                layers.LeakyReLU(0.2),
                *stages,
                layers.Conv2D(1, 4, use_bias=False),
                layers.Flatten(),
            ]
        )
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(64, 5, 2, padding="same"),
            layers.LeakyReLU(SLOPE),
            layers.Dropout(0.3),
            layers.Conv2D(128, 5, 2, padding="same"),
            layers.LeakyReLU(SLOPE),
            layers.Dropout(0.3),
            layers.Flatten(),
            layers.Dense(1),
        ]
    )


def pipeline(images_uint8: np.ndarray, batch_size: int, buffer: int) -> tf.data.Dataset:
    """Shuffled batches of images in [-1, 1]."""
    images = (images_uint8.astype("float32") - 127.5) / 127.5
    dataset = tf.data.Dataset.from_tensor_slices(images)
    return dataset.shuffle(buffer).batch(batch_size, drop_remainder=True)


def endless(dataset: tf.data.Dataset) -> Iterator[tf.Tensor]:
    """Repeats a data set without end."""
    while True:
        yield from dataset


def tutorial_loop(images_uint8: np.ndarray, batch_size: int) -> Burst:
    """A Python loop over a compiled step, as in TensorFlow's DCGAN tutorial."""
    image_size = images_uint8.shape[1]
    generator = build_generator(image_size)
    discriminator = build_discriminator(image_size)
    g_optimizer, d_optimizer = keras.optimizers.Adam(1e-4), keras.optimizers.Adam(1e-4)
    entropy = keras.losses.BinaryCrossentropy(from_logits=True)

    @tf.function
    def train_step(real_images: tf.Tensor) -> tf.Tensor:
        noise = tf.random.normal((batch_size, LATENT_DIM))
        with tf.GradientTape() as g_tape, tf.GradientTape() as d_tape:
            fake_images = generator(noise, training=True)
            real_logits = discriminator(real_images, training=True)
            fake_logits = discriminator(fake_images, training=True)
            g_loss = entropy(tf.ones_like(fake_logits), fake_logits)
            d_loss = entropy(tf.ones_like(real_logits), real_logits)
            d_loss += entropy(tf.zeros_like(fake_logits), fake_logits)
        for tape, loss, model, optimizer in (
            (g_tape, g_loss, generator, g_optimizer),
            (d_tape, d_loss, discriminator, d_optimizer),
        ):
            weights = model.trainable_variables
            gradients = tape.gradient(loss, weights)
            optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return g_loss

    batches = endless(pipeline(images_uint8, batch_size, len(images_uint8)))

    def burst(num_steps: int) -> None:
        for _ in range(num_steps):
            loss = train_step(next(batches))
        float(loss)  # waits for a GPU

    return burst


class FittedGAN(keras.Model):
    """A GAN with its own `train_step`, as in Keras' guide to customizing `fit`.

    Unlike in the guide, both networks are called in training mode, because they have
    dropout and batch normalisation.
    """

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.generator = build_generator(image_size)
        self.discriminator = build_discriminator(image_size)
        self.entropy = keras.losses.BinaryCrossentropy(from_logits=True)
        self.seeds = keras.random.SeedGenerator(0)
        self.d_mean = keras.metrics.Mean(name="d_loss")
        self.g_mean = keras.metrics.Mean(name="g_loss")

    def compile(self, **options: Any) -> None:
        """Makes the optimizers; `train_step` has the losses."""
        super().compile(**options)
        self.d_optimizer = keras.optimizers.Adam(3e-4)
        self.g_optimizer = keras.optimizers.Adam(3e-4)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The metrics that `fit` resets at each epoch."""
        return [self.d_mean, self.g_mean]

    def train_step(self, real_images: tf.Tensor) -> dict[str, Any]:
        """One pass for the discriminator, then one for the generator."""
        size = tf.shape(real_images)[0]
        fake_images = self.generator(self.latents(size), training=True)
        images = tf.concat([fake_images, real_images], axis=0)
        labels = tf.concat([tf.ones((size, 1)), tf.zeros((size, 1))], axis=0)
        labels += 0.05 * keras.random.uniform(tf.shape(labels), seed=self.seeds)
        weights = self.discriminator.trainable_weights
        with tf.GradientTape() as tape:
            d_loss = self.entropy(labels, self.discriminator(images, training=True))
        self.d_optimizer.apply(tape.gradient(d_loss, weights), weights)

        weights = self.generator.trainable_weights
        with tf.GradientTape() as tape:
            fake_images = self.generator(self.latents(size), training=True)
            logits = self.discriminator(fake_images, training=True)
            g_loss = self.entropy(tf.zeros((size, 1)), logits)
        self.g_optimizer.apply(tape.gradient(g_loss, weights), weights)
        self.d_mean.update_state(d_loss)
        self.g_mean.update_state(g_loss)
        return {"d_loss": self.d_mean.result(), "g_loss": self.g_mean.result()}

    def latents(self, size: tf.Tensor) -> tf.Tensor:
        """Noise (size, 100)."""
        return keras.random.normal((size, LATENT_DIM), seed=self.seeds)


def keras_fit(images_uint8: np.ndarray, batch_size: int) -> Burst:
    """`fit` of a model that overrides `train_step`."""
    gan = FittedGAN(images_uint8.shape[1])
    gan.compile()
    dataset = pipeline(images_uint8, batch_size, buffer=1024).repeat()

    def burst(num_steps: int) -> None:
        gan.fit(dataset, steps_per_epoch=num_steps, shuffle=False, verbose=0)

    return burst
