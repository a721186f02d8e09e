"""Names for what goes wrong in a run: numbers in, a verdict out.

It reads no files and knows no networks. An alarm needs a condition that lasts, because
single bad values are part of every healthy run. Limits on the balance of the two
networks are counted from `CHANCE`, the loss of a discriminator that cannot tell real
from generated, so that they hold for each loss. Values called healthy are those of
default runs.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

STATES = ("ok", "collapsing", "G-wins", "D-wins", "diverged")  # the last one counts
POLICIES = ("warn", "stop", "rollback")
EXIT_CODE = 3  # of a run that an alarm stopped
MAX_ROLLBACKS = 3

CHANCE = {"bce": 2 * math.log(2), "hinge": 2.0, "lsgan": 0.25}
TRANSIENT_STEPS = 100  # at the start, in which anything may happen
SUSTAINED_STEPS = 200
SUSTAINED_OBSERVATIONS = 2
MAX_GRADIENT_NORM = 100.0  # healthy: 2 to 19
D_LOSS_WON = 0.1  # share of CHANCE; healthy: 0.6 to 1.0
D_LOSS_LOST = 1.25
PROBABILITY_GAP_WON = 0.9  # of D(x) and D(G(z)); healthy: 0.11 to 0.33


@dataclass(frozen=True)
class Verdict:
    """The state of a run.

    Attributes:
        state: one of STATES.
        reason: what was seen, in words; empty for "ok".
        quiet_step: the newest step at which nothing spoke for this alarm.
    """

    state: str = "ok"
    reason: str = ""
    quiet_step: int = 0


@dataclass
class Evidence:
    """What speaks for one alarm, growing and fading.

    Attributes:
        weight: from 0 to the limit at which the alarm is raised.
        raised: from the limit until the weight is 0 again.
        reason: what was last seen.
        quiet_step: the newest step with weight 0.
    """

    weight: int = 0
    raised: bool = False
    reason: str = ""
    quiet_step: int = 0

    def weigh(self, step: int, reason: str, amount: int, limit: int) -> None:
        """Adds `amount` if there is a reason, else takes it away."""
        change = amount if reason else -amount
        self.weight = min(max(self.weight + change, 0), limit)
        self.reason = reason or self.reason
        if self.weight == 0:
            self.raised, self.quiet_step = False, step
        elif self.weight == limit:
            self.raised = True


class RollBack(Exception):
    """An alarm sends the run back to where nothing spoke for it."""

    def __init__(self, verdict: Verdict) -> None:
        """Keeps the verdict."""
        super().__init__(verdict.reason)
        self.verdict = verdict


class Watch:
    """Follows a run and says in which state it is."""

    def __init__(self, loss: str, policy: str = "warn") -> None:
        """Starts with no evidence.

        Args:
            loss: name of the adversarial loss, see `gan.losses`.
            policy: what an alarm does, one of POLICIES.
        """
        if policy not in POLICIES:
            raise ValueError(f"received {policy!r}, expected one of {POLICIES}")
        self.chance, self.policy = CHANCE[loss], policy
        self.forget(0)

    def forget(self, step: int) -> None:
        """Drops all evidence from before `step`."""
        self.step = step
        self.evidence = {state: Evidence(quiet_step=step) for state in STATES[1:]}

    def memory(self) -> dict[str, Any]:
        """All of it in plain values, for the next process."""
        found = {state: asdict(evidence) for state, evidence in self.evidence.items()}
        return {"step": self.step, "evidence": found}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Takes up what `memory` returned.

        Raises:
            KeyError, TypeError, AttributeError or ValueError: for anything else.
        """
        self.step = int(memory["step"])
        for state in STATES[1:]:
            found = memory["evidence"][state]
            self.evidence[state] = Evidence(
                int(found["weight"]),
                bool(found["raised"]),
                str(found["reason"]),
                int(found["quiet_step"]),
            )

    def see_losses(self, step: int, values: Mapping[str, float]) -> None:
        """Weighs the means of the step's metrics since the last call."""
        early = step <= TRANSIENT_STEPS
        amount = step if early else step - max(self.step, TRANSIENT_STEPS)
        self.step = step
        for state, reason in judge_losses(values, self.chance).items():
            self.evidence[state].weigh(
                step, "" if early else reason, amount, SUSTAINED_STEPS
            )

    def see_observation(self, step: int, reason: str) -> None:
        """Weighs what observers said at an evaluation; empty: nothing wrong."""
        evidence = self.evidence["collapsing"]
        evidence.weigh(step, reason, 1, SUSTAINED_OBSERVATIONS)

    def see_non_finite(self, step: int, reason: str) -> None:
        """Raises "diverged" at once; `step` is the last one that was whole."""
        self.evidence["diverged"] = Evidence(1, True, reason, step)

    @property
    def verdict(self) -> Verdict:
        """The worst alarm that is raised."""
        for state in reversed(STATES[1:]):
            evidence = self.evidence[state]
            if evidence.raised:
                return Verdict(state, evidence.reason, evidence.quiet_step)
        return Verdict()

    @property
    def code(self) -> int:
        """The state as a number: its place in STATES."""
        return STATES.index(self.verdict.state)

    def wish_to_stop(self, rate_scale: float) -> tuple[str, int] | None:
        """Words and exit code if an alarm is to end the call.

        Args:
            rate_scale: 1, halved at each rollback so far.

        Raises:
            RollBack: if that is the policy and not done too often yet.
        """
        verdict = self.verdict
        if verdict.state == "ok" or self.policy == "warn":
            return None
        if self.policy == "rollback" and rate_scale > 0.5**MAX_ROLLBACKS:
            raise RollBack(verdict)
        return f"stopped by alarm {verdict.state}: {verdict.reason}", EXIT_CODE


def judge_losses(values: Mapping[str, float], chance: float) -> dict[str, str]:
    """Returns, for each state, what in these means speaks for it; empty: nothing."""
    d_loss = values["loss/d"]
    real, fake = values["d/prob_real"], values["d/prob_fake"]
    balance = f"loss/d {d_loss:.2f}, D(x) {real:.2f}, D(G(z)) {fake:.2f}"
    norms = {name: values[f"grad_norm/{name}"] for name in "dg"}
    largest = max(norms, key=lambda name: norms[name])
    won = d_loss < D_LOSS_WON * chance or real - fake > PROBABILITY_GAP_WON
    lost = d_loss > D_LOSS_LOST * chance and fake > real
    exploded = norms[largest] > MAX_GRADIENT_NORM
    found = {
        "D-wins": (won, "the discriminator is always right"),
        "G-wins": (lost, "the discriminator is worse than chance"),
        "diverged": (exploded, f"grad_norm/{largest} is {norms[largest]:.0f}"),
    }
    return {
        state: f"{words} ({balance})" if true else ""
        for state, (true, words) in found.items()
    }
