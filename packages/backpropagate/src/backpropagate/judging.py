"""Whether what was measured satisfies the conditions that were set, and how clearly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bp_core.errors import GateFailed
from bp_core.gates import Gate

from .bootstrap import Interval


@dataclass(frozen=True)
class Judged:
    """A condition and the number it is about. The estimate decides; the interval says how clearly."""

    gate: Gate
    found: Interval

    @property
    def holds(self) -> bool:
        return self.gate.holds(self.found.estimate)

    @property
    def clear(self) -> bool:
        """Whether both ends of the interval say the same."""
        return self.gate.holds(self.found.low) == self.gate.holds(self.found.high) == self.holds

    def says(self) -> str:
        found, by = self.found, f"{abs(self.found.estimate - self.gate.limit):.4g}"
        verdict = f"holds: it is {found.estimate:.4g}, with {by} to spare"
        if not self.holds:
            verdict = f"does not hold: it is {found.estimate:.4g}, off by {by}"
        between = f"the 95 % interval [{found.low:.4g}, {found.high:.4g}]"
        if self.clear:
            return f"{self.gate} {verdict}; all of {between} agrees"
        return f"{self.gate} {verdict}; {between} crosses the limit, so other rows may say otherwise"

    def as_dict(self) -> dict[str, Any]:
        return {"gate": str(self.gate), "holds": self.holds, "clear": self.clear} | self.found.as_dict()


def judge(gates: Sequence[Gate], measures: Mapping[str, Interval], change: Mapping[str, Interval]) -> list[Judged]:
    """Each condition held against the metric it is on, or against its change."""
    return [Judged(gate, (change if gate.change else measures)[gate.metric]) for gate in gates]


def require(judged: Sequence[Judged]) -> None:
    """Raise GateFailed that tells every condition that does not hold."""
    failed = [gate.says() for gate in judged if not gate.holds]
    if failed:
        raise GateFailed("; ".join(failed) + ".")
