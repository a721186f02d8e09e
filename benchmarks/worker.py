"""Worker processes that are timed in turn.

Each candidate has a process of its own, because the thread pools of the frameworks
would slow one another down, and because peak memory is counted per process. A worker
warms up, then does as many steps as a line on its standard input says, and answers in
one line of JSON. This file needs only the standard library, so that every candidate can
import it.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[1]
WARM_UP_STEPS = 3


def rss_peak_bytes() -> int:
    """Returns the peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def serve(
    burst: Callable[[int], Any], peak_bytes: Callable[[], int] = rss_peak_bytes
) -> None:
    """Answers until standard input ends; the first answer says that it is warm.

    Args:
        burst: does a number of steps and has finished them when it returns; its result
            is part of the answer.
        peak_bytes: returns the peak memory so far.
    """
    answer({"result": burst(WARM_UP_STEPS)})
    for line in sys.stdin:
        start = time.perf_counter()
        result = burst(int(line))
        seconds = time.perf_counter() - start
        answer({"seconds": seconds, "peak_bytes": peak_bytes(), "result": result})


def answer(values: dict[str, Any]) -> None:
    """Sends one line to the parent; `{"error": reason}` if the worker cannot work."""
    print(json.dumps(values), flush=True)


class Unavailable(RuntimeError):
    """The worker cannot work on this machine; the message says why."""


class Worker:
    """The parent's side of a worker; used as a context manager."""

    def __init__(self, command: Sequence[str], hide_gpu: bool = True) -> None:
        """Starts the process and waits until it is warm.

        Raises:
            Unavailable: if it says that it cannot work, or ends.
        """
        # Otherwise the first process takes all memory of the GPU.
        shared = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        device = {"CUDA_VISIBLE_DEVICES": "-1"} if hide_gpu else shared
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | device,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.stdin: Any = self.process.stdin
        self.stdout: Any = self.process.stdout
        try:
            self._read()
        except Unavailable:
            self.close()
            raise

    def run(self, num_steps: int) -> dict[str, Any]:
        """Makes the worker do `num_steps` steps.

        Returns:
            `seconds` of wall time for all of them, `peak_bytes`, and `result`.
        """
        self.stdin.write(f"{num_steps}\n")
        self.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Ends the process."""
        self.stdin.close()
        self.process.wait()
        self.stdout.close()

    def __enter__(self) -> Self:
        """Returns the worker, which has been started by the constructor."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the process."""
        self.close()

    def _read(self) -> dict[str, Any]:
        line = self.stdout.readline()
        values = json.loads(line) if line else {"error": "ended without an answer"}
        if "error" in values:
            raise Unavailable(values["error"])
        return values
