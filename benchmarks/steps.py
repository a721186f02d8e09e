"""Compares speed and memory of the training step with other loops and a lower bound.

    python -m benchmarks.steps [--network dcgan64] [--batch-size 64] [--profile]

Every candidate trains the same network on bundled images in a process of its own.
The processes are started and warmed up once, and then take turns, round by round. The
lower bounds are those of `benchmarks.floor`, measured in the same rounds.
"""

import math
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.candidates import NETWORKS, STEPS_PER_CALL, network_products
from benchmarks.results import save, spread
from benchmarks.worker import Unavailable, Worker
from gan.run.environment import prepare_tensorflow

OURS = "ours"
PRODUCTS, LAYERS, RATE = FLOORS = "products", "layers", "matrix product"
RIVALS = ("tutorial loop", "Keras train_step", "PyTorch")
GPU_VARIANTS = (
    "ours, 50 steps per call",
    "ours, XLA",
    "ours, XLA, 50 steps per call",
    "ours, the same, deterministic",
    "ours, the same, mixed_float16",
)
CALLS_PER_ROUND = 3  # of each product or layer
Answers = dict[str, list[dict[str, Any]]]


def command(
    name: str, network: str, batch_size: int, device: str, torch_python: str
) -> list[str]:
    """Returns the command line of a worker."""
    rest = [network, str(batch_size), device]
    if name == "PyTorch":
        file = str(NETWORKS[network][2])
        return [torch_python, "-m", "benchmarks.rival_torch", file, *rest]
    return [sys.executable, "-m", "benchmarks.candidates", name, *rest]


def run_in_turn(
    commands: dict[str, list[str]], num_steps: int, rounds: int, device: str
) -> Answers:
    """Returns all answers of each worker that can work, by name.

    Raises:
        Unavailable: if this project's own step cannot be run.
    """
    answers: Answers = {}
    with ExitStack() as stack:
        workers = {}
        # On a GPU, starting takes longer than measuring, and is done side by side.
        with ThreadPoolExecutor(len(commands) if device == "gpu" else 1) as pool:
            start = partial(Worker, hide_gpu=device == "cpu")
            starts = {name: pool.submit(start, line) for name, line in commands.items()}
        for name, started in starts.items():
            try:
                workers[name] = stack.enter_context(started.result())
            except Unavailable as reason:
                if name == OURS:
                    raise
                click.echo(f"{name}: skipped, {reason}")
                continue
            answers[name] = []
        for _ in range(rounds):
            for name, worker in workers.items():
                count = CALLS_PER_ROUND if name in FLOORS else num_steps
                answers[name].append(worker.run(count))
    return answers


def step_seconds(answers: Answers, num_steps: int) -> dict[str, np.ndarray]:
    """Returns the seconds of one step by candidate, each float64 (rounds,)."""
    return {
        name: np.array([answer["seconds"] for answer in given]) / num_steps
        for name, given in answers.items()
        if name not in FLOORS
    }


def floors(answers: Answers, network: str, batch_size: int) -> dict[str, np.ndarray]:
    """Returns the seconds of each lower bound, each float64 (rounds,)."""
    from benchmarks.floor import seconds_of_layers, seconds_of_products, step_macs

    products = network_products(network)
    rates, alone, layers = (
        [answer["result"] for answer in answers[name]]
        for name in (RATE, PRODUCTS, LAYERS)
    )
    macs, inside = step_macs(products), step_macs(products, inside=True)
    return {
        "multiply-accumulates": batch_size * macs / np.array(rates),
        "the same inside the maps": batch_size * inside / np.array(rates),
        "products alone": np.array([seconds_of_products(products, s) for s in alone]),
        "layers alone": np.array([seconds_of_layers(products, s) for s in layers]),
    }


def show(answers: Answers, network: str, batch_size: int, num_steps: int) -> None:
    """Prints the candidates, then the lower bounds."""
    seconds = step_seconds(answers, num_steps)
    for name, times in seconds.items():
        speed = batch_size / np.median(times)
        peak = max(answer["peak_bytes"] for answer in answers[name]) / 2**20
        click.echo(
            f"{name:>22}: {speed:>7.0f} images/s, at most {peak:>5.0f} MiB; "
            f"ours is faster {spread(times / seconds[OURS])} times"
        )
    if set(FLOORS) <= answers.keys():
        for name, least in floors(answers, network, batch_size).items():
            share = spread(least / seconds[OURS])
            click.echo(f"floor, {name:>30}: {share} of our step")


def show_profile(answers: Answers, network: str, num_steps: int) -> None:
    """Prints the median time of each product in this project's step."""
    ours = float(np.median(step_seconds(answers, num_steps)[OURS]))
    rest = ours
    for product in network_products(network):
        ways = [answer["result"][product.name] for answer in answers[PRODUCTS]]
        medians = {form: float(np.median([w[form] for w in ways])) for form in ways[0]}
        used, best = next(iter(medians)), min(medians, key=lambda form: medians[form])
        taken = product.count * medians[used]
        rest -= taken
        better = f"; {best}: {1e3 * product.count * medians[best]:.2f} ms"
        click.echo(
            f"{product.name:>34} x{product.count}: {1e3 * taken:>7.2f} ms, "
            f"{taken / ours:>5.1%}" + (better if best != used else "")
        )
    click.echo(
        f"{'everything else':>37}: {1e3 * rest:>7.2f} ms, {rest / ours:>5.1%} "
        "(batch norm, activations, dropout, Adam, average, input)"
    )


@click.command()
@click.option(
    "--network",
    type=click.Choice(list(NETWORKS)),
    default="tutorial",
    show_default=True,
    help="that of TensorFlow's tutorial, 28 px, or of PyTorch's example, 64 px",
)
@click.option("--batch-size", "sizes", type=int, multiple=True, default=(64, 256))
@click.option(
    "--images", default=4096, show_default=True, help="images per candidate and round"
)
@click.option("--rounds", default=7, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "gpu"]), default="cpu")
@click.option(
    "--torch-python", default=sys.executable, help="a Python that has PyTorch"
)
@click.option("--profile", is_flag=True, help="show the time of each product")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path))
def main(  # noqa: PLR0913
    network: str,
    sizes: tuple[int, ...],
    images: int,
    rounds: int,
    device: str,
    torch_python: str,
    profile: bool,
    out: Path | None,
) -> None:
    """Compares speed and memory of training steps."""
    variants = GPU_VARIANTS if device == "gpu" else ()
    # The products were not timed on a GPU.
    floors = FLOORS if device == "cpu" else ()
    names = [OURS, *variants, *RIVALS, *floors]
    results: dict[int, dict[str, Any]] = {}
    for size in sizes:
        commands = {n: command(n, network, size, device, torch_python) for n in names}
        num_steps = max(1, images // size)
        if device == "gpu":
            num_steps = STEPS_PER_CALL * math.ceil(num_steps / STEPS_PER_CALL)
        try:
            answers = run_in_turn(commands, num_steps, rounds, device)
        except Unavailable as reason:
            raise click.ClickException(str(reason)) from None
        results[size] = {"num_steps": num_steps, "answers": answers}
    # Only now, because a child starts with the peak memory of its parent.
    prepare_tensorflow()
    for size, result in results.items():
        num_steps, answers = result["num_steps"], result["answers"]
        click.echo(f"batch {size}, {rounds} rounds of {num_steps} steps, {device}")
        show(answers, network, size, num_steps)
        if profile and PRODUCTS in answers:
            show_profile(answers, network, num_steps)
    save(out, {"device": device, "network": network, "batch_sizes": results})


if __name__ == "__main__":
    main()
