"""`python -m analysis layers`: what each layer does to size, position and overlap."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.markup import escape
from rich.table import Table

from analysis.commands.options import FILE, TORCH_FILES, option
from analysis.commands.tables import table_console
from config.schema import ModelConfig
from config.upsamplers import UPSAMPLER_ALIASES, UPSAMPLERS
from gan.command_line import Command, RunPath, print_table
from gan.files import without_onnx
from gan.run.environment import prepare_tensorflow

SMALLEST_DB = -100  # float32 leaves no smaller gain,
SMALLEST_LEVELS = 1e-3  # and no smaller pattern, grey levels
MAX_NAMES = 4  # layers listed beside one finding
STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}


@click.command(name="layers", cls=Command)
@click.argument("target", type=RunPath())
@option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@option(
    "--figure",
    type=FILE,
    help="Draw the maps, windows and overlap into this .png file.",
)
@option(
    "--framework",
    type=click.Choice(["tensorflow", "torch"]),
    default="tensorflow",
    help="torch: show PyTorch's layer of equal size beside TensorFlow's.",
)
@option(
    "--size", type=click.IntRange(1), help="Height and width of the images, pixels."
)
@option(
    "--input-size",
    type=click.IntRange(1),
    help="Pixels of each side of an input that a file leaves open.",
)
@option(
    "--kernel-size", type=click.IntRange(2, 9), help="Kernel of the upsampler, taps."
)
@option(
    "--what",
    type=click.Choice(["generator", "discriminator"]),
    default="generator",
    help="The network to audit if TARGET is an upsampler or a run.",
)
@option(
    "--lines",
    is_flag=True,
    help="Also predict which pattern each upsampling of the generator makes, from "
    "constant inputs.",
)
@option(
    "--explicit-pads",
    type=FILE,
    help="Write an ONNX model again, with all pads as numbers, which every runtime "
    "reads alike.",
)
@click.pass_context
def command(
    ctx: click.Context,
    target: str,
    as_json: bool,
    figure: Path | None,
    framework: str,
    lines: bool,
    explicit_pads: Path | None,
    **options: Any,
) -> None:
    """Audits the layers of TARGET: an upsampler, a run, or a model's file.

    A file is one of Keras, ONNX (.onnx) or PyTorch (.pt2 of torch.export). Shapes are
    predicted from the hyper-parameters and compared with those Keras built, or those
    that an ONNX or PyTorch file states. Values are computed by each layer and compared
    with its geometry. Only the architecture of a file is read. The exit status is 1 if
    a layer breaks a rule of level error.
    """
    prepare_tensorflow()
    from analysis.geometry.audit import audit_model, audit_summary, upsamplers

    if is_foreign(target):
        if framework == "torch" or lines or options["kernel_size"] or options["size"]:
            names = "--framework, --lines, --kernel-size and --size"
            raise ValueError(f"{names} belong to Keras")
        name = Path(target).name
        audits = audit_foreign(Path(target), options["input_size"], explicit_pads)
        summary = audit_summary(name, audits)
    else:
        if explicit_pads:
            raise ValueError("--explicit-pads belongs to an ONNX file")
        model, image_shape = load_target(target, weights=lines, **options)
        name = model.name
        audits = audit_model(model, image_shape)
        summary = audit_summary(name, audits, torch=framework == "torch")
        if lines:
            summary["lines"] = predict_patterns(model, upsamplers(audits))
    if figure:
        from analysis.geometry.figures import draw_layers

        draw_layers(audits, f"{target}: {name}").savefig(figure, dpi=150)
    if as_json:
        click.echo(json.dumps(summary, indent=2))
    else:
        print_summary(summary)
    if summary["num_errors"]:
        ctx.exit(1)


def is_foreign(target: str) -> bool:
    """Whether the target is a file of ONNX or PyTorch."""
    suffix = Path(target).suffix.lower()
    return suffix in (".onnx", *TORCH_FILES) and Path(target).is_file()


def audit_foreign(
    path: Path, size: int | None = None, out: Path | None = None
) -> list[Any]:
    """Audits a file of ONNX or PyTorch; one of ONNX is written again to `out`."""
    if path.suffix.lower() in TORCH_FILES:
        from analysis.geometry.torch_layers import audit_program, read_program

        if out:
            raise ValueError("--explicit-pads belongs to an ONNX file")
        try:
            return audit_program(read_program(path), size)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    try:
        from analysis.geometry.onnx_layers import (
            audit_onnx,
            load_onnx,
            write_explicit_pads,
        )
    except ImportError as error:
        raise ValueError(without_onnx(path, error)) from error
    model = load_onnx(path)
    audits = audit_onnx(model, size)
    if out:
        changed = write_explicit_pads(model, audits, path, out)
        click.echo(f"{out}: nodes with other pads than before: {changed}", err=True)
    return audits


def load_target(
    target: str,
    *,
    weights: bool,
    what: str,
    size: int | None = None,
    input_size: int | None = None,
    kernel_size: int | None = None,
) -> tuple[Any, tuple[int, int, int | None] | None]:
    """The model that TARGET names, and the shape of the images it should return."""
    from analysis.geometry.model_files import read_architecture
    from gan.models import build_discriminator, build_generator
    from gan.run.folder import read_run
    from gan.sampling import open_run

    path, name = Path(target), UPSAMPLER_ALIASES.get(target, target)
    saved_model = (path / "saved_model.pb").exists()
    if input_size and not (path.is_file() or saved_model):
        raise ValueError("--input-size belongs to a model file")
    if name in UPSAMPLERS:
        config = ModelConfig(upsample=name, kernel_size=kernel_size or 5)
        image_shape = (size or 28, size or 28, 1)
        if image_shape[0] % 4:
            raise ValueError(f"--size: received {size}, expected a multiple of 4")
    elif kernel_size:
        raise ValueError("--kernel-size belongs to an upsampler's name")
    elif path.is_dir() and not saved_model:
        facts = read_run(path)
        config = facts.config.model
        side = facts.dataset["image_size"]
        image_shape = (side, side, facts.dataset["channels"])
    elif not path.exists():
        known = ", ".join((*UPSAMPLERS, *UPSAMPLER_ALIASES))
        expected = f"expected {known}, a run folder or a model file"
        raise ValueError(f"received {target!r}, {expected}")
    elif weights:
        raise ValueError("--lines needs weights, and those of a file are not read")
    else:
        model = read_architecture(path, input_size)
        return model, (size, size, None) if size else None
    if what == "discriminator":
        return build_discriminator(config, image_shape[0], image_shape[2]), None
    if weights and path.is_dir():
        return open_run(path).generator, image_shape
    return build_generator(config, image_shape[0], image_shape[2]), image_shape


def predict_patterns(
    generator: Any, upsamplings: Sequence[tuple[str, tuple[int, int]]]
) -> list[dict[str, Any]]:
    """The pattern that each upsampling makes of constant inputs, for JSON.

    One object per upsampling has its `layer`, `stage` (1 for the last), `imbalance` of
    its kernel, and `frequencies` with the gain and fixed pattern that the probe
    predicts and, as `weights`, those predicted from the weights alone, or None.
    """
    from analysis.checkerboard.frequencies import grid_frequencies
    from analysis.checkerboard.kernels import imbalance
    from analysis.checkerboard.predictions import predict, predict_by_probe
    from analysis.checkerboard.probe import learned_kernel

    if not upsamplings:
        raise ValueError("--lines: no layer is known to enlarge a 2-D map")
    if any(height != width for _, (height, width) in upsamplings):
        raise ValueError("--lines: expected equal strides of height and width")
    strides = tuple(height for _, (height, _) in upsamplings)
    predicted = predict(generator, strides)
    probed = predicted.get("probe") or predict_by_probe(generator, strides)  # raises
    weights = predicted.get("weights")
    frequencies: list[dict[str, Any]] = [
        {key: getattr(frequency, key) for key in ("name", "period", "stage")}
        | asdict(probed[k])
        | {"weights": asdict(weights[k]) if weights else None}
        for k, frequency in enumerate(grid_frequencies(strides))
    ]
    found = []
    for index, (name, pair) in enumerate(upsamplings):
        kernel, stage = learned_kernel(generator, name), len(upsamplings) - index
        pattern: dict[str, Any] = {"layer": name, "stage": stage}
        pattern["imbalance"] = None if kernel is None else imbalance(kernel, pair)
        pattern["frequencies"] = [f for f in frequencies if f["stage"] == stage]
        found.append(pattern)
    return found


def print_summary(summary: dict[str, Any]) -> None:
    """Prints the table of layers, then each finding once, errors first."""
    console = table_console(min_columns=130)
    optional = "findings", "type", "M MAC", "shift px", "kernel", "stride"
    print_table(console, _layer_table(summary), *optional)
    for text in _grouped(summary["layers"]):
        console.print(text)
    for layer in summary["layers"]:
        if "torch" in layer:
            console.print(escape(f"{layer['name']}: {layer['torch']['difference']}"))
    if patterns := summary.get("lines"):
        from analysis.checkerboard.words import CAUTION

        for pattern in patterns:
            console.print(escape(_pattern_text(pattern)))
        console.print(CAUTION)
    known = all(layer["predicted_shape"] for layer in summary["layers"])
    console.print(
        f"{summary['num_as_predicted']} of {len(summary['layers'])} layers as "
        f"predicted, {summary['num_errors']} errors; {'' if known else 'at least '}"
        f"{summary['params']:,} parameters, "
        f"{summary['macs'] / 1e6:,.1f} M multiply-accumulates per image"
    )


def _grouped(layers: list[dict[str, Any]]) -> Iterator[str]:
    """Each finding once, errors first, then why layers were not checked."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    unchecked: dict[str, list[str]] = {}
    for layer in layers:
        for finding in layer["findings"]:
            key = (finding["level"], finding["code"], finding["text"])
            groups.setdefault(key, []).append(layer["name"])
        if not layer["checked"]:
            unchecked.setdefault(layer["reason"], []).append(layer["name"])
    levels = list(STYLES)
    for level, code, text in sorted(groups, key=lambda g: (levels.index(g[0]), g[1])):
        shown = escape(f"{_names(groups[level, code, text])}: {text}")
        yield f"[{STYLES[level]}]{code} {level}[/] {shown}"
    for reason, names in unchecked.items():
        yield escape(f"not checked: {_names(names)}: {reason}")


def _names(names: list[str]) -> str:
    """The first names of layers, and how many more there are."""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def _layer_table(summary: dict[str, Any]) -> Table:
    """One row per layer; cells are empty where a layer moves no pixel."""
    table = Table(title=escape(summary["model"]), box=box.SIMPLE, padding=(0, 1, 0, 0))
    torch = any("torch" in layer for layer in summary["layers"])
    columns = ["layer", "type", "input", "output", "kernel", "stride", "pad or crop"]
    columns += ["PyTorch's" if torch else "shift px", "M MAC", "checked", "findings"]
    for column in columns:
        # Names of layers and long lists are wrapped, and numbers never.
        most = {"layer": 32, "type": 20, "findings": 20}.get(column)
        table.add_column(column, no_wrap=most is None, overflow="fold", max_width=most)
    for layer in summary["layers"]:
        cells = [layer["name"], layer["type"]]
        cells += [_size(layer[key]) for key in ("input_shape", "output_shape")]
        cells += [_each(layer[key]) for key in ("kernel_size", "strides", "pads")]
        if torch:
            cells.append(_each(layer["torch"]["pads"]) if "torch" in layer else "")
        else:
            shifts = layer["shift_px"]
            cells.append(_each(shifts, "{:+g}") if any(shifts) else "")
        cells.append(f"{layer['macs'] / 1e6:.2f}" if layer["macs"] else "")
        wrong = any(f["level"] == "error" for f in layer["findings"])
        cells.append("WRONG" if wrong else "yes" if layer["checked"] else "no")
        codes = (finding["code"] for finding in layer["findings"])
        cells.append(" ".join(dict.fromkeys(codes)))
        style = "bold red" if wrong else None if layer["checked"] else "dim"
        table.add_row(*(escape(cell) for cell in cells), style=style)
    return table


def _size(shape: list[int | None] | None) -> str:
    """A shape without its batch axis: 14x14x64."""
    return "x".join("?" if n is None else str(n) for n in (shape or [])[1:])


def _each(values: list[Any], form: str = "{}") -> str:
    """One value for each axis, or a single one if all are equal."""
    shown = [
        "({},{})".format(*value) if isinstance(value, list) else form.format(value)
        for value in values
    ]
    return shown[0] if len(set(shown)) == 1 else " ".join(shown)


def _pattern_text(pattern: dict[str, Any]) -> str:
    """The strongest predictions for the grid frequencies of one upsampling."""
    from analysis.checkerboard.words import decibels

    frequencies = pattern["frequencies"]
    gain, fixed = (
        max(frequencies, key=lambda frequency: frequency[key]["value"])
        for key in ("imaging_gain_percent", "fixed_pattern_levels")
    )
    percent, levels = gain["imaging_gain_percent"], fixed["fixed_pattern_levels"]
    value, low, high = (decibels(percent[key]) for key in ("value", "low", "high"))
    period = frequencies[0]["period"]
    text = f"{pattern['layer']} can make a pattern of period {period} px"
    if value < SMALLEST_DB and levels["value"] < SMALLEST_LEVELS:
        text += f", and makes none (below {SMALLEST_DB} dB)"
    else:
        text += (
            f": imaging gain up to {value:.1f} dB ({low:.1f} … {high:.1f}), "
            f"{percent['value']:.3g} %, at {gain['name']}; "
            f"fixed pattern up to {levels['value']:.3g} grey levels "
            f"({levels['low']:.3g} … {levels['high']:.3g}), at {fixed['name']}"
        )
    if all(item["weights"] for item in frequencies):
        gains = (i["weights"]["imaging_gain_percent"]["value"] for i in frequencies)
        text += f"; by its weights alone up to {decibels(max(gains)):.1f} dB"
    if pattern["imbalance"] is not None:
        text += f"; imbalance of its kernel {pattern['imbalance']:.3f} of 1"
    return text
