"""What is looked at while a run trains: grids, gaps, and whatever observers see.

Observers plug in here: they see a step number, pictures and the state, and return named
scalars and pictures. They never feed the training.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from config.schema import Config
from gan.data.dataset import latents_from_seeds
from gan.data.images import tile, to_uint8
from gan.models import build_generator
from gan.run.saver import Saver
from gan.sampling import renderer
from gan.state import TrainState


@dataclass(frozen=True)
class Observation:
    """What an observer returns.

    Attributes:
        scalars: name to value, logged as they are.
        pictures: name to uint8 (height, width, channels).
        alarm: why samples look collapsed; empty: they do not.
        score: which of the scalars chooses the best checkpoint, the lowest being best;
            empty: none.
    """

    scalars: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    alarm: str = ""
    score: str = ""


class Observer(Protocol):
    """Looks at samples while training goes on.

    Attributes:
        num_images: how many samples of the averaged generator it wants.
    """

    num_images: int

    def observe(
        self, step: int, images_uint8: np.ndarray, state: TrainState
    ) -> Observation:
        """Called at every evaluation, and right after the first step for the start.

        Args:
            step: number of finished steps that the images are of.
            images_uint8: (num_images, height, width, channels), of the same latents at
                every call.
            state: to be looked at, not changed.
        """
        ...


Weights = tuple[list[np.ndarray], list[np.ndarray]]  # averaged generator, generator


def generator_weights(state: TrainState) -> Weights:
    """Copies of what an evaluation needs of a state."""
    return state.ema_generator.get_weights(), state.generator.get_weights()


class Evaluation:
    """Grids of fixed latents, the batch-norm gap, and the observers.

    It works on generators of its own, so that a state can be evaluated after the next
    step has been taken, and training mode moves no statistics of the run.
    """

    def __init__(
        self, saver: Saver, observers: Sequence[Observer], config: Config
    ) -> None:
        """Builds the generators; the latents are those of the seeds 0, 1, 2, ..."""
        self.saver, self.observers, self.run = saver, observers, config.run
        self.log, self.state = saver.log, saver.state
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
        self.render_average, self.render_raw = (
            renderer(self.average),
            renderer(self.raw),
        )

    def __call__(self, step: int, weights: Weights | None = None) -> None:
        """Evaluates the state after `step` steps; `weights` if it has moved on."""
        average_weights, raw_weights = weights or generator_weights(self.state)
        self.average.set_weights(average_weights)
        self.raw.set_weights(raw_weights)
        num_grid = self.run.grid_images
        average = self.render_average(self.latents)
        raw = self.render_raw(self.latents[: self.num_raw])
        self.log.grid(step, tile(average[:num_grid]))
        self.log.picture(step, "samples/raw", tile(raw[:num_grid]))
        self.log.scalars(step, self.gaps(average, raw))
        if self.run.histograms:
            self.log.histograms(step, self.state.variables())
        alarms = []
        for observer in self.observers:
            seen = observer.observe(step, average[: observer.num_images], self.state)
            if seen.scalars:
                self.log.scalars(step, seen.scalars)
            for name, picture in seen.pictures.items():
                self.log.picture(step, name, picture)
            alarms.append(seen.alarm)
            if seen.score and step:
                self.saver.keep_best(step, seen.score, seen.scalars[seen.score])
        self.saver.alarms.add_observation("; ".join(filter(None, alarms)))

    def gaps(self, average: np.ndarray, raw: np.ndarray) -> dict[str, float]:
        """Mean absolute differences in grey levels between pictures of equal latents.

        Normalised by the statistics of the batch or by the moving ones; by the current
        or by the averaged generator.
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
