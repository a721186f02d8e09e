"""`python -m gan`: images and files, most of them from a finished or running run."""

import json
import re
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from config.loader import load_config
from gan.command_line import Command, RunPath, print_table
from gan.data.dataset import latents_from_seeds, load_dataset
from gan.data.files import read_grids
from gan.data.images import magnify, to_grid, to_picture, viewing_scale
from gan.files import counted
from gan.launch import Limits, launch
from gan.run.environment import prepare_tensorflow
from gan.run.folder import RUNS_DIR, RunError, RunFolder, read_run
from gan.run.listing import check_removable, list_runs, remove_run

if TYPE_CHECKING:
    from gan.sampling import LoadedRun

ANIMATIONS = (".gif", ".webp")
LEAST_PX, MOST_PX = 256, 700  # sides of an animation that --scale does not set
LABEL_PX = 20  # height of the text under a frame
LAST_FRAME_MS = 2000
REPAIRED = 3  # exit code of `check`

option = partial(click.option, show_default=True)
PATH = click.Path(path_type=Path)
run_argument = click.argument("run", type=RunPath(path_type=Path))
checkpoint_option = option(
    "--checkpoint",
    default="latest",
    help="Checkpoint of the run: latest, best (if it kept one) or a step.",
)
out_option = partial(option, "--out", type=PATH)
scale_option = click.option(
    "--scale",
    type=click.IntRange(1, 64),
    help="Side of one pixel in the picture, in pixels.  [default: by the size of the "
    "images, 6 for 28 px]",
)


@click.group()
@click.version_option(package_name="dcgan-seams")
def main() -> None:
    """Makes images and files, also from a run that is training."""


def load_run(run: Path, checkpoint: str) -> "LoadedRun":
    """Loads a run; reports a wrong folder before TensorFlow is imported."""
    read_run(run)
    prepare_tensorflow()
    from gan.sampling import open_run

    return open_run(run, checkpoint)


def parse_seeds(text: str) -> list[int]:
    """Reads "0-63" or "3,5,8-9" as a list of seeds."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", part.strip())
        if not match:
            raise ValueError(f"--seeds: received {text!r}, expected e.g. 0-63 or 3,5,8")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first >= 10_000_000:
            raise ValueError(f"--seeds: received {part!r}, expected first-last")
        seeds.extend(range(first, last + 1))
    return seeds


def expect_suffix(out: Path, *suffixes: str, folder: str = "") -> None:
    """Refuses a file name whose suffix no format has; `folder` names what needs none.

    An existing folder may have any name.
    """
    if out.suffix in suffixes or folder and (not out.suffix or out.is_dir()):
        return
    expected = " or ".join(suffixes)
    if folder:
        expected += f" or {folder} (no suffix)"
    raise ValueError(f"--out: received {out}, expected {expected}")


@main.command("sample", cls=Command)
@run_argument
@checkpoint_option
@click.option("--seeds", help="Seeds of the images, such as 0-63 or 3,5,8.")
@click.option("--n", "num", type=click.IntRange(1), help="Use the seeds 0 to n-1.")
@out_option(
    default="samples.png",
    help="FILE.png: a grid; FILE.npz: images and seeds; a folder: one PNG per seed.",
)
@scale_option
def sample_command(
    run: Path,
    checkpoint: str,
    seeds: str | None,
    num: int | None,
    out: Path,
    scale: int | None,
) -> None:
    """Makes samples with RUN's averaged generator.

    The image of a seed is always the same. Only a grid is enlarged: an .npz or a folder
    holds the pixels that the generator made.
    """
    if seeds and num:
        raise ValueError("received --seeds and --n, expected one of them")
    expect_suffix(out, ".png", ".npz", folder="a folder")
    if scale and out.suffix != ".png":
        raise ValueError(f"--scale: received with --out {out}, expected with .png")
    chosen = parse_seeds(seeds) if seeds else list(range(num or 64))
    loaded = load_run(run, checkpoint)
    from gan.sampling import sample

    images_uint8 = sample(loaded.generator, chosen)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".png":
        to_grid(images_uint8, scale=scale).save(out)
    elif out.suffix == ".npz":
        np.savez_compressed(
            out, images=images_uint8, seeds=np.array(chosen), step=loaded.step
        )
    else:
        out.mkdir(exist_ok=True)
        for seed, image in zip(chosen, images_uint8, strict=True):
            to_picture(image).save(out / f"seed-{seed:08d}.png")
    click.echo(f"{len(chosen)} images of step {loaded.step} -> {out}")


@main.command(cls=Command)
@run_argument
@checkpoint_option
@option("--seeds", default="0-7", help="At least two seeds.")
@option(
    "--frames",
    type=click.IntRange(2, 1000),
    default=8,
    help="Images from one seed to the next.",
)
@out_option(
    default="interpolation.png",
    help="FILE.png: one row per pair of seeds; FILE.gif or FILE.webp: a video.",
)
@scale_option
def interpolate(
    run: Path, checkpoint: str, seeds: str, frames: int, out: Path, scale: int | None
) -> None:
    """Interpolates between the latents of seeds, each with the next one."""
    chosen = parse_seeds(seeds)
    if len(chosen) < 2:
        raise ValueError(f"--seeds: received {seeds!r}, expected at least two")
    expect_suffix(out, ".png", *ANIMATIONS)
    loaded = load_run(run, checkpoint)
    from gan.sampling import renderer

    ends = latents_from_seeds(chosen, loaded.config.model.latent_dim)
    points = np.concatenate(
        [slerp(a, b, frames) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    )
    images_uint8 = renderer(loaded.generator)(points)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".png":
        to_grid(images_uint8, frames, scale).save(out)
    else:
        size = loaded.image_size
        scale = scale or viewing_scale(size, size, LEAST_PX, MOST_PX)
        pictures = [magnify(to_picture(image), scale) for image in images_uint8]
        animate(pictures, out, 12.0)
    click.echo(f"{len(points)} images of step {loaded.step} -> {out}")


def slerp(start: np.ndarray, end: np.ndarray, frames: int) -> np.ndarray:
    """Spherical linear interpolation from `start` to `end`: float32 (frames, dim).

    Latents lie near a sphere, which a straight line between two of them would leave.
    """
    lengths = np.linalg.norm(start) * np.linalg.norm(end)
    cosine = np.clip(start @ end / lengths, -1.0, 1.0)
    angle = max(float(np.arccos(cosine)), 1e-6)
    fraction = np.linspace(0.0, 1.0, frames)[:, None]
    weights = np.sin((1 - fraction) * angle), np.sin(fraction * angle)
    points = (weights[0] * start + weights[1] * end) / np.sin(angle)
    return points.astype(np.float32)


@main.command("augment", cls=Command)
@click.option("--dataset", metavar="NAME|PATH", help="As in train.py.")
@option("--config", "preset", metavar="PRESET", default="", help="As in train.py.")
@click.option(
    "--set",
    "sets",
    metavar="KEY=VALUE",
    multiple=True,
    help="Such as train.augment=colour,translation,cutout or data.flip=true.",
)
@out_option(default="augment.png", help="FILE.png: one row per image, which is first.")
def augment_command(
    dataset: str | None, preset: str, sets: tuple[str, ...], out: Path
) -> None:
    """Shows real images and what the discriminator sees of them.

    The changes are those of the first steps of a run.
    """
    config = load_config(preset, {"data.dataset": dataset}, sets)
    if config.train.augment == "none" and not config.data.flip:
        raise ValueError(
            "received train.augment=none and data.flip=false, expected a change of the "
            "images, for example --set train.augment=colour,translation,cutout"
        )
    expect_suffix(out, ".png")
    images_uint8 = load_dataset(config.data).images_uint8[:8]
    prepare_tensorflow()
    from gan.augment import preview

    out.parent.mkdir(parents=True, exist_ok=True)
    to_picture(preview(config, images_uint8)).save(out)
    click.echo(f"{len(images_uint8)} images -> {out}")


@main.command(cls=Command)
@run_argument
@option("--fps", type=click.FloatRange(0.1, 50), default=4.0, help="Frames per second.")
@out_option(default="training.gif", help="FILE.gif or FILE.webp.")
@scale_option
def video(run: Path, fps: float, out: Path, scale: int | None) -> None:
    """Makes a video of RUN's sample grids with their steps, in the order of training.

    The last frame stays for two seconds.
    """
    expect_suffix(out, *ANIMATIONS)
    image_px = read_run(run).dataset["image_size"]
    paths = sorted((run / "samples").glob("step-*.png"))
    if not paths:
        raise RunError(f"{run}/samples holds no grid yet")
    frames = []
    for path, grid in zip(paths, read_grids(paths), strict=True):
        side = max(grid.size)
        factor = scale or viewing_scale(image_px, side, LEAST_PX, MOST_PX)
        step = int(path.stem.removeprefix("step-"))
        frames.append(with_label(magnify(grid, factor), f"step {step:,}"))
    out.parent.mkdir(parents=True, exist_ok=True)
    animate(frames, out, fps)
    click.echo(f"{len(frames)} grids -> {out}")


@main.command(cls=Command)
@run_argument
@checkpoint_option
@click.option(
    "--out",
    type=PATH,
    required=True,
    help="FILE.keras, FILE.onnx, FILE.tflite, or the folder of a SavedModel.",
)
def export(run: Path, checkpoint: str, out: Path) -> None:
    """Writes the averaged generator for other programs; reads it back to compare."""
    folder = "the folder of a SavedModel"
    expect_suffix(out, ".keras", ".onnx", ".tflite", folder=folder)
    loaded = load_run(run, checkpoint)
    from gan.export import export_generator, usage

    out.parent.mkdir(parents=True, exist_ok=True)
    most = counted(export_generator(loaded, out), "grey level")
    click.echo(
        f"generator of step {loaded.step} -> {out}; read back, its pixels differ by "
        f"at most {most}. To use it:\n\n{usage(loaded, out)}\n\n"
        "Grey levels are (images + 1) * 127.5."
    )


@main.command(cls=Command)
@run_argument
def check(run: Path) -> None:
    """Verifies RUN's checkpoints, configuration and export; repairs what it can.

    Exit code 0: nothing was wrong; 3: everything is repaired; 1: something is broken.
    """
    if not (run / "state").is_dir():
        raise RunError(f"{run} is not a run folder: it has no checkpoints")
    prepare_tensorflow()
    from gan.run.check import check_run

    with RunFolder(run) as folder:
        report = check_run(folder)
    for kind, lines in (("repaired", report.repaired), ("broken", report.broken)):
        for line in lines:
            click.echo(f"{kind}: {line}")
    if report.broken:
        raise click.ClickException(f"{run} cannot be used as it is")
    click.echo(f"{run} is sound at step {report.step}")
    if report.repaired:
        raise SystemExit(REPAIRED)


@main.command("list", cls=Command)
@click.argument("directory", type=PATH, default=RUNS_DIR)
@click.option("--json", "as_json", is_flag=True, help="Print all values as JSON.")
def list_command(directory: Path, as_json: bool) -> None:
    """Lists the runs in DIRECTORY [default: checkpoints], also those of its folders.

    The quality is the lowest one that a run has logged: of FCD, or of the sliced
    Wasserstein distance of patches (SWD). Alarms are those of the whole run.
    """
    runs = list_runs(directory)
    if as_json:
        click.echo(json.dumps([asdict(run) for run in runs], indent=2))
        return
    if not runs:
        click.echo(f"no runs in {directory}")
        return
    whole_name = Column("run", no_wrap=True)
    table = Table(whole_name, "state", "steps", "quality", "alarms", "MB", box=SIMPLE)
    for run in runs:
        steps, size = f"{run.step}/{run.num_steps or '?'}", f"{run.num_bytes / 1e6:.0f}"
        score = f"{run.score[:3].upper()} {run.value:.4g}" if run.score else ""
        row = run.name, run.state, steps, score, ", ".join(run.alarms), size
        table.add_row(*map(escape, row))
    console = Console(highlight=False)
    print_table(console, table, "MB", "alarms")
    for run in runs:
        if run.problem:
            console.print(f"{run.name}: {run.problem}", markup=False, soft_wrap=True)


@main.command(cls=Command)
@run_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(run: Path, yes: bool) -> None:
    """Removes the run folder RUN with all of its checkpoints and samples.

    It refuses a folder that a process uses or that holds any other file.
    """
    check_removable(run)
    [found] = list_runs(run)
    text = f"{run}, {found.state} at step {found.step}, {found.num_bytes / 1e6:.0f} MB"
    if not yes:
        if not click.confirm(f"remove {text}?"):
            click.echo("nothing was removed")
            return
    remove_run(run)
    click.echo(f"removed {text}")


@main.command("launch", cls=Command)
@option("--workers", type=click.IntRange(2), default=2, help="Number of processes.")
@option(
    "--restarts",
    type=click.IntRange(0),
    default=3,
    help="How often all workers are started again after one has died.",
)
@option(
    "--start-timeout",
    "start_seconds",
    type=click.FloatRange(1),
    default=300.0,
    help="Seconds until all workers must be connected.",
)
@option(
    "--grace",
    "grace_seconds",
    type=click.FloatRange(1),
    default=30.0,
    help="Seconds from the end of one worker to SIGTERM, and then to SIGKILL.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def launch_command(command: tuple[str, ...], workers: int, **limits: Any) -> None:
    """Runs COMMAND as several workers on this machine.

    If one worker dies, all are started again.

    Example: python -m gan launch --workers 2 -- python train.py --strategy multiworker
    """
    report = partial(click.echo, err=True)
    raise SystemExit(launch(command, workers, Limits(**limits), report))


def with_label(picture: Image.Image, text: str) -> Image.Image:
    """Adds a line of text under a picture."""
    labelled = ImageOps.expand(picture, (0, 0, 0, LABEL_PX))  # left, top, right, bottom
    font = ImageFont.load_default(LABEL_PX - 6)
    ImageDraw.Draw(labelled).text((4, picture.height + 1), text, "white", font)
    return labelled


def animate(frames: list[Image.Image], out: Path, fps: float) -> None:
    """Stores frames as an endless GIF or WebP; `lossless` is an option of WebP."""
    durations = [round(1000 / fps)] * (len(frames) - 1) + [LAST_FRAME_MS]
    options: dict[str, Any] = {"loop": 0, "lossless": True, "append_images": frames[1:]}
    frames[0].save(out, save_all=True, duration=durations, **options)


if __name__ == "__main__":
    main()
