"""A histogram of row lengths in powers of two, in characters, or in tokens if there is a tokenizer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Bar:
    """The number of rows with `low` to `high` characters or tokens, both included."""

    low: int
    high: int
    rows: int


class Lengths:
    """Collects the lengths of rows in constant memory."""

    def __init__(self) -> None:
        self._bits: Counter[int] = Counter()
        self.total = self.longest = 0

    def add(self, length: int) -> None:
        self._bits[length.bit_length()] += 1
        self.total += length
        self.longest = max(self.longest, length)

    def bars(self) -> list[Bar]:
        """The bars from the shortest to the longest, empty ones between them included."""
        if not self._bits:
            return []
        return [
            Bar(1 << bits >> 1, (1 << bits) - 1, self._bits[bits])
            for bits in range(min(self._bits), max(self._bits) + 1)
        ]

    def as_dict(self) -> dict[str, Any]:
        bars = [{"from": bar.low, "to": bar.high, "rows": bar.rows} for bar in self.bars()]
        return {"total": self.total, "longest": self.longest, "histogram": bars}
