"""`python -m analysis probe`: which upsampling of a decoder makes a pattern?"""

import json
import math
from collections.abc import Iterator, Sequence
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
from gan.files import first_line, without_onnx
from gan.run.environment import prepare_tensorflow

MAX_INPUT = 1e30  # float32 ends at 3e38
NEAR = 0.1  # how far images may reach beyond the stated range, as a share of it
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
    type=click.IntRange(1, 1024),
    help=f"Pixels of a side that the file leaves open. [default: {OPEN_SIDE}]",
)
@options.value_range
@options.option(
    "--seed", type=click.IntRange(0), default=0, help="Seed of the random inputs."
)
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
        inputs = checked_inputs(read_array(input_file), shape, f"{input_file}: ")
    else:
        inputs = random_inputs(num_inputs, shape, seed)
    found = probe_levels(decoder, inputs, value_range or (-1.0, 1.0))
    if as_json:
        click.echo(json.dumps(as_dict(found), indent=2))
    else:
        print_probe(Path(target).name, found, value_range or (-1.0, 1.0))


def load_decoder(target: Any, side: int) -> tuple[Any, tuple[int, ...]]:
    """The decoder of a Keras model, a run or a file, and the shape of one input.

    Raises:
        ValueError: if there is none, or a package is missing.
    """
    if side < 1:
        raise ValueError(f"the input's size: received {side} px, expected 1 or more")
    is_path = isinstance(target, Path)
    if is_path and target.suffix.lower() in options.TORCH_FILES:
        raise ValueError(
            f"{target}: received a file of PyTorch, expected ONNX or Keras"
        )
    if is_path and target.suffix.lower() == ".onnx" and target.is_file():
        try:
            from analysis.checkerboard.onnx_decoder import OnnxDecoder
            from analysis.geometry.onnx_layers import load_onnx, load_weights
        except ImportError as error:
            raise ValueError(without_onnx(target, error)) from error
        decoder = OnnxDecoder(load_weights(load_onnx(target), target))
        return decoder, decoder.input_shape(side)
    from analysis.checkerboard.decoders import KerasDecoder
    from analysis.geometry.model_files import read_model
    from gan.sampling import open_run

    model = target
    if is_path:
        model = open_run(target).generator if target.is_dir() else read_model(target)
    found = KerasDecoder(model)
    return found, tuple(size or side for size in model.inputs[0].shape[1:])


def random_inputs(num_inputs: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Standard normal inputs, float32 (num_inputs, *shape)."""
    random = np.random.default_rng(seed)
    return random.standard_normal((num_inputs, *shape)).astype(np.float32)


def read_array(path: Path) -> Any:
    """What an .npy file holds; a ValueError for another kind of file."""
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: not an .npy file ({first_line(error)})") from None


def checked_inputs(array: Any, shape: tuple[int, ...], source: str = "") -> np.ndarray:
    """The inputs as float32, if their shape is (N, *shape).

    Sides of maps may differ from `shape`, where the file of the decoder leaves them
    open; the decoder says if they do not fit.

    Raises:
        ValueError: for another number of axes, or values that are no inputs; `source`
            stands in front of the message.
    """
    if not isinstance(array, np.ndarray) or array.ndim != len(shape) + 1:
        received = getattr(array, "shape", type(array).__name__)
        expected = ", ".join(map(str, ("N", *shape)))
        raise ValueError(f"{source}received {received}, expected ({expected})")
    if array.dtype.kind not in "fiu" or len(array) < 2:
        raise ValueError(
            f"{source}received {len(array)} inputs of type {array.dtype}, expected two "
            "or more of real numbers"
        )
    if not (np.abs(array) < MAX_INPUT).all():
        raise ValueError(f"{source}received values that are not finite, or too large")
    return array.astype(np.float32)


def as_dict(found: Any) -> dict[str, Any]:
    """All numbers, for JSON."""
    readings = []
    for reading in found.readings:
        frequency = reading.frequency
        place = {"row": float(frequency.row), "column": float(frequency.column)}
        own = {"frequency": place, "found": reading.found}
        readings.append(asdict(reading) | own)
    return {
        "upsamplings": readings,
        "not_probed": found.refused,
        "smallest_value": found.value_range[0],
        "largest_value": found.value_range[1],
    }


def print_probe(name: str, found: Any, stated: tuple[float, float]) -> None:
    """Prints the table, what is doubtful, and which upsampling is to blame."""
    table = Table(title=escape(name), box=box.SIMPLE, padding=(0, 1, 0, 0))
    for column in ("upsampling", "stage", "period, px", "pattern, levels", "share"):
        table.add_column(column, overflow="fold", max_width=60)
    table.add_column("largest gain", no_wrap=True)
    for reading in found.readings:
        pattern = reading.pattern_levels
        cells = [escape(", ".join(reading.names)), str(reading.stage)]
        cells += [str(reading.period)]
        cells += [f"{pattern.value:.3g} ({pattern.low:.3g} … {pattern.high:.3g})"]
        cells += [f"{reading.share:.0%}" if reading.found else "none", gain(reading)]
        table.add_row(*cells)
    console = table_console()
    print_table(console, table, "largest gain", "period, px")
    for note in (*notes(found, stated), conclusion(found.readings)):
        console.print(note, markup=False)
    console.print(
        "Levels: root mean square over pixels and inputs, of 255; in brackets 95 % "
        "intervals over inputs. What stands in images, `spectra` measures: "
        "in a trained decoder content, border and constant maps differ.",
        markup=False,
    )


def gain(reading: Any) -> str:
    """The largest imaging gain, or "" where there is none."""
    from analysis.checkerboard.words import decibels

    found = reading.imaging_gain_percent
    if not reading.found or found is None or found.low <= 0:
        return ""
    return f"{decibels(found.value):.1f} dB at {reading.frequency.name}"


def notes(found: Any, stated: tuple[float, float]) -> Iterator[str]:
    """What makes the numbers doubtful."""
    for name, reason in found.refused.items():
        yield f"not probed: {name}: {reason}"
    first = found.readings[0]
    known = math.prod(reading.stride for reading in found.readings)
    if not found.refused and known != first.period:
        yield (
            f"The maps grow by {first.period} from {first.names[0]} on, and the layers "
            f"above make {known} of it. The rest, which was not probed, is made in "
            "other ways."
        )
    (low, high), (black, white) = found.value_range, stated
    margin = NEAR * (white - black)
    if low < black - margin or high > white + margin:
        yield (
            f"note: the images reach from {low:.3g} to {high:.3g}, and the levels "
            f"count {black:g} as black and {white:g} as white; --range states another "
            "range"
        )


def conclusion(readings: Sequence[Any]) -> str:
    """Which of the upsamplings is to blame, in one sentence."""
    worst = max(readings, key=lambda reading: reading.pattern_levels.value)
    if not worst.found:
        return "On constant maps, none of the upsamplings above makes a pattern."
    if len(readings) == 1:
        make = "makes" if len(worst.names) == 1 else "make"
        return f"On constant maps, {', '.join(worst.names)} {make} a pattern."
    return (
        f"On constant maps, {worst.share:.0%} of the power of these patterns comes "
        f"from {', '.join(worst.names)}."
    )
