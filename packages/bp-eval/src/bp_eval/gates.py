"""Conditions on what an evaluation measures, as `--gate` writes them: loss<2.5,f1>=0.3,loss_change<0.

Parsed before anything is measured, and judged afterwards: whether they hold, and how clearly.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bp_core.errors import BadValue, GateFailed

if TYPE_CHECKING:
    from .bootstrap import Interval

OF_LOSS = ("loss", "perplexity")
OF_PAIRS = ("accuracy",)
OF_ANSWERS = ("exact_match", "f1", "contains", "regex")
METRICS = OF_LOSS + OF_PAIRS + OF_ANSWERS
CHANGE = "_change"  # after a metric: its difference to the model that is compared with
_SIGNS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
_GATE = re.compile(rf"\s*(\w+)\s*({'|'.join(_SIGNS)})\s*(\S+)\s*")


@dataclass(frozen=True)
class Gate:
    """What a number must satisfy. `change` means that the metric's difference is judged, not the metric."""

    metric: str
    change: bool
    sign: str
    limit: float

    def __str__(self) -> str:
        return f"{self.metric}{CHANGE if self.change else ''}{self.sign}{self.limit:g}"

    def holds(self, value: float) -> bool:
        """Never for what is not a number."""
        return bool(_SIGNS[self.sign](value, self.limit))


def gates_in(text: str) -> tuple[Gate, ...]:
    """The conditions in a line, between commas. Raises BadValue that lists every one that is none."""
    found = [_gate(part) for part in text.split(",")] if text.strip() else []
    if problems := [gate for gate in found if isinstance(gate, str)]:
        fix = "Write a metric, one of < <= > >=, and a number, such as 'loss<2.5,f1>=0.3', in quotes for the shell."
        raise BadValue("; ".join(problems) + ".", fix=fix)
    return tuple(gate for gate in found if isinstance(gate, Gate))


def _gate(part: str) -> Gate | str:
    """A condition, or what is wrong with it."""
    match = _GATE.fullmatch(part)
    if not match:
        return f"gate {part.strip()!r} is no condition"
    name, sign, number = match.groups()
    metric = name.removesuffix(CHANGE)
    if metric not in METRICS:
        near = difflib.get_close_matches(metric, METRICS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(METRICS)}"
        return f"gate {part.strip()!r} is on an unknown metric {metric!r}{hint}"
    try:
        limit = float(number)
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit):
        return f"gate {part.strip()!r} has no number as its limit"
    return Gate(metric, name != metric, sign, limit)


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
