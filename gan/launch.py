"""Several workers of one command on this machine.

They are restarted together, because `tf.distribute` cannot replace a lost worker.
"""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from config.schema import UserError
from gan.run.environment import stop_signals

START_TIMEOUT = "GAN_START_TIMEOUT_SECONDS"  # variable of a worker's environment
POLL_SECONDS = 0.05


class WorkerLostError(UserError):
    """Another worker has ended or stands still; the exit code is EX_TEMPFAIL."""

    exit_code = 75

    def __init__(self) -> None:
        super().__init__("another worker has gone; start all again to continue the run")


@dataclass(frozen=True)
class Limits:
    """Limits of time and of the number of attempts."""

    restarts: int
    start_seconds: float  # until all workers have started
    # From the end of the first worker to SIGTERM for the others, and then to SIGKILL.
    grace_seconds: float


def launch(
    command: Sequence[str], num_workers: int, limits: Limits, say: Callable[[str], None]
) -> int:
    """Runs workers until they succeed, fail by themselves, or die too often.

    The signals of `stop_signals` are passed on, so that the workers save and stop.
    Returns the exit code of the first worker that failed; 128 + n for signal n.
    """
    for restart in range(limits.restarts + 1):
        code, stopping = run_together(command, num_workers, limits)
        died = code < 0 or code == WorkerLostError.exit_code
        if stopping or not died:
            break
        cause = signal.Signals(-code).name if code < 0 else "another worker has gone"
        last = restart == limits.restarts
        then = f", after {restart} restarts" if last else "; starting all again"
        say(f"a worker ended ({cause}){then}")
    return code if code >= 0 else 128 - code


def run_together(
    command: Sequence[str], num_workers: int, limits: Limits
) -> tuple[int, bool]:
    """Starts all workers and waits for all of them.

    Returns the exit code of the first that failed, negative for a signal, or 0; and
    whether this process was asked to stop.
    """
    workers: list[subprocess.Popen[bytes]] = []
    received: list[int] = []

    def pass_on(number: int, _: object) -> None:
        received.append(number)
        send(workers, number)

    before = {number: signal.signal(number, pass_on) for number in stop_signals()}
    try:
        for environment in environments(num_workers, limits.start_seconds):
            # A session of its own: Ctrl-C reaches a worker once, through this process.
            worker = subprocess.Popen(command, env=environment, start_new_session=True)
            workers.append(worker)
        return wait(workers, limits.grace_seconds), bool(received)
    finally:
        send(workers, signal.SIGKILL)
        for worker in workers:
            worker.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def wait(workers: Sequence[subprocess.Popen[bytes]], grace_seconds: float) -> int:
    """Waits until all workers have ended, and ends those that take too long."""
    escalation = [signal.SIGTERM, signal.SIGKILL]
    deadline, first_failure = float("inf"), 0
    while any(worker.poll() is None for worker in workers):
        codes = [worker.poll() for worker in workers]
        first_failure = first_failure or next(filter(None, codes), 0)
        now = time.monotonic()
        if deadline == float("inf") and any(code is not None for code in codes):
            deadline = now + grace_seconds
        if now >= deadline and escalation:
            send(workers, escalation.pop(0))
            deadline = now + grace_seconds
        time.sleep(POLL_SECONDS)
    return first_failure or next(filter(None, (w.poll() for w in workers)), 0)


def send(workers: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    """Sends a signal to the workers that still run; a frozen one needs SIGKILL."""
    for worker in workers:
        worker.send_signal(number)  # does nothing to one that has ended


def environments(num_workers: int, start_seconds: float) -> list[dict[str, str]]:
    """The environment of each worker, with a TF_CONFIG of free local ports."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(num_workers)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        addresses = ["{}:{}".format(*each.getsockname()) for each in sockets]
    cluster, timeout = {"worker": addresses}, {START_TIMEOUT: str(start_seconds)}
    tasks = [{"type": "worker", "index": index} for index in range(num_workers)]
    configs = [json.dumps({"cluster": cluster, "task": task}) for task in tasks]
    return [os.environ | timeout | {"TF_CONFIG": config} for config in configs]
