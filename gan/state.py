"""Everything that a run must remember, and the proof that nothing is forgotten."""

import hashlib
from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf

from config.schema import Config, TrainConfig
from gan.models import build_discriminator, build_generator


class StateError(RuntimeError):
    """A checkpoint would not hold a variable, so a resume would lose it."""


@dataclass
class TrainState:
    """Networks, averaged generator, optimizers and the step counter of one run.

    The names of the fields are keys of its checkpoints. `step` counts the finished
    steps; an optimizer's `iterations` stands still when loss scaling skips a step.
    """

    generator: keras.Model
    ema_generator: keras.Model
    discriminator: keras.Model
    g_optimizer: keras.optimizers.Optimizer
    d_optimizer: keras.optimizers.Optimizer
    strategy: tf.distribute.Strategy = field(default_factory=tf.distribute.get_strategy)
    step: tf.Variable = field(
        default_factory=lambda: tf.Variable(0, dtype=tf.int64, trainable=False)
    )

    def __post_init__(self) -> None:
        self.checkpoint = tf.train.Checkpoint(
            step=self.step,
            generator=self.generator,
            ema_generator=self.ema_generator,
            discriminator=self.discriminator,
            g_optimizer=self.g_optimizer,
            d_optimizer=self.d_optimizer,
            random_state=self.random_state(),
        )
        if lost := self.untracked():
            raise StateError(f"not part of the checkpoint: {', '.join(lost)}")

    def random_state(self) -> list[tf.Variable]:
        """Seed states of layers such as dropout.

        Keras lists them in `variables` but not in `weights`. tf.train.Checkpoint does
        not find them, and a restore without them passes every assertion of TensorFlow.
        """
        models = self.generator, self.discriminator
        weights = {id(weight) for model in models for weight in model.weights}
        variables = [variable for model in models for variable in model.variables]
        return [v.value for v in variables if id(v) not in weights]

    def named_variables(self) -> list[tuple[str, keras.Variable]]:
        """All Keras variables with names such as `generator base_dense/kernel`."""
        owners = {
            "generator": self.generator,
            "averaged generator": self.ema_generator,
            "discriminator": self.discriminator,
            "generator's optimizer": self.g_optimizer,
            "discriminator's optimizer": self.d_optimizer,
        }
        return [
            (f"{name} {v.path}", v) for name, o in owners.items() for v in o.variables
        ]

    def variables(self) -> list[keras.Variable]:
        """All Keras variables of the networks and optimizers."""
        return [variable for _, variable in self.named_variables()]

    def raw_variables(self) -> list[tf.Variable]:
        """All variables as TensorFlow's own, with the step counter."""
        return [self.step, *(variable.value for variable in self.variables())]

    def non_finite(self) -> list[str]:
        """Names of the variables that hold NaN or infinity."""
        pairs = self.named_variables()
        return [name for name, v in pairs if not np.isfinite(v.value.numpy()).all()]

    def untracked(self) -> list[str]:
        """Paths of the variables that `self.checkpoint` would not save."""
        tracked = set()
        for item in tf.train.TrackableView(self.checkpoint).descendants():
            item = item.value if isinstance(item, keras.Variable) else item
            if isinstance(item, tf.Variable):
                tracked.add(id(item))
        return [v.path for v in self.variables() if id(v.value) not in tracked]

    def digest(self) -> str:
        """SHA-256 of the step and of the bytes of every variable, in order.

        Names do not count, because Keras numbers the optimizers of a process.
        """
        digest = hashlib.sha256(str(self.step.numpy()).encode())
        for variable in self.variables():
            digest.update(repr(tuple(variable.shape)).encode())
            digest.update(variable.value.numpy().tobytes())
        return digest.hexdigest()


def build_state(
    config: Config,
    image_size: int,
    channels: int,
    strategy: tf.distribute.Strategy | None = None,
) -> TrainState:
    """Builds networks and optimizers with all of their variables."""
    strategy = strategy or tf.distribute.get_strategy()
    shape = (image_size, channels, config.run.seed, config.train.precision)
    train = config.train
    with strategy.scope():
        generator = build_generator(config.model, *shape, fused=True)
        ema_generator = build_generator(config.model, *shape)
        ema_generator.set_weights(generator.get_weights())
        discriminator = build_discriminator(config.model, *shape, fused=True)
        g_optimizer = build_optimizer(train, generator, train.g_learning_rate)
        d_optimizer = build_optimizer(train, discriminator, train.d_learning_rate)
        networks = generator, ema_generator, discriminator
        return TrainState(*networks, g_optimizer, d_optimizer, strategy)


def build_optimizer(
    train: TrainConfig, model: keras.Model, learning_rate: float
) -> keras.optimizers.Optimizer:
    """Builds Adam for one network, with loss scaling where float16 needs it."""
    optimizer = FusedAdam(learning_rate, train.beta_1, train.beta_2)
    if train.precision == "mixed_float16":
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    # An optimizer that creates its variables at its first step cannot be restored
    # before it.
    optimizer.build(model.trainable_variables)
    return optimizer


class FusedAdam(keras.optimizers.Adam):
    """Keras' Adam, each variable updated by one kernel instead of a dozen.

    The formulas are those of Kingma and Ba 2015 (arXiv:1412.6980) in the form at the
    end of their section 2, so only rounding differs. Without amsgrad.
    """

    def update_step(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Changes one variable and its two moments, all float32."""
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=self.beta_1**step,
            beta2_power=self.beta_2**step,
            lr=learning_rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )
