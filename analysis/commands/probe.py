"""`python -m analysis probe`: which upsampling of a decoder makes a pattern?"""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from analysis.commands import options
from analysis.commands.tables import table_console
from gan.command_line import Command, RunPath, print_table
from gan.files import first_line
from gan.run.environment import prepare_tensorflow

OPEN_SIDE = 16  # pixels of a side of the input that is not stated anywhere


@click.command(name="probe", cls=Command)
@click.argument("target", type=RunPath(exists=True))
@options.option(
    *("--n", "num_inputs"),
    type=click.IntRange(2),
    default=64,
    help="Number of random inputs, which are standard normal.",
)
@click.option(
    *("--input", "input_file"),
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Inputs from this .npy file, in place of random ones.",
)
@click.option(
    "--input-size",
    type=click.IntRange(1),
    help=f"Pixels of a side that the file leaves open. [default: {OPEN_SIDE}]",
)
@options.value_range
@options.option("--seed", default=0, help="Seed of the inputs.")
@options.as_json
def command(
    target: str,
    num_inputs: int,
    input_file: Path | None,
    input_size: int | None,
    value_range: tuple[float, float] | None,
    seed: int,
    as_json: bool,
) -> None:
    """Probes the upsamplings of TARGET: a run, or a .keras or .onnx file.

    The maps in front of the upsamplings of one resolution are replaced by their channel
    means, so that only these can draw a pattern. The weights of a file are loaded, and
    nothing of a .keras file is executed but Keras' own layers.
    """
    prepare_tensorflow()
    from analysis.checkerboard.decoders import probe_levels

    decoder, shape = load_decoder(Path(target), input_size or OPEN_SIDE)
    if input_file:
        inputs = read_inputs(input_file, shape)[:num_inputs]
    else:
        random = np.random.default_rng(seed)
        inputs = random.standard_normal((num_inputs, *shape)).astype(np.float32)
    readings = probe_levels(decoder, inputs, value_range or (-1.0, 1.0))
    if as_json:
        click.echo(json.dumps([as_dict(reading) for reading in readings], indent=2))
    else:
        print_readings(Path(target).name, readings)


def load_decoder(path: Path, side: int) -> tuple[Any, tuple[int, ...]]:
    """The decoder of a run or a file, and the shape of one of its inputs.

    Raises:
        ValueError: if there is none, or a package is missing.
    """
    if path.suffix == ".onnx":
        try:
            from analysis.checkerboard.onnx_decoder import OnnxDecoder
            from analysis.geometry.onnx_layers import load_onnx, load_weights
        except ImportError as error:
            raise ValueError(
                f"{path}: .onnx needs {error.name}; install it with "
                "pip install -c constraints.txt -e '.[onnx]'"
            ) from error
        decoder = OnnxDecoder(load_weights(load_onnx(path), path))
        return decoder, decoder.input_shape(side)
    from analysis.checkerboard.decoders import KerasDecoder
    from analysis.geometry.model_files import read_model
    from gan.sampling import open_run

    model = open_run(path).generator if path.is_dir() else read_model(path)
    found = KerasDecoder(model)
    return found, tuple(size or side for size in model.inputs[0].shape[1:])


def read_inputs(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Inputs of the shape (N, *shape) from an .npy file, as float32.

    Sides of maps may differ from `shape`, where the file of the decoder leaves them
    open; the decoder says if they do not fit.

    Raises:
        ValueError: for another kind of file, or another number of axes.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not an .npy file ({first_line(error)})") from None
    if not isinstance(array, np.ndarray) or array.ndim != len(shape) + 1:
        received = getattr(array, "shape", type(array).__name__)
        expected = ", ".join(map(str, ("N", *shape)))
        raise ValueError(f"{path}: received {received}, expected ({expected})")
    return array.astype(np.float32)


def as_dict(reading: Any) -> dict[str, Any]:
    """One reading for JSON."""
    frequency = reading.frequency
    place = {"row": float(frequency.row), "column": float(frequency.column)}
    return asdict(reading) | {"frequency": place, "found": reading.found}


def print_readings(name: str, readings: list[Any]) -> None:
    """Prints the table, and which upsampling is to blame."""
    from analysis.checkerboard.words import decibels

    table = Table(title=escape(name), box=box.SIMPLE, padding=(0, 1, 0, 0))
    for column in ("upsampling", "stage", "period, px", "pattern, levels", "share"):
        table.add_column(column, overflow="fold", max_width=60)
    table.add_column("largest gain", no_wrap=True)
    for reading in readings:
        pattern, gain = reading.pattern_levels, reading.imaging_gain_percent
        cells = [escape(", ".join(reading.names)), str(reading.stage)]
        cells += [str(reading.period)]
        cells += [f"{pattern.value:.3g} ({pattern.low:.3g} … {pattern.high:.3g})"]
        cells += [f"{reading.share:.0%}" if reading.found else "none"]
        shown = gain is not None and gain.low > 0
        text = f"{decibels(gain.value):.1f} dB at {reading.frequency.name}"
        table.add_row(*cells, text if shown else "")
    console = table_console()
    print_table(console, table, "largest gain", "period, px")
    known = math.prod(reading.stride for reading in readings)
    if known != readings[0].period:
        console.print(
            f"The maps grow by {readings[0].period}, and the layers above make {known} "
            "of it. The rest, which was not probed, is made in other ways.",
            markup=False,
        )
    found = [reading for reading in readings if reading.found]
    if found:
        worst = max(found, key=lambda reading: reading.pattern_levels.value)
        console.print(
            f"On constant maps, {worst.share:.0%} of the power of all patterns comes "
            f"from {', '.join(worst.names)}.",
            markup=False,
        )
    else:
        console.print("On constant maps, no upsampling makes a pattern.")
    console.print(
        "Levels: root mean square over pixels and inputs, of 255; in brackets 95 % "
        "intervals over inputs. What stands in images, `spectra` measures: "
        "in a trained decoder content, border and constant maps differ.",
        markup=False,
    )
