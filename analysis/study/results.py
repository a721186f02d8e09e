"""What the runs of a study gave: saved, loaded and put in columns."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.checkerboard.measurement import Measurement, load_measurement
from analysis.study.plan import RESULTS, Plan, StudyError, has_result
from gan.files import write_atomically


@dataclass(frozen=True)
class Result:
    """What one run gave.

    Attributes:
        run: name.
        method: label.
        seed: of training.
        trained: end point to value, see `analysis.study.run.ENDPOINTS`.
        untrained: the same before the first step; quality is not measured there.
        course: the same at each kept step, with "step".
        seconds_per_step: median of the run's log.
        measurement: of the trained generator's samples.
    """

    run: str
    method: str
    seed: int
    trained: dict[str, float]
    untrained: dict[str, float]
    course: list[dict[str, float]]
    seconds_per_step: float
    measurement: Measurement

    def save(self, folder: Path) -> None:
        """Writes NAME.npz, then NAME.json, which makes the result complete."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = folder / f"{self.run}.npz"
        write_atomically(arrays, self.measurement.save)
        content = {k: v for k, v in vars(self).items() if k != "measurement"}
        text = json.dumps(content, indent=1) + "\n"
        path = folder / f"{self.run}.json"
        write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def load_results(folder: Path, plan: Plan) -> list[Result]:
    """Reads the results that are there, in the order of the plan.

    Raises:
        StudyError: if one is damaged.
    """
    return [
        load_result(folder, run.name) for run in plan.runs if has_result(folder, run)
    ]


def load_result(folder: Path, name: str) -> Result:
    """Reads one result."""
    path = folder / RESULTS / f"{name}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["measurement"] = load_measurement(path.with_suffix(".npz"))
        return Result(**content)
    except (OSError, ValueError, TypeError) as error:
        raise StudyError(
            f"{path} is damaged ({error}); remove it, and the study makes it again"
        ) from None


def by_method(
    plan: Plan, results: Sequence[Result]
) -> Iterator[tuple[str, list[Result]]]:
    """Labels of the methods with their results, seeds in order."""
    for method in plan.methods:
        found = [result for result in results if result.method == method.label]
        if found:
            yield method.label, sorted(found, key=lambda result: result.seed)


def column(results: Sequence[Result], key: str, when: str = "trained") -> np.ndarray:
    """One end point of several results, float64."""
    return np.array([getattr(result, when)[key] for result in results])
