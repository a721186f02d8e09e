"""The plan of a study, which is methods x seeds under one protocol, and its results.

`docs/method.md` describes the protocol. The plan is written before anything runs. A run
that has a result is never repeated, and a run without one continues from its last
checkpoint, so a study may be killed at any moment.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from analysis.checkerboard.measurement import Measurement, load_measurement
from config.loader import differences, from_dict, load_config, to_dict
from config.schema import UPSAMPLER_ALIASES, UPSAMPLERS, Config, ModelConfig
from config.sizes import resolve
from gan.files import write_atomically
from gan.run.folder import WATCHING

PLAN_FILE = "plan.json"
RESULTS_FOLDER = "results"
RESULT_FORMAT = 2  # results without a number are those of an earlier meter
# The end points that were chosen before any run, with their names in tables. Both are
# read at (1/2, 1/2). The corrected p-values of the page are about these alone.
PRIMARY_ENDPOINTS = {
    "floored_gain_db": "imaging gain, dB",
    "fixed_pattern_levels": "fixed pattern, grey levels",
}
SECONDARY_ENDPOINT = "floored_gain_before_db"  # of the upsampling before the last


class StudyError(ValueError):
    """A study cannot be planned or read; the message is one line for the user."""


@dataclass(frozen=True)
class Method:
    """One upsampling method of a study; an empty `upsample_last` is the same one."""

    upsample: str
    upsample_last: str
    kernel_size: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `transpose:4`, `transpose/resize-nearest:5` or `transpose` (5 taps)."""
        names, _, kernel = text.strip().partition(":")
        first, _, last = names.partition("/")
        first, last = (UPSAMPLER_ALIASES.get(name, name) for name in (first, last))
        if first not in UPSAMPLERS or last not in ("", *UPSAMPLERS):
            raise StudyError(
                f"--methods: received {text!r}, expected NAME[/LAST][:KERNEL] with "
                f"names of {', '.join(UPSAMPLERS)}"
            )
        if kernel and not kernel.isdecimal():
            raise StudyError(f"--methods: received {text!r}, expected a number of taps")
        return cls(first, last, int(kernel or 5))

    @property
    def label(self) -> str:
        """Name and kernel size for tables, such as `transpose k5`."""
        last = f"/{self.upsample_last}" if self.upsample_last else ""
        return f"{self.upsample}{last} k{self.kernel_size}"

    @property
    def file_name(self) -> str:
        """Name and kernel size for files, such as `transpose-k5`."""
        return self.label.replace("/", "-last_").replace(" ", "-")

    def model(self, base: Config, widths: tuple[int, ...]) -> ModelConfig:
        """Returns the settings of the model with this method and these widths."""
        chosen = dataclasses.asdict(self) | {"generator_widths": widths}
        return dataclasses.replace(base.model, **chosen)


@dataclass(frozen=True)
class PlannedRun:
    """One training run of a plan; its folder and its result have its name."""

    name: str
    method: str
    config: Config


@dataclass(frozen=True)
class Plan:
    """What a study trains and measures. The fields are those of plan.json.

    Attributes:
        base: settings that all runs share; the number of steps is resolved.
        methods: the other methods are compared with the first one.
        match: cost that is equal for all methods: "macs", "params" or "none".
        num_images: number of samples per measurement.
        widths: `generator_widths` by label of the method.
        costs: `params` and `macs` of the generator by label of the method.
    """

    base: Config
    methods: tuple[Method, ...]
    num_seeds: int
    match: str
    num_images: int
    widths: dict[str, tuple[int, ...]]
    costs: dict[str, dict[str, int]]

    @property
    def runs(self) -> list[PlannedRun]:
        """All runs, seed by seed, so that an unfinished study has complete seeds."""
        seeds = range(self.num_seeds)
        return [self.run(method, seed) for seed in seeds for method in self.methods]

    def run(self, method: Method, seed: int) -> PlannedRun:
        """Returns the run of a method with a seed."""
        model = method.model(self.base, self.widths[method.label])
        seeded = dataclasses.replace(self.base.run, seed=seed)
        config = dataclasses.replace(self.base, model=model, run=seeded)
        return PlannedRun(f"{method.file_name}-seed{seed}", method.label, config)

    def save(self, folder: Path) -> None:
        """Writes plan.json; methods and seeds may be added to a plan that is there."""
        self.check_extends(folder)
        path = folder / PLAN_FILE
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, dataclasses.asdict(self) | {"base": to_dict(self.base)})

    def check_extends(self, folder: Path) -> None:
        """Refuses a folder with another plan, to which this one does not only add."""
        path = folder / PLAN_FILE
        if not path.exists():
            return
        old = load_plan(folder)
        fixed, old_fixed = (
            f"first method {it.methods[0].label}, --match {it.match}, "
            f"--n {it.num_images}"
            for it in (self, old)
        )
        if fixed != old_fixed:
            raise StudyError(f"{path} plans {old_fixed}; choose another --out")
        configs = {run.name: run.config for run in self.runs}
        for run in old.runs:
            if run.name not in configs:
                raise StudyError(
                    f"{path} plans {run.name}, which this call leaves out; name all of "
                    "its methods and seeds, or choose another --out"
                )
            lines = differences(run.config, configs[run.name])
            if changed := [it for it in lines if it.split(":")[0] not in WATCHING]:
                raise StudyError(
                    f"{path} plans other settings ({'; '.join(changed)}); choose "
                    "another --out"
                )


def write_text(path: Path, text: str) -> None:
    """Writes a file that appears complete or not at all."""
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file that appears complete or not at all."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def load_plan(folder: Path) -> Plan:
    """Reads plan.json; StudyError if there is none, or if it is damaged."""
    path = folder / PLAN_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Plan(
            base=from_dict(content["base"]),
            methods=tuple(Method(**method) for method in content["methods"]),
            num_seeds=content["num_seeds"],
            match=content["match"],
            num_images=content["num_images"],
            widths={k: tuple(v) for k, v in content["widths"].items()},
            costs=content["costs"],
        )
    except OSError:
        raise StudyError(f"{folder} holds no study: no {PLAN_FILE}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudyError(f"{path} is damaged: {error!r}") from None


def make_plan(
    preset: str,
    sets: Sequence[str],
    methods: Sequence[str],
    num_seeds: int,
    epochs: float | None,
    match: str,
    num_images: int,
) -> Plan:
    """Resolves the settings and finds the widths at which all methods cost the same.

    `epochs` is the length of a run in passes over the data; None means as in the
    preset.
    """
    from gan.data.dataset import load_dataset

    parsed = tuple(Method.parse(method) for method in methods)
    if len(set(parsed)) != len(parsed):
        raise StudyError(f"--methods: received {', '.join(methods)}: one of them twice")
    base = load_config(preset, {"train.epochs": epochs}, sets)
    images = load_dataset(base.data).images_uint8
    base = resolve(base, *images.shape[:2])
    num_steps = base.train.num_steps
    watched: Any = {
        "evaluate_every_steps": num_steps,  # the study measures for itself
        "keep_checkpoints": 1,
        "checkpoint_steps": base.run.checkpoint_steps or course_steps(num_steps),
    }
    base = dataclasses.replace(base, run=dataclasses.replace(base.run, **watched))
    shape = images.shape[1], images.shape[3]
    widths: dict[str, tuple[int, ...]] = {}
    costs: dict[str, dict[str, int]] = {}
    for method in parsed:
        goal = costs[parsed[0].label] if costs else None
        found = match_widths(base, method, shape, match, goal)
        widths[method.label], costs[method.label] = found
    return Plan(base, parsed, num_seeds, match, num_images, widths, costs)


def course_steps(num_steps: int) -> tuple[int, ...]:
    """Steps before the last one at which a run is measured: 10, 30, 100, 300, ..."""
    steps = (factor * 10**power for power in range(1, 10) for factor in (1, 3))
    return tuple(step for step in steps if step < num_steps)


def match_widths(
    base: Config,
    method: Method,
    shape: tuple[int, int],
    match: str,
    goal: Mapping[str, int] | None,
) -> tuple[tuple[int, ...], dict[str, int]]:
    """Finds widths at which a method costs as much as `goal`, and its cost there.

    Only the numbers of channels between two doublings change, all by one factor, and
    then the last one alone. Both costs are linear in that one. All layers before them
    keep their initial weights. What remains is the rounding to a whole channel.
    `shape` is the side in pixels and the channels.
    """
    widths = base.model.generator_widths
    first = 1 + base.model.base_stage
    front, between = widths[:first], widths[first:]

    def cost(*between: int) -> dict[str, int]:
        return generator_cost(method.model(base, (*front, *between)), shape)

    if goal is not None and match != "none":
        if not between:
            raise StudyError(
                "--match: received a generator with one doubling, expected two or "
                "more, or --match none"
            )
        if len(between) > 1:
            low, high = 1 / 8, 8.0  # factors
            for _ in range(8):
                factor = math.sqrt(low * high)
                scaled = [max(1, round(factor * width)) for width in between]
                is_low = cost(*scaled)[match] < goal[match]
                low, high = (factor, high) if is_low else (low, factor)
            between = tuple(scaled)
        one, two = cost(*between[:-1], 1)[match], cost(*between[:-1], 2)[match]
        last = max(1, round(1 + (goal[match] - one) / (two - one)))
        between = (*between[:-1], last)
    return (*front, *between), cost(*between)


def generator_cost(model: ModelConfig, shape: tuple[int, int]) -> dict[str, int]:
    """Counts trained parameters, and multiply-accumulates per image, of a generator."""
    from analysis.geometry.audit import audit_model, total_cost
    from gan.models import build_generator

    return total_cost(audit_model(build_generator(model, *shape)))


@dataclass(frozen=True)
class RunResult:
    """What was measured of one run. The fields but the last are those of its JSON file.

    Attributes:
        trained: values of the trained generator, see `analysis.study.run`.
        course: the same without quality metrics, and with the key "step", at each
            measured step: 0 (untrained), the steps on the way, the last one.
        readings: by step (as text) all readings, see `reading_to_dict`.
        floors_db: for each gain of `trained` the value that smaller gains count as.
        seconds_per_step: median over the log of the run.
        measurement: readings, spectra and examples of the trained generator's samples.
    """

    run: str
    method: str
    seed: int
    trained: dict[str, float]
    course: list[dict[str, float]]
    readings: dict[str, list[dict[str, Any]]]
    floors_db: dict[str, float]
    seconds_per_step: float
    measurement: Measurement

    @property
    def untrained(self) -> dict[str, float]:
        """The values before the first step."""
        return self.course[0]

    def save(self, folder: Path) -> None:
        """Writes NAME.npz, then NAME.json, which makes the result complete."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{self.run}.npz", self.measurement.save)
        content = {k: v for k, v in vars(self).items() if k != "measurement"}
        write_json(folder / f"{self.run}.json", {"format": RESULT_FORMAT} | content)


def has_result(folder: Path, run: PlannedRun) -> bool:
    """Tells whether the result of a run is complete."""
    return (folder / RESULTS_FOLDER / f"{run.name}.json").exists()


def load_results(folder: Path, plan: Plan) -> list[RunResult]:
    """Reads the results that are there; StudyError if one is damaged or too old."""
    return [load_result(folder, r.name) for r in plan.runs if has_result(folder, r)]


def load_result(folder: Path, name: str) -> RunResult:
    """Reads the result of the run `name`."""
    path = folder / RESULTS_FOLDER / f"{name}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format", None) == RESULT_FORMAT:
            measurement = load_measurement(path.with_suffix(".npz"))
            return RunResult(**content, measurement=measurement)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise StudyError(
            f"{path} is damaged ({error}); remove it, and the study makes it again"
        ) from None
    raise StudyError(
        f"{path} was measured by an earlier meter, whose numbers cannot be compared "
        "with those of this one; choose a new folder with --out"
    )


def results_by_method(
    plan: Plan, results: Sequence[RunResult]
) -> Iterator[tuple[str, list[RunResult]]]:
    """Yields the label of each method that has results, and these sorted by seed."""
    for method in plan.methods:
        found = [result for result in results if result.method == method.label]
        if found:
            yield method.label, sorted(found, key=lambda result: result.seed)


def values_of(
    results: Sequence[RunResult], key: str, when: str = "trained"
) -> np.ndarray:
    """Collects one value of several results: float64 (num_results,)."""
    return np.array([getattr(result, when)[key] for result in results])
