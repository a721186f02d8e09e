"""Where the time goes, and what ends a call before its budget does."""

import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Clock:
    """Seconds of wall time by kind of work: compile, input, step, evaluate, ...

    Attributes:
        seconds: total by kind.
        step_seconds: of each step since the last log line, compilation apart.
    """

    def __init__(self) -> None:
        """Starts with nothing."""
        self.seconds: dict[str, float] = defaultdict(float)
        self.step_seconds: list[float] = []

    @contextmanager
    def measure(self, kind: str, num_steps: int = 0) -> Iterator[None]:
        """Adds the duration of a `with` block of `num_steps` steps to `kind`."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self.seconds[kind] += seconds
        if kind == "step":
            self.step_seconds += [seconds / num_steps] * num_steps


class StopSignals:
    """Turns SIGINT and SIGTERM into a wish to stop, for the length of a `with` block.

    A second signal is delivered as usual, for those who cannot wait for the step.
    """

    def __enter__(self) -> "StopSignals":
        """Installs the handlers."""
        self.received = 0
        self._before = {
            number: signal.signal(number, self._note)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        """Puts back what was installed before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number
        signal.signal(number, self._before[signal.Signals(number)])


def stop_reason(signals: StopSignals, deadline: float | None) -> tuple[str, int] | None:
    """Words and exit code when the user or the clock asks to stop."""
    if signals.received:
        name = signal.Signals(signals.received).name
        return f"stopped by {name}", 128 + signals.received
    if deadline is not None and time.monotonic() >= deadline:
        return "time limit reached", 0
    return None
