"""Several workers of one command on this machine, started again together.

`tf.distribute` cannot replace a lost worker: the others fail or wait, and the whole
cluster has to be started again. That is safe here since a run continues exactly from
its last checkpoint.
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

PEER_LOST = 75  # exit code of a worker whose peer has gone: EX_TEMPFAIL
START_TIMEOUT = "GAN_START_TIMEOUT_SECONDS"  # in the environment of a worker
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Limits:
    """How long is waited, and how often tried.

    Attributes:
        restarts: how many times all workers are started again.
        start_seconds: until all workers must have met.
        grace_seconds: between the end of the first worker and SIGTERM for the others,
            and again until SIGKILL.
    """

    restarts: int
    start_seconds: float
    grace_seconds: float


def launch(
    command: Sequence[str], num_workers: int, limits: Limits, say: Callable[[str], None]
) -> int:
    """Runs workers until they succeed, fail by themselves, or die too often.

    SIGINT and SIGTERM are handed on, so that the workers save and stop.

    Args:
        command: program and arguments of every worker.
        num_workers: how many, at addresses of the loopback interface.
        limits: see there.
        say: takes messages to the user.

    Returns:
        The exit code: that of the first worker that failed, 128 + n for signal n.
    """
    for restart in range(limits.restarts + 1):
        code, stopping = run_together(command, num_workers, limits)
        died = code < 0 or code == PEER_LOST
        if stopping or not died:
            break
        cause = signal.Signals(-code).name if code < 0 else "its peer has gone"
        if restart < limits.restarts:
            say(f"a worker ended ({cause}); starting all again")
        else:
            say(f"a worker ended ({cause}), after {limits.restarts} restarts")
    return code if code >= 0 else 128 - code


def run_together(
    command: Sequence[str], num_workers: int, limits: Limits
) -> tuple[int, bool]:
    """Starts all workers and waits for all of them.

    Returns:
        Exit code of the first that failed, negative for a signal, 0 if none did; and
        whether this process was asked to stop.
    """
    workers: list[subprocess.Popen[bytes]] = []
    received: list[int] = []

    def hand_on(number: int, _: object) -> None:
        received.append(number)
        send(workers, number)

    before = {n: signal.signal(n, hand_on) for n in (signal.SIGINT, signal.SIGTERM)}
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
    """Waits until all have ended, at most twice `grace_seconds` after the first."""
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
    """Sends a signal to those that still run; a frozen one obeys SIGKILL alone."""
    for worker in workers:
        if worker.poll() is None:
            worker.send_signal(number)


def environments(num_workers: int, start_seconds: float) -> list[dict[str, str]]:
    """The environment of each worker, with a TF_CONFIG of free local ports."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(num_workers)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        addresses = ["{}:{}".format(*each.getsockname()) for each in sockets]
    return [
        os.environ
        | {
            START_TIMEOUT: str(start_seconds),
            "TF_CONFIG": json.dumps(
                {
                    "cluster": {"worker": addresses},
                    "task": {"type": "worker", "index": index},
                }
            ),
        }
        for index in range(num_workers)
    ]
