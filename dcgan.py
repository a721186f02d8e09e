"""The commands of this project as functions, for notebooks and other programs.

    import dcgan

    run = dcgan.train(settings={"model.upsample": "resize"}, max_minutes=2)
    dcgan.grid(dcgan.sample(run))
    dcgan.layers(run)
    dcgan.spectra(run)
    dcgan.quality(run)

A function has the name of its command and calls what the command calls, so that its
numbers and its text are equal to those of the command. Results and pictures show
themselves in a notebook; docs/tour.ipynb uses all functions but probe. Every error that
the caller can mend is a `UserError` of one line.
"""

import contextlib
import html
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gan.run.environment import prepare_tensorflow, run_operations_side_by_side

prepare_tensorflow()  # before anything else imports it
run_operations_side_by_side()

import keras
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from analysis.checkerboard.decoders import probe_levels
from analysis.checkerboard.measurement import measure_samples
from analysis.commands import compare as compare_command
from analysis.commands import layers as layers_command
from analysis.commands import probe as probe_command
from analysis.commands import quality as quality_command
from analysis.commands import spectra as spectra_command
from analysis.figures import render
from analysis.geometry.audit import audit_model, audit_summary, upsamplers
from analysis.geometry.figures import draw_layers
from analysis.observers import make_observers
from analysis.report.comparison import load_sources
from analysis.report.figures import draw_comparison
from analysis.samples import Samples, from_array, load_reference, load_samples
from config.loader import load_config
from config.schema import Config, UserError
from gan import sampling, training
from gan.data.images import to_grid as grid
from gan.run.folder import RunFolder, default_name, read_run, run_directory, run_path
from gan.run.start import load_for_training

__all__ = [
    "Config",
    "Result",
    "Run",
    "Samples",
    "UserError",
    "compare",
    "from_array",
    "grid",
    "layers",
    "load_config",
    "open_run",
    "probe",
    "quality",
    "resume",
    "sample",
    "spectra",
    "train",
]


@dataclass(frozen=True)
class Run:
    """The folder of a run, which may still train; `open_run` checks it."""

    directory: Path

    @property
    def config(self) -> Config:
        """All settings, as config.json has them."""
        return read_run(self.directory).config

    def generator(self, checkpoint: str = "latest") -> keras.Model:
        """The averaged generator, from latents to float32 images in [-1, 1]."""
        return sampling.open_run(self.directory, checkpoint).generator

    def scalars(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of a logged scalar, such as "loss/g".

        Raises:
            UserError: with the names that there are.
        """
        text = (self.directory / "log.jsonl").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        points = [(it["step"], it[name]) for it in lines if it.get(name) is not None]
        if not points:
            known = ", ".join(sorted({key for line in lines for key in line}))
            raise UserError(f"received the scalar {name!r}, expected one of {known}")
        return [step for step, _ in points], [value for _, value in points]


TORCH_MODULE = "torch.nn.modules.module"  # of torch.nn.Module
# What can be measured: a run, the path of a run, an .npz or a folder, or `from_array`.
Source = Run | Samples | str | Path


@dataclass(frozen=True)
class Result:
    """What a measuring function found; a notebook shows its text.

    Attributes:
        numbers: what the command prints with --json, as plain data.
        text: what the command prints.
        figure: draws the figure of the command; None if it has none.
    """

    numbers: Any
    text: str
    figure: Callable[[], Figure] | None

    def picture(self) -> Image.Image:
        """The figure as a picture, which a notebook shows."""
        if self.figure is None:
            raise UserError("this command has no figure, only text and numbers")
        return Image.open(io.BytesIO(render(self.figure, "png")))

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.text)}</pre>"


def make_result(
    numbers: Any,
    show: Callable[[], None],
    figure: Callable[[], Figure] | None = None,
) -> Result:
    """Collects a result; `show` prints its text."""
    with contextlib.redirect_stdout(io.StringIO()) as text:
        show()
    return Result(json.loads(json.dumps(numbers)), text.getvalue(), figure)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Makes a UserError of every error that a command prints as one line."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error


def train(
    config: Config | str = "",
    settings: Mapping[str, Any] | None = None,
    *,
    name: str = "",
    runs_dir: str | Path = "checkpoints",
    max_minutes: float | None = None,
    observe: bool = True,
) -> Run:
    """Trains a run as `python train.py` does, or continues an unfinished one.

    An interrupt of the kernel (SIGINT) saves the state and returns.

    Args:
        config: a preset in config/, the path of a TOML file, or a Config of
            `load_config`; "": the defaults.
        settings: values by "section.key" that replace those of the preset, for example
            `{"model.upsample": "resize", "train.num_steps": 2000}`.
        name: of the run folder; "": the name that the command would choose.
        runs_dir: the folder that holds the run folders.
        max_minutes: wall time after which the state is saved; None: no limit.
        observe: log quality and checkerboards, and keep the best checkpoint.

    Raises:
        UserError: where the command prints one line.
    """
    preset = config if isinstance(config, str) else ""
    if isinstance(config, str):
        config = load_config(config, settings)
    elif settings:
        raise UserError("received a Config and settings, expected one of them")
    directory = run_directory(runs_dir, name or default_name(config, preset))
    return train_in(directory, config, max_minutes, observe)


def resume(
    run: Run | str | Path,
    *,
    num_steps: int | None = None,
    max_minutes: float | None = None,
    observe: bool = True,
) -> Run:
    """Continues a run exactly where it stopped; the arguments are those of `train`.

    `num_steps` is a larger budget; None: that of the run.
    """
    directory = Path(place(run))
    config = read_run(directory).config
    if num_steps is not None:
        config = replace(config, train=replace(config.train, num_steps=num_steps))
    return train_in(directory, config, max_minutes, observe)


def train_in(
    directory: Path, config: Config, max_minutes: float | None, observe: bool
) -> Run:
    """Trains or continues the run of a folder."""
    if max_minutes is not None and not max_minutes > 0:  # also refuses NaN
        raise UserError(f"max_minutes: received {max_minutes:g}, expected more than 0")
    console = Console(force_jupyter=False, force_terminal=False)  # plain lines

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    config, dataset = load_for_training(config)
    for note in dataset.notes:
        say(f"note: {note}")
    with RunFolder(directory) as folder:
        outcome = training.train(
            config,
            dataset,
            folder,
            make_observers=lambda: (
                make_observers(config, dataset, say) if observe else []
            ),
            max_seconds=60 * (max_minutes or 0),
            console=console,
        )
    say(f"{outcome.stop or 'finished'} after step {outcome.step}: {directory}")
    return Run(directory)


def open_run(directory: str | Path) -> Run:
    """Opens a run by its folder, or by its name in `checkpoints/`.

    Raises:
        UserError: if there is none.
    """
    path = run_path(directory)
    read_run(path)
    return Run(path)


def sample(
    run: Run | str | Path, seeds: int | Iterable[int] = 64, checkpoint: str = "latest"
) -> np.ndarray:
    """Makes images with a run's averaged generator, as `python -m gan sample` does.

    Args:
        run: a run or its folder.
        seeds: of the images; a number n means 0 to n - 1.
        checkpoint: "latest", "best" (if the run kept one) or a step.

    Returns:
        uint8 (number of seeds, height, width, 1 or 3). The image of a seed is always
        the same.
    """
    chosen = list(range(seeds) if isinstance(seeds, int) else seeds)
    if not chosen or min(chosen) < 0:
        raise UserError(f"seeds: received {seeds}, expected numbers from 0 on")
    return sampling.sample(open_run(place(run)).generator(checkpoint), chosen)


@one_line_errors()
def layers(
    target: Any,
    *,
    image_shape: tuple[int, int, int] | None = None,
    what: str = "generator",
    lines: bool = False,
    inputs: Sequence[Any] = (),
) -> Result:
    """Audits all layers of a model, as `python -m analysis layers` does.

    Args:
        target: a run, a model file, an upsampling method, or a model in memory: a
            keras.Model or a torch.nn.Module.
        image_shape: (height, width, channels) of the images that a model in memory
            should return; None: this is not checked.
        what: "generator" or "discriminator" of a run or a method.
        lines: also predict which pattern each upsampling makes of constant inputs.
        inputs: of a PyTorch module: the example tensors that it is called with once.
    """
    model: Any = target
    expected: tuple[int, int, int | None] | None = image_shape
    is_torch = any(kind.__module__ == TORCH_MODULE for kind in type(target).__mro__)
    if not isinstance(target, keras.Model) and not is_torch:
        target = str(place(target))
    if lines and (is_torch or layers_command.is_foreign(str(target))):
        raise UserError("lines: received a model of PyTorch or ONNX, expected Keras")
    if is_torch:
        from analysis.geometry.torch_layers import audit_program, export_module

        name = type(target).__name__
        audits = audit_program(export_module(target, inputs))
    elif isinstance(target, str) and layers_command.is_foreign(target):
        name, audits = Path(target).name, layers_command.audit_foreign(Path(target))
    else:
        if isinstance(target, str):
            model, expected = layers_command.load_target(
                target, weights=lines, what=what
            )
        name, audits = model.name, audit_model(model, expected)
    summary = audit_summary(name, audits)
    if lines:
        found = layers_command.predict_patterns(model, upsamplers(audits))
        summary["lines"] = found
    return make_result(
        summary,
        lambda: layers_command.print_summary(summary),
        lambda: draw_layers(audits, name),
    )


@one_line_errors()
def probe(
    target: Any,
    *,
    inputs: np.ndarray | None = None,
    num_inputs: int = 64,
    input_size: int = probe_command.OPEN_SIDE,
    value_range: tuple[float, float] = (-1.0, 1.0),
    seed: int = 0,
) -> Result:
    """Finds the upsampling that makes a pattern, as `python -m analysis probe` does.

    Args:
        target: a decoder: a Keras model in memory, a run, or a .keras or .onnx file.
        inputs: float (N, *shape of one input); None: random, standard normal ones.
        num_inputs: number of random inputs, 2 or more.
        input_size: pixels of a side of the input that the decoder leaves open.
        value_range: values of the decoder that mean black and white.
        seed: of the random inputs.
    """
    if isinstance(target, keras.Model):
        name, model = target.name, target
    else:
        model = Path(place(target))
        name = model.name
    decoder, shape = probe_command.load_decoder(model, input_size)
    if inputs is None:
        inputs = probe_command.random_inputs(num_inputs, shape, seed)
    found = probe_levels(
        decoder, probe_command.checked_inputs(inputs, shape), value_range
    )
    return make_result(
        probe_command.as_dict(found),
        lambda: probe_command.print_probe(name, found, value_range),
    )


@one_line_errors()
def spectra(
    source: Source,
    *,
    num_images: int = 10_000,
    checkpoint: str = "latest",
    reference: Samples | str | None = None,
    strides: tuple[int, ...] | None = None,
) -> Result:
    """Looks for a checkerboard in images, as `python -m analysis spectra` does.

    Args:
        source: a run, a path, or images of `from_array`.
        num_images: number of images of a run or a path.
        checkpoint: of a run: "latest", "best" or a step.
        reference: real images: a path, a data set, or images of `from_array`; None:
            those that the run was trained on, else Fashion-MNIST.
        strides: of the upsamplings, first to last; None: those of the run or the
            images; if they are not known, 2, 4 and 8 are tried.
    """
    samples = load_samples(place(source), num_images, checkpoint)
    found = measure_samples(samples, load_reference(reference, samples), strides)
    return make_result(
        found.as_dict(),
        lambda: spectra_command.print_measurement(found),
        lambda: spectra_command.draw(found),
    )


@one_line_errors()
def quality(
    *sources: Source,
    num_images: int = 10_000,
    checkpoint: str = "latest",
    reference: str | None = None,
    extractor: Path | None = None,
) -> Result:
    """Measures how far images are from real ones, as `python -m analysis quality` does.

    Args:
        *sources: runs, paths, or images of `from_array`.
        num_images: number of images of a run or a path.
        checkpoint: of the runs: "latest", "best", a step, or "all".
        reference: data set or path of the real images; None: the data set of the first
            source, else Fashion-MNIST.
        extractor: weights of the feature network of tools/train_extractor.py.
    """
    scores = quality_command.measure(
        places(sources), num_images, checkpoint, reference, extractor
    )
    return make_result(
        quality_command.to_json(scores),
        lambda: quality_command.print_scores(scores),
        scores.draw_training,
    )


@one_line_errors()
def compare(
    *sources: Source,
    num_images: int = 10_000,
    checkpoint: str = "latest",
    reference: Samples | str | None = None,
) -> Result:
    """Compares the checkerboards of sources, as `python -m analysis compare` does.

    The arguments are those of `spectra`; a path may also be a result of that command.
    """
    measured = load_sources(places(sources), num_images, checkpoint, reference)
    return make_result(
        [source.as_dict() for source in measured],
        lambda: compare_command.print_comparison(measured),
        lambda: draw_comparison(measured),
    )


def places(sources: Sequence[Source]) -> list[str | Samples]:
    """Returns what the commands take for some sources."""
    if not sources:
        raise UserError("received no source, expected a run, a path or from_array(...)")
    names = [source.name for source in sources if isinstance(source, Samples)]
    if len(set(names)) < len(names):
        raise UserError(
            f"received arrays called {', '.join(names)}, expected another name for "
            "each: from_array(images, name)"
        )
    return [place(source) for source in sources]


def place(source: Source) -> Any:
    """Returns the path of a source, or images in memory as they are."""
    if isinstance(source, Run):
        return str(source.directory)
    if isinstance(source, (str, Path)):
        return str(run_path(source))
    if isinstance(source, Samples):
        return source
    raise UserError(
        f"received {type(source).__name__}, expected a run, a path, or "
        "from_array(images, value_range=(low, high))"
    )
