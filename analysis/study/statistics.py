"""Methods of a study against the first one: pairs of equal seeds, Holm's correction.

The unit is the training run. A_last and A_prev are the end points that were named
beforehand (docs/method.md), and the correction runs over all their comparisons.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.statistics import Interval, holm, paired_difference
from analysis.study.plan import Plan
from analysis.study.results import Result, by_method

PRIMARY = {"a_last": "A_last", "a_prev": "A_prev"}
LEVEL = 0.05  # of Holm's corrected p-values


@dataclass(frozen=True)
class Comparison:
    """A method against the first one, over pairs of equal seeds.

    Attributes:
        method: label.
        endpoint: key of PRIMARY.
        difference: mean of method - first, 95 % t-interval.
        p_value: two-sided, of one comparison.
        adjusted: by Holm over all comparisons.
        num_pairs: seeds that both have.
    """

    method: str
    endpoint: str
    difference: Interval
    p_value: float
    adjusted: float
    num_pairs: int

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value is below LEVEL."""
        return self.adjusted < LEVEL


def compare_methods(plan: Plan, results: Sequence[Result]) -> list[Comparison]:
    """All comparisons on the end points named beforehand, Holm-corrected together."""
    rows = [
        (label, endpoint, *difference(plan, results, label, endpoint))
        for label, _ in others(plan, results)
        for endpoint in PRIMARY
    ]
    rows = [row for row in rows if row[-1] > 1]
    adjusted = holm(np.array([row[3] for row in rows]))
    return [
        Comparison(label, endpoint, interval, p_value, float(corrected), pairs)
        for (label, endpoint, interval, p_value, pairs), corrected in zip(
            rows, adjusted, strict=True
        )
    ]


def others(plan: Plan, results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    """All methods with results but the first."""
    first = plan.methods[0].label
    return [(k, v) for k, v in by_method(plan, results) if k != first]


def difference(
    plan: Plan, results: Sequence[Result], label: str, endpoint: str
) -> tuple[Interval, float, int]:
    """Mean difference to the first method, p-value, number of pairs."""
    sides = [
        {r.seed: r.trained[endpoint] for r in results if r.method == name}
        for name in (label, plan.methods[0].label)
    ]
    seeds = sorted(set(sides[0]) & set(sides[1]))
    if len(seeds) < 2:
        return Interval(np.nan, np.nan, np.nan), np.nan, len(seeds)
    mine, theirs = (np.array([side[seed] for seed in seeds]) for side in sides)
    return *paired_difference(mine, theirs), len(seeds)
