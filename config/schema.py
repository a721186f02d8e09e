"""Every setting of a run: its type, default, unit, range, help text and flag.

The command line, the training and everything that rebuilds a model from a run folder
use this file. It reads no file and imports nothing heavy.
"""

import dataclasses
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from config.upsamplers import UPSAMPLER_ALIASES, UPSAMPLERS

LOSSES = ("bce", "hinge", "lsgan")
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
AUGMENTATIONS = ("colour", "translation", "cutout")
FITS = ("crop", "pad", "stretch")
MAX_WIDTH = 4096  # channels; a mistyped width is refused instead of filling memory
MAX_STAGES = 10  # of a network: 1024 px are nine doublings from 2 px


class UserError(ValueError):
    """A problem that the user can solve; the message is one line that says how."""

    exit_code = 1  # of the command that ends with it

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows instead of a traceback."""
        return [f"Error: {self}"]


class ConfigError(UserError):
    """A setting is unknown, of the wrong type, or out of its range."""


def setting(
    default: Any,
    help: str,
    minimum: float | None = None,
    maximum: float | None = None,
    *,
    choices: tuple[str, ...] = (),
    flag: tuple[str, str] = ("", ""),
) -> Any:
    """Declares one setting; `help` names its unit, no `choices` means any value.

    `flag` is the heading in the help of train.py and the flag itself, such as
    `--dataset NAME|PATH`; a setting without a flag is reached with --set.
    """
    metadata = {
        "help": help,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "aliases": {k: v for k, v in UPSAMPLER_ALIASES.items() if v in choices},
        "group": flag[0],
        "flag": flag[1],
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class DataConfig:
    """The training images, and how they are brought to one size."""

    dataset: str = setting(
        "fashion_mnist",
        "Training images: fashion_mnist or emoji (both bundled), the name of a "
        "tensorflow-datasets data set, or the path of a folder, an .npz or an .npy "
        "file.",
        flag=("Experiment", "--dataset NAME|PATH"),
    )
    image_size: int = setting(
        0, "Height and width in pixels, a multiple of 4; 0: as the images.", 0, 1024
    )
    channels: int = setting(0, "1 (grey) or 3 (RGB); 0: as the images.", 0, 3)
    fit: str = setting(
        "crop", "How images of another size are brought to image_size.", choices=FITS
    )
    invert: bool = setting(False, "Swap dark and light.")
    background: str = setting(
        "black",
        "Colour under transparent pixels and, with the fit pad, around the image: a "
        "name, #rrggbb or rgb(red, green, blue); grey images take its luma.",
    )
    skin_tones: bool = setting(
        False, "Whether emoji contains the skin-tone variants of its people and hands."
    )
    flip: bool = setting(
        False, "Mirror each image left to right with probability 1/2, anew every time."
    )
    limit: int = setting(0, "Number of images to use, from the first on; 0: all.", 0)


@dataclass(frozen=True)
class ModelConfig:
    """Generator and discriminator."""

    upsample: str = setting(
        "transpose",
        "Method with which the generator doubles height and width.",
        choices=tuple(UPSAMPLERS),
        flag=("Experiment", "--upsample"),
    )
    upsample_last: str = setting(
        "",
        "Method of the last doubling; if it is not given, that of --upsample.",
        choices=("", *UPSAMPLERS),
        flag=("Experiment", "--upsample-last"),
    )
    kernel_size: int = setting(5, "Kernel size of the doublings, in taps.", 2, 9)
    checker_grey_levels: float = setting(
        0.0,
        "Amplitude, in grey levels, of a known checkerboard that is added to samples "
        "and not to the training: a control of the meter.",
        0,
        64,
    )
    latent_dim: int = setting(100, "Number of values in a latent vector.", 1, 4096)
    base_size: int = setting(
        0,
        "Height and width in pixels of the grid that is doubled up to the size of the "
        "images; 0: it follows from the number of generator_widths, or is 4 to 7 px "
        "where doublings allow it.",
        0,
        512,
    )
    base_stage: bool = setting(
        True,
        "A convolution of stride 1 on the base grid before the first doubling, as in "
        "TensorFlow's tutorial.",
    )
    generator_widths: tuple[int, ...] = setting(
        (),
        "Channels of the generator: of the base grid, after its base stage (if there "
        "is one), and after each doubling but the last; []: chosen by the size.",
    )
    generator_relu: bool = setting(
        False, "ReLU in the generator, whatever leaky_slope is."
    )
    discriminator_widths: tuple[int, ...] = setting(
        (),
        "Channels of each convolution of the discriminator; []: chosen by the size.",
    )
    discriminator_kernel_size: int = setting(
        5, "Kernel size of the discriminator, in taps.", 2, 9
    )
    discriminator_downsample: str = setting(
        "strided",
        "How each convolution of the discriminator halves its map: by its stride, or "
        "with stride 1 and then the average of each 2x2 pixels or a fixed blur of "
        "stride 2, which cost four times as many multiply-accumulates.",
        choices=("strided", "average", "blur"),
    )
    discriminator_norm: str = setting(
        "none",
        "Normalisation after each convolution of the discriminator but the first.",
        choices=("none", "batch"),
    )
    minibatch_stddev: int = setting(
        8,
        "Number of images in a group whose standard deviation is an input of the "
        "discriminator; 0: there is none.",
        0,
        1024,
    )
    dropout: float = setting(
        0.0, "Fraction of the discriminator's activations that are dropped.", 0, 0.95
    )
    leaky_slope: float = setting(
        0.0, "Slope of LeakyReLU for negative values; 0: ReLU.", 0
    )
    initializer_stddev: float = setting(
        0.02, "Standard deviation of the initial weights; 0: Keras' Glorot uniform.", 0
    )
    batch_norm_momentum: float = setting(
        0.9, "Decay per step of the moving statistics of batch norm.", 0, 0.9999
    )


@dataclass(frozen=True)
class TrainConfig:
    """Loss, optimizers, budget and numerics."""

    batch_size: int = setting(
        16,
        "Number of images per step.",
        1,
        65_536,
        flag=("Numerics and devices", "--batch-size"),
    )
    loss: str = setting("bce", "Adversarial loss on logits.", choices=LOSSES)
    r1_gamma: float = setting(
        0.1, "Weight of the R1 penalty on the discriminator's gradient; 0: none.", 0
    )
    augment: str = setting(
        "none",
        "Random changes of the images that the discriminator sees (DiffAugment), for "
        "small sets: colour, translation, cutout, or some of them with commas between.",
        choices=(
            "none",
            *(",".join(c) for n in (1, 2, 3) for c in combinations(AUGMENTATIONS, n)),
        ),
        flag=("Experiment", "--augment POLICIES"),
    )
    g_learning_rate: float = setting(8e-4, "Learning rate of the generator (Adam).", 0)
    d_learning_rate: float = setting(
        8e-4, "Learning rate of the discriminator (Adam).", 0
    )
    beta_1: float = setting(0.5, "Adam's beta 1, for both networks.", 0, 0.9999)
    beta_2: float = setting(0.999, "Adam's beta 2, for both networks.", 0, 0.999999)
    decay_start: float = setting(
        0.5,
        "Fraction of the step budget after which the learning rates fall linearly to "
        "0; 1: they stay constant.",
        0,
        1,
    )
    ema_decay: float = setting(
        0.999,
        "Decay per step of the averaged generator; it is smaller in the first steps.",
        0,
        0.999999,
    )
    epochs: float = setting(
        9.0,
        "Budget in passes over the training images.",
        0,
        1e6,
        flag=("Budget", "--epochs"),
    )
    num_steps: int = setting(
        0,
        "Budget in steps; if it is not given, it follows from --epochs.",
        0,
        10**9,
        flag=("Budget", "--steps"),
    )
    precision: str = setting(
        "float32",
        "Number format of the layers.",
        choices=PRECISIONS,
        flag=("Numerics and devices", "--precision"),
    )
    jit: bool = setting(
        False,
        "Compile the steps of a call with XLA: faster on a GPU, slower on a CPU.",
        flag=("Numerics and devices", "--jit/--no-jit"),
    )
    steps_per_call: int = setting(
        1, "Number of steps per call of the compiled function.", 1, 1000
    )


@dataclass(frozen=True)
class RunConfig:
    """Seed, cadence and retention of a run."""

    seed: int = setting(
        0,
        "Seed of the weights, the batch order and the noise.",
        0,
        2**31 - 1,
        flag=("Experiment", "--seed"),
    )
    log_every_steps: int = setting(100, "Steps from one log of scalars to the next.", 1)
    evaluate_every_steps: int = setting(
        2000, "Steps from one evaluation to the next.", 1
    )
    checkpoint_every_steps: int = setting(
        2000, "Steps from one checkpoint to the next.", 1
    )
    keep_checkpoints: int = setting(3, "Number of newest checkpoints to keep.", 1)
    checkpoint_steps: tuple[int, ...] = setting(
        (), "Steps with a checkpoint of their own, kept while this list names them."
    )
    grid_images: int = setting(64, "Number of images in a sample grid.", 1, 1024)
    histograms: bool = setting(False, "Log histograms of the weights at evaluations.")


@dataclass(frozen=True)
class Config:
    """All settings of a run, as `config.json` in its run folder holds them."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        for section in dataclasses.fields(self):
            check_ranges(section.name, getattr(self, section.name))
        size = self.data.image_size
        if size % 4:
            raise ConfigError(
                f"data.image_size: received {size}, expected a multiple of 4; "
                f"nearest: {4 * max(1, round(size / 4))}"
            )
        if self.data.channels == 2:
            raise ConfigError("data.channels: received 2, expected 1, 3 or 0")
        for name in ("generator_widths", "discriminator_widths"):
            widths = getattr(self.model, name)
            if len(widths) > MAX_STAGES or not all(0 < w <= MAX_WIDTH for w in widths):
                raise ConfigError(
                    f"model.{name}: received {list(widths)}, expected at most "
                    f"{MAX_STAGES} numbers from 1 to {MAX_WIDTH}"
                )
        if any(step < 1 for step in self.run.checkpoint_steps):
            raise ConfigError(
                f"run.checkpoint_steps: received {list(self.run.checkpoint_steps)}, "
                "expected numbers of at least 1"
            )
        if not self.train.num_steps and not self.train.epochs:
            raise ConfigError("train.epochs and train.num_steps are both 0: no budget")


def check_ranges(section: str, values: Any) -> None:
    """Checks each setting of one section against its declared choices and range."""
    for item in dataclasses.fields(values):
        value, rules = getattr(values, item.name), item.metadata
        key = f"{section}.{item.name}"
        if rules["choices"] and value not in rules["choices"]:
            raise ConfigError(
                f"{key}: received {value!r}, expected one of "
                f"{', '.join(filter(None, rules['choices']))}"
            )
        low, high = rules["minimum"], rules["maximum"]
        # These comparisons also refuse NaN.
        if low is not None and not value >= low:
            raise ConfigError(f"{key}: received {value}, expected at least {low}")
        if high is not None and not value <= high:
            raise ConfigError(f"{key}: received {value}, expected at most {high}")
