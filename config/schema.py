"""Every setting of a run: its type, default, unit and range.

Used by the command line, by training and by whoever rebuilds a model from a run
folder. It reads no file and imports nothing heavy.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from config.upsamplers import UPSAMPLERS

LOSSES = ("bce", "hinge", "lsgan")
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
STRATEGIES = ("one", "mirrored", "multiworker")  # of a call, not of a run
FITS = ("crop", "pad", "stretch")
MAX_WIDTH = 4096  # channels; a mistyped width is refused instead of filling memory


class ConfigError(ValueError):
    """A setting is unknown, of the wrong type, or out of its range."""


def setting(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """Declares one setting with its default, its meaning and what it allows."""
    rules = {"help": help, "minimum": minimum, "maximum": maximum, "choices": choices}
    return field(default=default, metadata=rules)


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they reach the size that is trained on."""

    dataset: str = setting(
        "fashion_mnist",
        "the bundled fashion_mnist, a tensorflow-datasets name, or a path",
    )
    image_size: int = setting(
        0,
        "height and width in pixels, a multiple of 4; 0: the images' own",
        minimum=0,
        maximum=1024,
    )
    channels: int = setting(
        0, "1 (grey) or 3 (RGB); 0: the images' own", minimum=0, maximum=3
    )
    fit: str = setting("crop", "how other sizes reach image_size", choices=FITS)
    invert: bool = setting(False, "swap dark and light")
    limit: int = setting(0, "use only the first images; 0: all", minimum=0)


@dataclass(frozen=True)
class ModelConfig:
    """Generator and discriminator."""

    upsample: str = setting(
        "transpose", "how the generator doubles", choices=tuple(UPSAMPLERS)
    )
    upsample_last: str = setting(
        "",
        "how the last stage doubles; empty: like the one before",
        choices=("", *UPSAMPLERS),
    )
    kernel_size: int = setting(
        5, "kernel of the two doublings, in taps", minimum=2, maximum=9
    )
    checker_grey_levels: float = setting(
        0.0,
        "known checkerboard added to samples, not to training: a control of the meter",
        minimum=0,
        maximum=64,
    )
    latent_dim: int = setting(100, "length of a latent vector", minimum=1, maximum=4096)
    generator_widths: tuple[int, ...] = setting(
        (128, 64, 64), "channels of the base grid, before and after the first doubling"
    )
    discriminator_widths: tuple[int, ...] = setting(
        (64, 128), "channels of the two strided convolutions"
    )
    discriminator_norm: str = setting(
        "none", "of the second convolution", choices=("none", "batch")
    )
    minibatch_stddev: int = setting(
        8,
        "images in a group whose spread the discriminator sees; 0: it does not",
        minimum=0,
        maximum=1024,
    )
    dropout: float = setting(
        0.0, "share of discriminator activations dropped", minimum=0, maximum=0.95
    )
    leaky_slope: float = setting(0.0, "slope of LeakyReLU below 0; 0: ReLU", minimum=0)
    initializer_stddev: float = setting(
        0.02, "spread of the initial weights; 0: Keras' Glorot uniform", minimum=0
    )
    batch_norm_momentum: float = setting(
        0.9, "decay of the moving statistics", minimum=0, maximum=0.9999
    )


@dataclass(frozen=True)
class TrainConfig:
    """Loss, optimizers, budget and numerics."""

    batch_size: int = setting(16, "images a step", minimum=1, maximum=65_536)
    loss: str = setting("bce", "adversarial loss on logits", choices=LOSSES)
    r1_gamma: float = setting(
        0.1, "weight of the penalty on the discriminator's slope; 0: none", minimum=0
    )
    g_learning_rate: float = setting(8e-4, "Adam, generator", minimum=0)
    d_learning_rate: float = setting(8e-4, "Adam, discriminator", minimum=0)
    beta_1: float = setting(0.5, "Adam, both networks", minimum=0, maximum=0.9999)
    beta_2: float = setting(0.999, "Adam, both networks", minimum=0, maximum=0.999999)
    decay_start: float = setting(
        0.5,
        "share of the step budget after which the rates fall linearly to 0; 1: never",
        minimum=0,
        maximum=1,
    )
    ema_decay: float = setting(
        0.999, "decay of the averaged generator, ramped up", minimum=0, maximum=0.999999
    )
    epochs: float = setting(
        9.0, "step budget in passes over the data", minimum=0, maximum=1e6
    )
    num_steps: int = setting(0, "step budget; 0: from epochs", minimum=0, maximum=10**9)
    precision: str = setting("float32", "numerics of the layers", choices=PRECISIONS)
    jit: bool = setting(False, "compile the step with XLA")
    steps_per_call: int = setting(
        1, "steps in one call of the compiled function", minimum=1, maximum=1000
    )


@dataclass(frozen=True)
class RunConfig:
    """Identity, cadence and retention of a run."""

    seed: int = setting(0, "of weights, order and noise", minimum=0, maximum=2**31 - 1)
    log_every_steps: int = setting(100, "scalars are written", minimum=1)
    evaluate_every_steps: int = setting(2000, "grid and observers", minimum=1)
    checkpoint_every_steps: int = setting(2000, "state is saved", minimum=1)
    keep_checkpoints: int = setting(3, "newest checkpoints kept", minimum=1)
    grid_images: int = setting(64, "images in a sample grid", minimum=1, maximum=1024)
    histograms: bool = setting(False, "weight histograms at evaluations")


@dataclass(frozen=True)
class Config:
    """All settings of a run; `config.json` in the run folder is exactly this."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        """Refuses what single settings cannot know.

        Raises:
            ConfigError: for a combination that cannot work.
        """
        for section in dataclasses.fields(self):
            check_ranges(section.name, getattr(self, section.name))
        size = self.data.image_size
        if size % 4:
            raise ConfigError(
                f"data.image_size: received {size}, expected a multiple of 4 "
                f"(two doublings); nearest: {4 * max(1, round(size / 4))}"
            )
        if self.data.channels == 2:
            raise ConfigError("data.channels: received 2, expected 1, 3 or 0")
        for name, length in (("generator_widths", 3), ("discriminator_widths", 2)):
            widths = getattr(self.model, name)
            if len(widths) != length or not all(0 < w <= MAX_WIDTH for w in widths):
                raise ConfigError(
                    f"model.{name}: received {list(widths)}, "
                    f"expected {length} numbers from 1 to {MAX_WIDTH}"
                )
        if not self.train.num_steps and not self.train.epochs:
            raise ConfigError("train.epochs and train.num_steps are both 0: no budget")


def check_ranges(section: str, values: Any) -> None:
    """Checks each setting of one section against its declared choices and range.

    Raises:
        ConfigError: naming the key, what was received and what is allowed.
    """
    for item in dataclasses.fields(values):
        value, rules = getattr(values, item.name), item.metadata
        key = f"{section}.{item.name}"
        if rules["choices"] is not None and value not in rules["choices"]:
            raise ConfigError(
                f"{key}: received {value!r}, expected one of "
                f"{', '.join(rules['choices'])}"
            )
        low, high = rules["minimum"], rules["maximum"]
        # Written so that NaN fails too.
        if low is not None and not value >= low:
            raise ConfigError(f"{key}: received {value}, expected at least {low}")
        if high is not None and not value <= high:
            raise ConfigError(f"{key}: received {value}, expected at most {high}")
