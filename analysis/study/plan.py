"""A study of upsamplers: methods x seeds under one protocol, planned, run and measured.

`docs/method.md` is the protocol. A plan is written before anything runs; each run is a
process of its own (`python -m analysis study --only NAME`), trains with the loop that
`train.py` calls and leaves one result. A result that is there is never made again, and
a run without one continues exactly, so that a study may be killed at any moment.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from config.loader import from_dict, load_config, to_dict, with_budget
from config.schema import Config
from config.upsamplers import UPSAMPLER_ALIASES, UPSAMPLERS
from gan.files import write_atomically

PLAN = "plan.json"
RESULTS = "results"


class StudyError(ValueError):
    """A study cannot be planned or read; the message is one line for the user."""


@dataclass(frozen=True)
class Method:
    """One upsampling method of a study: `NAME[/LAST]:KERNEL`.

    Attributes:
        upsample: of the catalogue.
        upsample_last: of the last stage; empty: the same.
        kernel_size: in taps.
    """

    upsample: str
    upsample_last: str
    kernel_size: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `transpose:4`, `transpose/resize-nearest:5`, `transpose` (5 taps).

        Raises:
            StudyError: for a name that is not in the catalogue.
        """
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
        """Name and kernel, for tables: `transpose k5`."""
        last = f"/{self.upsample_last}" if self.upsample_last else ""
        return f"{self.upsample}{last} k{self.kernel_size}"

    @property
    def file_name(self) -> str:
        """The same for files: `transpose-k5`."""
        return self.label.replace("/", "-last_").replace(" ", "-")


@dataclass(frozen=True)
class Run:
    """One planned training run.

    Attributes:
        name: of its folder and its result.
        method: label of the method.
        config: all settings, the step budget resolved.
    """

    name: str
    method: str
    config: Config


@dataclass(frozen=True)
class Plan:
    """What a study is made of.

    Attributes:
        base: settings that all runs share, the step budget resolved.
        methods: the first is the one that others are compared with.
        num_seeds: runs of each method, seeds 0, 1, ...
        match: which cost is made equal: "macs", "params", or "none".
        num_images: samples that each measurement takes.
        widths: label of a method to its `generator_widths`.
        costs: label to `params` and `macs` of its generator.
    """

    base: Config
    methods: tuple[Method, ...]
    num_seeds: int
    match: str
    num_images: int
    widths: dict[str, tuple[int, ...]]
    costs: dict[str, dict[str, int]]

    @property
    def runs(self) -> list[Run]:
        """All runs, seed by seed, so that an unfinished study has whole seeds."""
        return [
            self.run(method, seed)
            for seed in range(self.num_seeds)
            for method in self.methods
        ]

    def run(self, method: Method, seed: int) -> Run:
        """The run of a method and seed."""
        model = dataclasses.replace(
            self.base.model,
            **dataclasses.asdict(method),
            generator_widths=self.widths[method.label],
        )
        seeded = dataclasses.replace(self.base.run, seed=seed)
        config = dataclasses.replace(self.base, model=model, run=seeded)
        return Run(f"{method.file_name}-seed{seed}", method.label, config)

    @property
    def basis(self) -> dict[str, Any]:
        """What all results share besides their settings."""
        first = self.methods[0].label
        return {"first method": first, "--match": self.match, "--n": self.num_images}

    def save(self, folder: Path) -> None:
        """Writes plan.json, and refuses to change what earlier runs were made with.

        More methods and more seeds may be added to a study.

        Raises:
            StudyError: if the folder holds another study.
        """
        path = folder / PLAN
        if path.exists():
            self.check_extends(load_plan(folder), path)
        folder.mkdir(parents=True, exist_ok=True)
        content = dataclasses.asdict(self) | {"base": to_dict(self.base)}
        text = json.dumps(content, indent=1) + "\n"
        write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))

    def check_extends(self, old: "Plan", path: Path) -> None:
        """Raises StudyError unless every run of `old` is a run of this plan."""
        if self.basis != old.basis:
            found = ", ".join(f"{key} {value}" for key, value in old.basis.items())
            raise StudyError(f"{path} plans {found}; choose another --out")
        mine = {run.name: run.config for run in self.runs}
        for run in old.runs:
            if run.name not in mine:
                raise StudyError(
                    f"{path} plans {run.name}, which this call leaves out; name all of "
                    "its methods and seeds, or choose another --out"
                )
            if mine[run.name] != run.config:
                raise StudyError(
                    f"{path} plans other settings, such as the budget or the preset; "
                    "choose another --out"
                )


def load_plan(folder: Path) -> Plan:
    """Reads plan.json.

    Raises:
        StudyError: if there is none, or it is damaged.
    """
    path = folder / PLAN
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
        raise StudyError(f"{folder} holds no study: no {PLAN}") from None
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
    """Resolves settings and finds the widths at which the methods cost the same.

    Args:
        preset: name or path of the shared settings.
        sets: further ones, `section.key=value`.
        methods: as `Method.parse` reads them.
        num_seeds: runs of each.
        epochs: budget of a run in passes over the data; None: the preset's.
        match: "macs", "params" or "none".
        num_images: samples that each measurement takes.

    Raises:
        StudyError: for an unknown method, or one that is named twice.
        ConfigError: for a setting.
    """
    from gan.data.dataset import load_dataset

    parsed = tuple(Method.parse(method) for method in methods)
    if len(set(parsed)) != len(parsed):
        raise StudyError(f"--methods: received {', '.join(methods)}: one of them twice")
    base = load_config(preset, {"train.epochs": epochs}, sets)
    images = load_dataset(base.data).images_uint8
    base = with_budget(base, len(images))
    run, steps = base.run, base.train.num_steps
    every = max(1, -(-steps // run.keep_checkpoints))
    base = dataclasses.replace(
        base,
        run=dataclasses.replace(
            run, checkpoint_every_steps=every, evaluate_every_steps=steps
        ),
    )
    shape = images.shape[1], images.shape[3]
    widths: dict[str, tuple[int, ...]] = {}
    costs: dict[str, dict[str, int]] = {}
    for method in parsed:
        goal = costs[parsed[0].label] if costs else None
        found = match_widths(base, method, shape, match, goal)
        widths[method.label], costs[method.label] = found
    return Plan(base, parsed, num_seeds, match, num_images, widths, costs)


def match_widths(
    base: Config,
    method: Method,
    shape: tuple[int, int],
    match: str,
    goal: Mapping[str, int] | None,
) -> tuple[tuple[int, ...], dict[str, int]]:
    """Widths at which a method costs what the first one does, and that cost.

    Only the channels between the two doublings change: both costs are linear in them,
    and all layers before stay equal to the bit. The rest is rounding.

    Args:
        base: settings of all runs.
        method: whose widths are sought.
        shape: image size and channels.
        match: the cost to be made equal, or "none".
        goal: costs of the first method; None: this is the first.
    """
    *front, last = base.model.generator_widths

    def cost(width: int) -> dict[str, int]:
        model = dataclasses.replace(
            base.model,
            **dataclasses.asdict(method),
            generator_widths=(*front, width),
        )
        return generator_cost(model, shape)

    if goal is not None and match != "none":
        one, two = cost(1)[match], cost(2)[match]
        last = max(1, round(1 + (goal[match] - one) / (two - one)))
    return (*front, last), cost(last)


def generator_cost(model: Any, shape: tuple[int, int]) -> dict[str, int]:
    """Trained parameters, and multiply-accumulates for one image, of a generator."""
    from analysis.geometry.audit import audit_model
    from gan.models import build_generator

    records = audit_model(build_generator(model, *shape))
    return {
        "params": sum(record.params for record in records),
        "macs": sum(record.macs for record in records),
    }


def has_result(folder: Path, run: Run) -> bool:
    """Whether a run is done."""
    return (folder / RESULTS / f"{run.name}.json").exists()
