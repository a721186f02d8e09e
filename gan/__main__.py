"""`python -m gan`: pictures and files from a finished or running run.

Commands only read the run folder and import TensorFlow when they need it.
"""

import contextlib
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click
import numpy as np
from PIL import Image

from gan.data.dataset import latents_from_seeds
from gan.data.files import read_grids
from gan.data.images import tile, to_picture
from gan.launch import Limits, launch
from gan.run.environment import prepare_tensorflow
from gan.run.folder import RunError, RunFolder, read_run

ANIMATIONS = (".gif", ".webp")
MENDED = 3  # exit code of `check`

run_argument = click.argument("run", type=click.Path(path_type=Path))
checkpoint_option = click.option(
    "--checkpoint", default="latest", show_default=True, help="latest or a step number"
)


@click.group()
def main() -> None:
    """Pictures and files from a run folder, also while it is training."""


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns what a user can mend into one line and exit code 1."""
    try:
        yield
    except (RunError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None


def parse_seeds(text: str) -> list[int]:
    """Reads "0-63" or "3,5,8-9" as a list of seeds."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", part.strip())
        if not match:
            raise ValueError(f"--seeds: received {text!r}, expected e.g. 0-63 or 3,5,8")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first >= 10_000_000:
            raise ValueError(f"--seeds: received {part!r}, expected first-last, rising")
        seeds.extend(range(first, last + 1))
    return seeds


@main.command()
@run_argument
@checkpoint_option
@click.option("--seeds", help="e.g. 0-63 or 3,5,8; the picture of a seed never changes")
@click.option("--n", "num", type=click.IntRange(1), help="the seeds 0 to n-1")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="samples.png",
    show_default=True,
    help="FILE.png: a grid; FILE.npz: images and seeds; a folder: one PNG a seed",
)
def sample(
    run: Path, checkpoint: str, seeds: str | None, num: int | None, out: Path
) -> None:
    """Draws samples of RUN's averaged generator."""
    with one_line_errors():
        if seeds and num:
            raise ValueError("received --seeds and --n, expected one of them")
        chosen = parse_seeds(seeds) if seeds else list(range(num or 64))
        read_run(run)
        prepare_tensorflow()
        from gan.sampling import open_run
        from gan.sampling import sample as sample_seeds

        opened = open_run(run, checkpoint)
        images_uint8 = sample_seeds(opened.generator, chosen)
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".png":
            to_picture(tile(images_uint8)).save(out)
        elif out.suffix == ".npz":
            np.savez_compressed(
                out, images=images_uint8, seeds=np.array(chosen), step=opened.step
            )
        else:
            out.mkdir(exist_ok=True)
            for seed, image in zip(chosen, images_uint8, strict=True):
                to_picture(image).save(out / f"seed-{seed:08d}.png")
    click.echo(f"{len(chosen)} images of step {opened.step} -> {out}")


@main.command()
@run_argument
@checkpoint_option
@click.option("--seeds", default="0-7", show_default=True, help="the stations")
@click.option(
    "--frames",
    type=click.IntRange(2, 1000),
    default=8,
    show_default=True,
    help="pictures from one seed to the next",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="interpolation.png",
    show_default=True,
    help="FILE.png: a row a pair; FILE.gif or .webp: moves",
)
def interpolate(run: Path, checkpoint: str, seeds: str, frames: int, out: Path) -> None:
    """Walks from seed to seed on the sphere of latents."""
    with one_line_errors():
        stations = parse_seeds(seeds)
        if len(stations) < 2:
            raise ValueError(f"--seeds: received {seeds!r}, expected at least two")
        if out.suffix not in (".png", *ANIMATIONS):
            raise ValueError(f"--out: received {out}, expected .png, .gif or .webp")
        read_run(run)
        prepare_tensorflow()
        from gan.sampling import open_run, renderer

        opened = open_run(run, checkpoint)
        ends = latents_from_seeds(stations, opened.config.model.latent_dim)
        path = np.concatenate(
            [slerp(a, b, frames) for a, b in zip(ends[:-1], ends[1:], strict=True)]
        )
        images_uint8 = renderer(opened.generator)(path)
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".png":
            to_picture(tile(images_uint8, columns=frames)).save(out)
        else:
            animate([to_picture(image) for image in images_uint8], out, 12.0)
    click.echo(f"{len(path)} images of step {opened.step} -> {out}")


def slerp(start: np.ndarray, end: np.ndarray, frames: int) -> np.ndarray:
    """Points on the arc from `start` to `end`, float32 (frames, dim), both ends in.

    Latents lie near a sphere; the straight line between two of them would leave it.
    """
    lengths = np.linalg.norm(start), np.linalg.norm(end)
    cosine = np.clip(start @ end / (lengths[0] * lengths[1]), -1.0, 1.0)
    angle = max(float(np.arccos(cosine)), 1e-6)
    share = np.linspace(0.0, 1.0, frames)[:, None]
    weights = np.sin((1 - share) * angle), np.sin(share * angle)
    points = (weights[0] * start + weights[1] * end) / np.sin(angle)
    return points.astype(np.float32)


@main.command()
@run_argument
@click.option("--fps", type=click.FloatRange(0.1, 50), default=4.0, show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="training.gif",
    show_default=True,
    help="FILE.gif or FILE.webp",
)
def video(run: Path, fps: float, out: Path) -> None:
    """Strings RUN's sample grids together, in the order of training."""
    with one_line_errors():
        if out.suffix not in ANIMATIONS:
            raise ValueError(f"--out: received {out}, expected .gif or .webp")
        read_run(run)
        paths = sorted((run / "samples").glob("step-*.png"))
        if not paths:
            raise RunError(f"{run}/samples holds no grid yet")
        frames = read_grids(paths)
        out.parent.mkdir(parents=True, exist_ok=True)
        animate(frames, out, fps)
    click.echo(f"{len(frames)} grids -> {out}")


@main.command()
@run_argument
@checkpoint_option
@click.option(
    "--format",
    "kind",
    default="keras",
    show_default=True,
    type=click.Choice(["keras", "savedmodel", "tflite"]),
)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def export(run: Path, checkpoint: str, kind: str, out: Path) -> None:
    """Writes the averaged generator for use elsewhere, and reads it back to compare."""
    with one_line_errors():
        read_run(run)
        prepare_tensorflow()
        from gan.export import export_generator
        from gan.sampling import open_run

        opened = open_run(run, checkpoint)
        out.parent.mkdir(parents=True, exist_ok=True)
        difference = export_generator(opened, kind, out)
    click.echo(
        f"generator of step {opened.step} -> {out}; read back, its pixels differ by "
        f"at most {difference} grey levels"
    )


@main.command()
@run_argument
def check(run: Path) -> None:
    """Verifies RUN's checkpoints, configuration and export, and mends what it can.

    Exit code 0: sound; 3: it was not and is now; 1: something is left.
    """
    with one_line_errors():
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
        raise SystemExit(MENDED)


@main.command("launch")
@click.option("--workers", type=click.IntRange(2), default=2, show_default=True)
@click.option(
    "--restarts",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    help="how many times all are started again after one has died",
)
@click.option(
    "--start-timeout",
    type=click.FloatRange(1),
    default=300.0,
    show_default=True,
    help="seconds until all workers must have met",
)
@click.option(
    "--grace",
    type=click.FloatRange(1),
    default=30.0,
    show_default=True,
    help="seconds after the first end until SIGTERM for the others, then SIGKILL",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def launch_command(
    workers: int,
    restarts: int,
    start_timeout: float,
    grace: float,
    command: tuple[str, ...],
) -> None:
    """Runs COMMAND as several workers on this machine, again if one dies.

    Example: python -m gan launch --workers 2 -- python train.py --strategy multiworker
    """
    limits = Limits(restarts, start_timeout, grace)
    say = partial(click.echo, err=True)
    with one_line_errors():
        raise SystemExit(launch(command, workers, limits, say))


def animate(frames: list[Image.Image], out: Path, fps: float) -> None:
    """Stores frames as an endless GIF or WebP."""
    first, *rest = frames
    milliseconds = round(1000 / fps)
    first.save(
        out,
        save_all=True,
        append_images=rest,
        duration=milliseconds,
        loop=0,
        lossless=True,  # read by WebP alone
    )


if __name__ == "__main__":
    main()
