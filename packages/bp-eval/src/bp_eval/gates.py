"""Conditions on metrics, written as in `--gate`: loss<2.5,f1>=0.3,loss_change<0.

Parsed before anything is measured, and checked afterwards: whether they hold, and how clearly.
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
NO_CALL = "tools.no_call"
OF_TOOLS = ("tools.parsed", "tools.name", "tools.arguments", NO_CALL)
OF_THOUGHTS = ("thoughts.tokens", "thoughts.unclosed")
METRICS = OF_LOSS + OF_PAIRS + OF_ANSWERS + OF_TOOLS + OF_THOUGHTS
LOWER_IS_BETTER = (*OF_LOSS, "thoughts.unclosed")
NEITHER = ("thoughts.tokens",)  # more of it is not better, nor is less
CHANGE = "_change"  # suffix of a metric: its difference to the baseline model
_SIGNS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
_GATE = re.compile(rf"\s*([\w.]+)\s*({'|'.join(_SIGNS)})\s*(\S+)\s*")


@dataclass(frozen=True)
class Gate:
    """A condition on a metric; with `change`, on its difference to the baseline."""

    metric: str
    change: bool
    sign: str
    limit: float

    def __str__(self) -> str:
        return f"{self.metric}{CHANGE if self.change else ''}{self.sign}{self.limit:g}"

    def holds(self, value: float) -> bool:
        """Whether `value` satisfies the condition; False for NaN."""
        return bool(_SIGNS[self.sign](value, self.limit))


def gates_in(text: str) -> tuple[Gate, ...]:
    """The comma-separated conditions in `text`. Raises BadValue that lists every invalid one."""
    if not text.strip():
        return ()
    gates: list[Gate] = []
    problems: list[str] = []
    for part in text.split(","):
        gate = _gate(part)
        problems.append(gate) if isinstance(gate, str) else gates.append(gate)
    if problems:
        fix = "Write a metric, one of < <= > >=, and a number, such as 'loss<2.5,f1>=0.3', in quotes for the shell."
        raise BadValue("; ".join(problems) + ".", fix=fix)
    return tuple(gates)


def _gate(part: str) -> Gate | str:
    """The condition, or what is wrong with it as text."""
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
class GateResult:
    """A condition and the measured interval. The estimate decides; the interval shows how clearly."""

    gate: Gate
    measured: Interval

    @property
    def holds(self) -> bool:
        return self.gate.holds(self.measured.estimate)

    @property
    def clear(self) -> bool:
        """Whether both ends of the interval give the same result."""
        return self.gate.holds(self.measured.low) == self.gate.holds(self.measured.high) == self.holds

    def message(self) -> str:
        measured, by = self.measured, f"{abs(self.measured.estimate - self.gate.limit):.4g}"
        verdict = f"holds: it is {measured.estimate:.4g}, with {by} to spare"
        if not self.holds:
            verdict = f"does not hold: it is {measured.estimate:.4g}, off by {by}"
        between = f"the 95 % interval [{measured.low:.4g}, {measured.high:.4g}]"
        if self.clear:
            return f"{self.gate} {verdict}; all of {between} agrees"
        return f"{self.gate} {verdict}; {between} crosses the limit, so other rows may say otherwise"

    def as_dict(self) -> dict[str, Any]:
        return {"gate": str(self.gate), "holds": self.holds, "clear": self.clear} | self.measured.as_dict()


def judge(gates: Sequence[Gate], measures: Mapping[str, Interval], change: Mapping[str, Interval]) -> list[GateResult]:
    """Check each condition against its metric, or against the metric's change."""
    return [GateResult(gate, (change if gate.change else measures)[gate.metric]) for gate in gates]


def require(judged: Sequence[GateResult]) -> None:
    """Raise GateFailed with every condition that does not hold."""
    failed = [gate.message() for gate in judged if not gate.holds]
    if failed:
        raise GateFailed("; ".join(failed) + ".")
