"""Evaluation while a run trains: sample grids, differences between samples, observers.

An observer receives a step number, images and the state, and returns named scalars and
pictures. No observer influences the training.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from config.schema import Config
from gan.data.dataset import latents_from_seeds
from gan.data.images import tile, to_uint8
from gan.models import build_generator
from gan.run.checkpoint import RunCheckpoints
from gan.run.health import Alarms
from gan.run.log import RunLog
from gan.sampling import renderer
from gan.state import TrainState


@dataclass(frozen=True)
class Observation:
    """What an observer returns.

    Attributes:
        scalars: value of each name; all are logged.
        pictures: uint8 (height, width, channels) of each name.
        alarm: why the samples look collapsed; empty if they do not.
        score: name of the scalar that chooses the best checkpoint, which is the one
            with the lowest value; empty: none.
    """

    scalars: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    alarm: str = ""
    score: str = ""


class Observer(Protocol):
    """Measures samples while training goes on.

    Attributes:
        num_images: number of samples of the averaged generator that it needs.
    """

    num_images: int

    def observe(
        self, step: int, images_uint8: np.ndarray, state: TrainState
    ) -> Observation:
        """Called at every evaluation, and after the first step for step 0.

        Args:
            step: number of finished steps of the generator that made the images.
            images_uint8: (num_images, height, width, channels), from the same latents
                at every call.
            state: of the run; it may be read and not changed.
        """
        ...


class Evaluation:
    """Evaluates the generators of a run.

    It renders with generators of its own. The first evaluation of a new run, that of
    step 0, takes place after the first step; and training mode, which is used for a
    comparison, must not change the moving statistics of the run.
    """

    def __init__(
        self,
        config: Config,
        state: TrainState,
        log: RunLog,
        alarms: Alarms,
        checkpoints: RunCheckpoints,
    ) -> None:
        self.config, self.state, self.log = config, state, log
        self.alarms, self.checkpoints = alarms, checkpoints
        self.is_ready = False
        self._untrained = self._weights() if int(state.step.numpy()) == 0 else None

    def prepare(self, observers: Sequence[Observer]) -> None:
        """Builds the generators, and evaluates the untrained weights of a new run."""
        self.is_ready = True
        self.observers = observers
        config = self.config
        self.num_raw = max(config.run.grid_images, min(config.train.batch_size, 256))
        num_images = max([self.num_raw, *(o.num_images for o in observers)])
        self.latents = latents_from_seeds(range(num_images), config.model.latent_dim)
        _, size, _, channels = self.state.generator.output_shape
        self.average, self.raw = (
            build_generator(
                config.model, size, channels, precision=config.train.precision
            )
            for _ in range(2)
        )
        self.render_average = renderer(self.average)
        self.render_raw = renderer(self.raw)
        if self._untrained:
            self._evaluate(0, *self._untrained)
            self._untrained = None

    def __call__(self, step: int) -> None:
        """Evaluates the state, which is that after `step` steps."""
        self._evaluate(step, *self._weights())

    def _weights(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Copies of the weights of the averaged and of the current generator."""
        state = self.state
        return state.ema_generator.get_weights(), state.generator.get_weights()

    def _evaluate(
        self,
        step: int,
        average_weights: list[np.ndarray],
        raw_weights: list[np.ndarray],
    ) -> None:
        """Renders samples, calls the observers, and logs the results."""
        self.average.set_weights(average_weights)
        self.raw.set_weights(raw_weights)
        average = self.render_average(self.latents)
        raw = self.render_raw(self.latents[: self.num_raw])
        num_grid = self.config.run.grid_images
        self.log.grid(step, tile(average[:num_grid]))
        self.log.picture(step, "samples/raw", tile(raw[:num_grid]))
        self.log.scalars(step, self._differences(average, raw))
        if self.config.run.histograms:
            self.log.histograms(step, self.state.variables())
        reasons = []
        for observer in self.observers:
            found = observer.observe(step, average[: observer.num_images], self.state)
            if found.scalars:
                self.log.scalars(step, found.scalars)
            for name, picture in found.pictures.items():
                self.log.picture(step, name, picture)
            if found.alarm:
                reasons.append(found.alarm)
            if found.score and step:
                value = found.scalars[found.score]
                self.checkpoints.keep_best(step, found.score, value)
        self.alarms.add_observation("; ".join(reasons))

    def _differences(self, average: np.ndarray, raw: np.ndarray) -> dict[str, float]:
        """Mean absolute differences, in grey levels, between images of equal latents.

        One is between the statistics of the batch and the moving ones, the other
        between the current and the averaged generator.
        """
        batch = to_uint8(self.raw(self.latents[: self.num_raw], training=True))
        pairs = {
            "gap/batch_vs_moving": (batch, raw),
            "gap/raw_vs_ema": (raw, average[: self.num_raw]),
        }
        return {
            name: float(np.abs(a.astype(np.int16) - b).mean())
            for name, (a, b) in pairs.items()
        }
