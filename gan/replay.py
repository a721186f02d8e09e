"""A step in which a number was not finite: kept on disk, and done again in slow motion.

Order and noise are pure functions of (seed, step) and a resume is exact, so the state
just before the bad step can be made again from the newest checkpoint. It is kept beside
the step's inputs: a replay then needs neither the data set nor the rest of the run.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from config.loader import from_dict, to_dict
from config.schema import Config
from gan.data.dataset import Dataset
from gan.data.images import to_float
from gan.files import first_line, read_arrays, write_atomically
from gan.losses import LOSSES
from gan.run import checkpoint
from gan.run.folder import RunError, RunFolder
from gan.state import TrainState, build_state
from gan.step import METRICS, batch_inputs, loss_scale, make_train_steps, update

NUM_KEPT = 4


@dataclass(frozen=True)
class Incident:
    """A bad step and what went into it.

    Attributes:
        config: of the run.
        step: the step's number, the first being 1.
        indices: int64 (B,), the batch's images in the data set.
        images_uint8: uint8 (B, H, W, C), the batch.
        latents: float32 (B, latent_dim).
        metrics: float32 (K, len(METRICS)), of the same call up to the bad step.
    """

    config: Config
    step: int
    indices: np.ndarray
    images_uint8: np.ndarray
    latents: np.ndarray
    metrics: np.ndarray


@dataclass(frozen=True)
class Row:
    """One tensor of the step.

    Attributes:
        name: such as `generator stage1_norm` (a layer's output) or `gradient of ...`.
        shape: of the tensor.
        num_bad: how many of its values are not finite.
        largest: of the magnitudes of the others; 0 without any.
    """

    name: str
    shape: tuple[int, ...]
    num_bad: int
    largest: float


def record(incident: Incident, dataset: Dataset, folder: RunFolder) -> str:
    """Keeps a bad step and finds its first tensor that is not finite.

    Args:
        incident: what happened.
        dataset: the run's images.
        folder: its folder, with checkpoints from before the step alone.

    Returns:
        What to tell the user, in one line.
    """
    step = incident.step
    path = folder.diverged / f"step-{step:08d}.npz"
    try:
        write(path, incident)
        state, kept = rewind(incident.config, dataset, folder, step - 1)
        checkpoint.save(
            path.parent, step - 1, state.checkpoint, {}, NUM_KEPT, replace=True
        )
    except (OSError, checkpoint.CheckpointError) as error:
        return f"the step cannot be kept for a replay: {first_line(error)}"
    bad = first_bad(trace(incident, state)) or "none when repeated"
    return (
        f"first tensor that is not finite: {bad}; last good checkpoint: {kept}; "
        f"look closer with: python -m gan replay {path}"
    )


def rewind(
    config: Config, dataset: Dataset, folder: RunFolder, num_steps: int
) -> tuple[TrainState, str]:
    """Makes the state after `num_steps` steps from the newest checkpoint.

    Returns:
        The state, and the name of the checkpoint.
    """
    state = build_state(config, *dataset.images_uint8.shape[2:])
    restored = checkpoint.restore_newest(folder.state, state.checkpoint)
    train_steps = make_train_steps(config, state)
    images_uint8 = tf.constant(dataset.images_uint8)
    for step in range(int(state.step.numpy()), num_steps):
        inputs = batch_inputs(config, [step], len(images_uint8))
        train_steps(images_uint8, *inputs)
    return state, f"step-{restored.step:08d}" if restored else "none yet"


def replay(path: Path) -> tuple[Incident, list[Row]]:
    """Does the step of a file again.

    Args:
        path: what `record` wrote, with the state kept beside it.

    Raises:
        RunError: when one of them is missing or damaged.
    """
    incident = read(path)
    state = build_state(incident.config, *incident.images_uint8.shape[2:])
    before = path.parent / f"step-{incident.step - 1:08d}"
    try:
        checkpoint.verify(before)
        checkpoint.read(before, state.checkpoint)
    except checkpoint.CheckpointError as error:
        raise RunError(f"{before}, the state before the step: {error}") from None
    return incident, trace(incident, state)


def write(path: Path, incident: Incident) -> None:
    """Stores an incident as .npz."""
    path.parent.mkdir(exist_ok=True)
    arrays: dict[str, Any] = {
        "step": incident.step,
        "indices": incident.indices,
        "images": incident.images_uint8,
        "latents": incident.latents,
        "metrics": incident.metrics,
        "metric_names": np.array(METRICS),
        "config": json.dumps(to_dict(incident.config)),
    }
    write_atomically(path, lambda p: np.savez_compressed(p, **arrays))


def read(path: Path) -> Incident:
    """Reads what `write` stored.

    Raises:
        RunError: when the file is damaged or something else.
    """
    try:
        arrays = read_arrays(path)
        config = from_dict(json.loads(str(arrays["config"])))
        images, latents = arrays["images"], arrays["latents"]
        size = config.train.batch_size
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != size:
            raise ValueError(f"images are {images.dtype} {images.shape}")
        if latents.shape != (size, config.model.latent_dim):
            raise ValueError(f"latents are {latents.shape}")
        rest = arrays["indices"], images, latents, arrays["metrics"]
        return Incident(config, int(arrays["step"]), *rest)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{path} is not the record of a step: {error}") from None


def trace(incident: Incident, state: TrainState) -> list[Row]:
    """Does one step outside the compiled function and measures each tensor of it.

    Args:
        incident: the step.
        state: just before it; changed as by the step.
    """
    settings, latents = incident.config.train, incident.latents
    real_images = to_float(incident.images_uint8)
    rows = [row(f"before: {name}", v.value) for name, v in state.named_variables()]
    rows += [row("latents", latents), row("real images", real_images)]
    generate, judge = all_outputs(state.generator), all_outputs(state.discriminator)
    with tf.GradientTape(persistent=True) as tape:
        fake = generate(latents, training=True)
        real_logits = judge(real_images, training=True)
        fake_logits = judge(fake[-1], training=True)
        losses = LOSSES[settings.loss](real_logits[-1], fake_logits[-1])
        g_scaled = losses[2] * loss_scale(state.g_optimizer)
        d_scaled = (losses[0] + losses[1]) * loss_scale(state.d_optimizer)
    rows += layer_rows("generator", state.generator, fake)
    rows += layer_rows("D(x)", state.discriminator, real_logits)
    rows += layer_rows("D(G(z))", state.discriminator, fake_logits)
    names = ("loss/d_real", "loss/d_fake", "loss/g")
    rows += [row(name, loss) for name, loss in zip(names, losses, strict=True)]
    gradients = []
    for model, loss in ((state.generator, g_scaled), (state.discriminator, d_scaled)):
        variables = model.trainable_variables
        gradients.append(tape.gradient(loss, variables))
        rows += [
            row(f"gradient of {model.name} {variable.path}", gradient)
            for variable, gradient in zip(variables, gradients[-1], strict=True)
        ]
    update(settings, state, *gradients)
    return rows + [
        row(f"after: {name}", v.value) for name, v in state.named_variables()
    ]


def all_outputs(model: keras.Model) -> keras.Model:
    """The same layers as a model with the output of each of them."""
    return keras.Model(model.input, [layer.output for layer in model.layers[1:]])


def layer_rows(name: str, model: keras.Model, outputs: list[tf.Tensor]) -> list[Row]:
    """A row for each layer after the input."""
    layers = model.layers[1:]
    return [row(f"{name} {x.name}", y) for x, y in zip(layers, outputs, strict=True)]


def row(name: str, tensor: Any) -> Row:
    """Counts and measures one tensor."""
    values = np.asarray(tensor, np.float64)
    finite = np.isfinite(values)
    largest = np.abs(values[finite]).max(initial=0.0)
    return Row(name, values.shape, int((~finite).sum()), float(largest))


def first_bad(rows: list[Row]) -> str:
    """Describes the first tensor that is not finite; empty: there is none."""
    for found in rows:
        if found.num_bad:
            size = int(np.prod(found.shape))
            return f"{found.name} ({found.num_bad} of {size} values)"
    return ""
