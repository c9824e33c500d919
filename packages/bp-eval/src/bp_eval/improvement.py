"""The loss of held-out rows before training and after it: whether the result is better than what it began with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bp_core.errors import OutOfMemory
from bp_core.examples import Example, spread
from bp_core.rail import Rail

from .bootstrap import Interval, Ratio, difference, interval
from .measures import FEW, losses

_MOST = 64  # rows, spread over those that are held out; each is computed alone


@dataclass(frozen=True)
class RowLosses:
    """Summed loss (nats) and trained tokens of each row."""

    nats: tuple[float, ...]
    tokens: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Nats a token, over all rows."""
        return sum(self.nats) / sum(self.tokens)

    @property
    def ratio(self) -> Ratio:
        return Ratio(self.nats, self.tokens)

    def as_dict(self) -> dict[str, Any]:
        return {"nats": list(self.nats), "tokens": list(self.tokens)}

    @classmethod
    def of(cls, record: Mapping[str, Any], key: str) -> RowLosses | None:
        """What a run's record keeps under a key; None where that is nothing."""
        kept = record.get(key)
        return cls(tuple(kept["nats"]), tuple(kept["tokens"])) if kept else None


@dataclass(frozen=True)
class Improvement:
    """Loss a token on `rows` held-out rows before and after, and after minus before; intervals of 95 %."""

    rows: int
    before: Interval
    after: Interval
    change: Interval

    @property
    def is_worse(self) -> bool:
        """Whether the loss rose, for all that these rows can tell."""
        return self.change.estimate > 0

    @property
    def verdict(self) -> str:
        """The change in words; from a few rows no interval is told, since it would be too narrow."""
        sense = "worse" if self.is_worse else "better"
        size = f"{abs(self.change.estimate):.3g}"
        if self.rows < FEW:
            rows = "1 row is" if self.rows == 1 else f"{self.rows} rows are"
            return f"{sense} by {size}; {rows} too few to be sure"
        if not self.change.excludes(0):
            return "no clear difference"
        low, high = sorted((abs(self.change.low), abs(self.change.high)))
        return f"{sense} by {size} [{low:.3g}, {high:.3g}]"


def row_losses(rail: Rail, held_out: Sequence[Example]) -> RowLosses | None:
    """The losses of held-out rows by the open model; None where memory does not suffice, as it did for training."""
    rows = spread(held_out, _MOST)
    try:
        found = losses(rail, rows, "", lambda progress: None)
    except OutOfMemory:
        rail.discard()
        return None
    return RowLosses(tuple(sums.loss for sums in found), tuple(float(sums.over) for sums in found))


def improvement(record: Mapping[str, Any]) -> Improvement | None:
    """What a run's record tells of it; None where rows were not measured before and after."""
    before, after = RowLosses.of(record, "rows_before"), RowLosses.of(record, "rows_after")
    if before is None or after is None or len(before.nats) != len(after.nats):
        return None
    change = difference(after.ratio, before.ratio)
    return Improvement(len(before.nats), interval(before.ratio), interval(after.ratio), change)
