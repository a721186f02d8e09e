"""What a run keeps on disk, and the way back to it.

Checkpoints for resuming, the best averaged generator so far, and the exported one.
"""

from typing import Any

import tensorflow as tf

from gan.files import write_atomically
from gan.run import checkpoint
from gan.run.checkpoint import CheckpointError
from gan.run.folder import RunFacts, RunFolder
from gan.run.health import Watch
from gan.run.log import RunLog
from gan.state import TrainState


class Saver:
    """Keeps one run, with the evidence for alarms that a resumed run needs.

    Attributes:
        watch: what that evidence is taken from.
    """

    def __init__(
        self,
        folder: RunFolder,
        state: TrainState,
        facts: RunFacts,
        log: RunLog,
        watch: Watch,
    ) -> None:
        """Names what is saved and where, and looks up the best so far."""
        self.folder, self.state, self.facts = folder, state, facts
        self.log, self.watch = log, watch
        self.best: dict[str, Any] = {}
        checkpoint.clean(folder.best)
        for _, path in checkpoint.available(folder.best)[:1]:
            try:
                kept = checkpoint.verify(path)["facts"]
                score, value = str(kept["score"]), float(kept["value"])
                self.best = {"score": score, "value": value}
            except (CheckpointError, KeyError, TypeError, ValueError) as error:
                log.say(f"warning: {path}: {error}; the best so far is forgotten")

    def save(self, step: int, *, required: bool, replace: bool = False) -> None:
        """Commits the state; unless `required`, a full disk is only a warning."""
        facts = {**self.facts.content(), "alarms": self.watch.memory()}
        try:
            checkpoint.save(
                self.folder.state,
                step,
                self.state.checkpoint,
                facts,
                self.facts.config.run.keep_checkpoints,
                replace=replace,
            )
        except CheckpointError as error:
            if required:
                raise
            self.log.say(f"warning: {error}; training goes on, the next one is tried")

    def keep_best(self, step: int, score: str, value: float) -> None:
        """Keeps the averaged generator if no earlier one had a lower score.

        Args:
            step: finished steps.
            score: name of the score; values of another name are not compared.
            value: the lower, the better.
        """
        if self.best.get("score") == score and not value < self.best["value"]:
            return
        facts = {"score": score, "value": value}
        average = tf.train.Checkpoint(ema_generator=self.state.ema_generator)
        try:
            kept = checkpoint.save(
                self.folder.best, step, average, facts, keep=2, replace=True
            )
        except CheckpointError as error:
            self.log.say(f"warning: best {error}")
            return
        self.best = facts
        for _, path in checkpoint.available(self.folder.best):
            if path != kept:
                checkpoint.remove(path)

    def export(self) -> None:
        """Writes generator.keras with the averaged weights."""
        path = self.folder.directory / "generator.keras"
        try:
            write_atomically(path, self.state.ema_generator.save)
        except OSError as error:
            raise CheckpointError(f"{path} not written: {error}") from error
