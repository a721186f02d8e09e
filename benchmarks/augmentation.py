"""Measures what augmentation costs: its share of the processor time of a step.

    python -m benchmarks.augmentation [--set KEY=VALUE ...] [--out FILE.json]

Both steps train on noise of `data.image_size` px and take turns in this process.
"""

import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from benchmarks.results import save, spread
from config.loader import load_config
from config.schema import AUGMENTATIONS, Config
from gan.run.environment import prepare_tensorflow

SETTINGS = {"data.image_size": 64, "data.channels": 3, "train.num_steps": 1_000_000}
ALL = ",".join(AUGMENTATIONS)


def make_timer(config: Config) -> Callable[[int], float]:
    """Makes the function from a number of steps to seconds of processor time each."""
    import tensorflow as tf

    from gan.state import build_state
    from gan.step import batch_inputs, make_train_steps

    size, channels = config.data.image_size, config.data.channels
    noise = np.random.default_rng(0).integers(0, 256, (256, size, size, channels))
    images_uint8 = tf.constant(noise, tf.uint8)
    train_steps = make_train_steps(config, build_state(config, size, channels))

    def seconds(num_steps: int) -> float:
        start = time.process_time()
        for step in range(num_steps):
            train_steps(images_uint8, *batch_inputs(config, [step], 256)).numpy()
        return (time.process_time() - start) / num_steps

    seconds(3)  # compiles
    return seconds


@click.command()
@click.option("--set", "sets", multiple=True, help="value of any setting")
@click.option("--steps", "num_steps", default=2, show_default=True, help="per round")
@click.option("--rounds", default=50, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path))
def main(sets: tuple[str, ...], num_steps: int, rounds: int, out: Path | None) -> None:
    """Compares steps with all policies and steps without augmentation."""
    prepare_tensorflow()
    timers = [
        make_timer(load_config(flags=SETTINGS | {"train.augment": policies}, sets=sets))
        for policies in ("none", ALL)
    ]
    seconds = np.array([[t(num_steps) for t in timers] for _ in range(rounds)])
    for name, times in zip(("none", ALL), 1e3 * seconds.T, strict=True):
        click.echo(f"{name}: {spread(times)} ms of processor time per step")
    least = seconds.min(axis=0)  # the rounds that other programs disturbed least
    click.echo(
        f"share of the step, from the least times: {least[1] / least[0] - 1:.1%}"
    )
    save(out, {"seconds_per_step": seconds.tolist()})


if __name__ == "__main__":
    main()
