"""Evaluation while a run trains: sample grids, differences between samples, observers.

No observer influences the training.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

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

# Recognisable pictures come long before the first evaluation of a usual run.
EARLY_GRIDS = (100, 250, 500, 1000)  # steps with a sample grid and nothing else


@dataclass(frozen=True)
class Observation:
    """What an observer returns: scalars and pictures to log, and two judgements."""

    scalars: dict[str, float] = field(default_factory=dict)
    # uint8 (height, width, channels)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    alarm: str = ""  # why the samples look collapsed; empty if they do not
    score: str = ""  # the scalar whose lowest value marks the best checkpoint


class Observer(Protocol):
    """Measures `num_images` samples of the averaged generator during the training."""

    num_images: int

    def observe(
        self, step: int, images_uint8: np.ndarray, state: TrainState
    ) -> Observation:
        """Called at every evaluation, and after the first step for step 0.

        The images (num_images, height, width, channels) come from the same latents at
        every call. The state may be read and not changed.
        """
        ...


class Evaluation:
    """Evaluates the generators of a run.

    It renders with generators of its own: the untrained one is evaluated after the
    first step, and training mode must not change the moving statistics of the run.
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
        shape = (size, channels, 0, config.train.precision)
        self.average = build_generator(config.model, *shape)
        self.raw = build_generator(config.model, *shape)
        self.render_average = renderer(self.average)
        self.render_raw = renderer(self.raw)
        if self._untrained:
            self._evaluate(0, self._untrained)
            self._untrained = None

    def __call__(self, step: int, grid_only: bool = False) -> None:
        """Evaluates the state, which is that after `step` steps."""
        if grid_only:
            self.average.set_weights(self.state.ema_generator.get_weights())
            grid_latents = self.latents[: self.config.run.grid_images]
            self.log.grid(step, tile(self.render_average(grid_latents)))
        else:
            self._evaluate(step, self._weights())

    def _weights(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Copies of the weights of the averaged and of the current generator."""
        state = self.state
        return state.ema_generator.get_weights(), state.generator.get_weights()

    def _evaluate(self, step: int, weights: tuple[Any, Any]) -> None:
        """Renders samples, calls the observers, and logs the results."""
        self.average.set_weights(weights[0])
        self.raw.set_weights(weights[1])
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
            if (score := found.score) and step:
                self.checkpoints.keep_best(step, score, found.scalars[score])
        self.alarms.add_observation("; ".join(reasons))

    def _differences(self, average: np.ndarray, raw: np.ndarray) -> dict[str, float]:
        """Mean absolute differences, in grey levels, between images of equal latents.

        One is between the statistics of the batch and the moving ones, the other
        between the current and the averaged generator.
        """
        batch = to_uint8(self.raw(self.latents[: self.num_raw], training=True))

        def difference(a: np.ndarray, b: np.ndarray) -> float:
            return float(np.abs(a.astype(np.int16) - b).mean())

        return {
            "gap/batch_vs_moving": difference(batch, raw),
            "gap/raw_vs_ema": difference(raw, average[: self.num_raw]),
        }
