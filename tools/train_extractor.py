"""Trains the feature network of `analysis.quality.extractor` and writes its weights.

The shipped weights come from this script: `fmnist-v1.npz` without any option, and
`emoji-v1.npz` with `--dataset emoji --epochs 20 --out analysis/assets/emoji-v1.npz`.
Next to the weights it writes a JSON file with the recipe, the digests of the data, the
versions and the accuracy. For another labelled data set, or a folder whose sub-folders
are the classes, run it once, as
`python -m tools.train_extractor --dataset mnist --no-flip --out mnist-v1.npz`, and
give the file to `python -m analysis quality --extractor`. Where there is no test split,
every sixth training image is held out.
"""

import dataclasses
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import keras
import numpy as np
import tensorflow as tf

from analysis.quality import extractor
from analysis.quality.reference import load_splits
from config.schema import DataConfig
from gan.data.dataset import DataError
from gan.data.images import round_to_uint8, to_float


@dataclass(frozen=True)
class Recipe:
    """Settings of a training with AdamW, one epoch of warm-up and cosine decay."""

    epochs: int
    flip: bool  # whether half of the images are mirrored
    seed: int
    batch_size: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    label_smoothing: float = 0.05
    shift_px: int = 2
    # Without noise in training, invisible noise changes the features more than a wrong
    # shape does.
    noise_levels: float = 10


def train_net(
    images_uint8: np.ndarray, labels: np.ndarray, recipe: Recipe
) -> keras.Model:
    """Trains a new `analysis.quality.extractor.build_net` on labelled images.

    Args:
        images_uint8: uint8 (N, H, W, C).
        labels: int64 (N,), numbered from 0.
        recipe: settings of the training.
    """
    keras.utils.set_random_seed(recipe.seed)
    targets = np.eye(int(labels.max()) + 1, dtype=np.float32)[labels]
    net = extractor.build_net(images_uint8.shape[1:], targets.shape[1])
    num_steps = math.ceil(len(targets) / recipe.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(
        recipe.learning_rate / 10,
        num_steps * max(1, recipe.epochs - 1),
        warmup_target=recipe.learning_rate,
        warmup_steps=num_steps,
    )
    classifier = keras.Model(net.inputs, net.get_layer("logits").output)
    classifier.compile(
        keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay),
        keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=recipe.label_smoothing
        ),
        metrics=["accuracy"],
        jit_compile=False,  # XLA's convolutions are slower on a CPU
    )
    classifier.fit(
        augmented_batches(images_uint8, targets, recipe),
        epochs=recipe.epochs,
        steps_per_epoch=num_steps,
        shuffle=False,
        verbose=2,
    )
    return net


def augmented_batches(
    images_uint8: np.ndarray, targets: np.ndarray, recipe: Recipe
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields shuffled batches (float32 images, targets) without end.

    Every image is shifted, may be mirrored, and gets Gaussian noise whose strength is
    random, from 0 to `noise_levels`. The result is rounded to grey levels.
    """
    rng, shift = np.random.default_rng(recipe.seed), recipe.shift_px
    border = ((0, 0), (shift, shift), (shift, shift), (0, 0))
    padded = np.pad(images_uint8, border, mode="edge")
    window = np.arange(images_uint8.shape[1])
    while True:
        order = rng.permutation(len(targets))
        for start in range(0, len(order), recipe.batch_size):
            chosen = order[start : start + recipe.batch_size]
            top, left = rng.integers(0, 2 * shift + 1, (2, len(chosen)))
            rows = (top[:, None] + window)[:, :, None]
            columns = (left[:, None] + window)[:, None, :]
            images = padded[chosen[:, None, None], rows, columns]
            if recipe.flip:
                mirrored = rng.random(len(chosen)) < 0.5
                images[mirrored] = images[mirrored, :, ::-1]
            noise = rng.standard_normal(images.shape, np.float32)
            noise *= rng.uniform(0, recipe.noise_levels, (len(chosen), 1, 1, 1))
            yield to_float(round_to_uint8(images + noise)), targets[chosen]


@click.command()
@click.option("--dataset", default="fashion_mnist", help="Data set, as in train.py.")
@click.option(
    "--out",
    default="analysis/assets/fmnist-v1.npz",
    show_default=True,
    help="File for the weights.",
)
@click.option(
    "--epochs", default=11, show_default=True, help="Passes over the training images."
)
@click.option("--flip/--no-flip", default=True, help="Mirror half of the images.")
@click.option(
    "--seed",
    default=0,
    show_default=True,
    help="Seed of the weights and the batches.",
)
def main(dataset: str, out: str, epochs: int, flip: bool, seed: int) -> None:
    """Trains the feature network on a labelled data set (10 minutes on two cores)."""
    try:
        train, test = load_splits(DataConfig(dataset))
    except DataError as error:
        raise click.ClickException(str(error)) from error
    if train.labels is None or test.labels is None:
        raise click.ClickException(f"{dataset} has no labels, which training needs")
    recipe, path, started = Recipe(epochs, flip, seed), Path(out), time.perf_counter()
    net = train_net(train.images_uint8, train.labels, recipe)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time()
    extractor.save_extractor(path, net, train.images_uint8)
    logits = extractor.run_net(net, test.images_uint8)["logits"]
    record = {
        "id": extractor.load_extractor(path).id,
        "test_accuracy": float(np.mean(logits.argmax(axis=1) == test.labels)),
        "parameters": net.count_params(),
        "dataset": dataset,
        "train_digest": train.digest,
        "test_digest": test.digest,
        "recipe": dataclasses.asdict(recipe),
        "seconds": round(seconds),
        "cpu_seconds": round(cpu_seconds),
        "versions": {module.__name__: module.__version__ for module in (tf, keras, np)},
    }
    text = json.dumps(record, indent=2) + "\n"
    path.with_suffix(".json").write_text(text)
    click.echo(text)


if __name__ == "__main__":
    main()
