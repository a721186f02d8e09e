"""Alarms: what goes wrong in a run, named from its numbers.

An alarm needs a condition that lasts, because single bad values are part of every
healthy run. The limits on the balance of the two networks are multiples of `CHANCE`,
the loss of a discriminator that cannot tell real from generated images, so that they
hold for each adversarial loss. Values called healthy are those of default runs.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

STATES = ("ok", "collapsing", "G-wins", "D-wins", "diverged")  # the worst comes last
POLICIES = ("warn", "stop")
EXIT_CODE = 3  # of a run that an alarm stopped

ADVICE = {  # docs/normal.md says more
    "collapsing": "take the best checkpoint, and train again with lower learning "
    "rates, larger batches, or --augment where images are few",
    "G-wins": "lower the learning rate of the generator, or raise that of the "
    "discriminator",
    "D-wins": "lower the learning rate of the discriminator, raise train.r1_gamma, or "
    "use --augment where images are few",
    "diverged": "lower both learning rates, and use --precision float32",
}

CHANCE = {"bce": 2 * math.log(2), "hinge": 2.0, "lsgan": 0.25}
TRANSIENT_STEPS = 100  # no alarm is raised by the first steps of a run
SUSTAINED_STEPS = 200
SUSTAINED_OBSERVATIONS = 2
MAX_GRADIENT_NORM = 100.0  # healthy: 2 to 19
D_LOSS_WON = 0.1  # multiple of CHANCE; healthy: 0.6 to 1.0
D_LOSS_LOST = 1.25
PROBABILITY_GAP_WON = 0.9  # between D(x) and D(G(z)); healthy: 0.11 to 0.33


@dataclass(frozen=True)
class Status:
    """The state of a run, one of STATES, and the values that raised the alarm."""

    state: str = "ok"
    reason: str = ""


@dataclass
class Condition:
    """Counts how long the condition of one alarm has held."""

    # Steps or evaluations with the condition less those without it, from 0 to a limit.
    weight: int = 0
    raised: bool = False  # from the limit until the weight is 0 again
    reason: str = ""

    def update(self, reason: str, amount: int, limit: int) -> None:
        """Adds `amount` to the weight if there is a reason, else subtracts it."""
        change = amount if reason else -amount
        self.weight = min(max(self.weight + change, 0), limit)
        self.reason = reason or self.reason
        if self.weight in (0, limit):
            self.raised = self.weight == limit


class Alarms:
    """Follows the numbers of a run and says in which state it is."""

    def __init__(self, loss: str, policy: str = "warn") -> None:
        if policy not in POLICIES:
            raise ValueError(f"received {policy!r}, expected one of {POLICIES}")
        self.chance, self.policy = CHANCE[loss], policy
        self.step = 0  # of the newest losses
        self.conditions = {state: Condition() for state in STATES[1:]}

    def state_dict(self) -> dict[str, Any]:
        """All counts as plain data, for a checkpoint."""
        counts = {state: asdict(found) for state, found in self.conditions.items()}
        return {"step": self.step, "evidence": counts}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` returned, perhaps in an earlier version."""
        self.step = int(saved["step"])
        for state in STATES[1:]:
            found = saved["evidence"][state]
            self.conditions[state] = Condition(
                int(found["weight"]), bool(found["raised"]), str(found["reason"])
            )

    def add_losses(self, step: int, values: Mapping[str, float]) -> None:
        """Counts the means of the metrics since the last call."""
        early = step <= TRANSIENT_STEPS
        amount = step if early else step - max(self.step, TRANSIENT_STEPS)
        self.step = step
        for state, reason in check_losses(values, self.chance).items():
            reason = "" if early else reason
            self.conditions[state].update(reason, amount, SUSTAINED_STEPS)

    def add_observation(self, reason: str) -> None:
        """Counts one evaluation; `reason` says why samples look collapsed, or is ""."""
        self.conditions["collapsing"].update(reason, 1, SUSTAINED_OBSERVATIONS)

    def add_non_finite(self, reason: str) -> None:
        """Raises "diverged" at once."""
        self.conditions["diverged"] = Condition(1, True, reason)

    @property
    def status(self) -> Status:
        """The worst alarm that is raised."""
        for state, condition in reversed(self.conditions.items()):
            if condition.raised:
                return Status(state, condition.reason)
        return Status()

    @property
    def code(self) -> int:
        """The state as a number: its place in STATES."""
        return STATES.index(self.status.state)

    def stop_request(self) -> tuple[str, int] | None:
        """Reason and exit code, if an alarm is raised and the policy is "stop"."""
        status = self.status
        if status.state == "ok" or self.policy == "warn":
            return None
        return f"stopped by alarm {status.state}: {status.reason}", EXIT_CODE


def check_losses(values: Mapping[str, float], chance: float) -> dict[str, str]:
    """For each alarm on losses, why its condition holds, or "" if it does not."""
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
        state: f"{words} ({balance})" if holds else ""
        for state, (holds, words) in found.items()
    }
