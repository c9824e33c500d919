"""How large the rows of a data set are, and the room there is for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

from bp_core.rail import Probe

from .memory import Load


@dataclass(frozen=True)
class Room:
    """Where training happens: the kind of device, its free bytes (None: not known), its fast number format."""

    device: str
    free: int | None
    dtype: str

    @classmethod
    def of(cls, backend: str, probe: Probe) -> Room:
        """The room on a machine that a rail has looked at."""
        return cls(backend, probe.free or None, probe.dtype or "auto")


@dataclass(frozen=True)
class Rows:
    """How large rows are: `tokens[k]` and `targets[k]` bound any k + 1 rows together.

    Where answers are rated, so many are `desirable`.
    """

    tokens: tuple[int, ...]
    targets: tuple[int, ...]
    desirable: int | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def largest(self, count: int) -> Load:
        """The most that `count` rows can be."""
        last = min(count, len(self.tokens)) - 1
        return Load(self.tokens[last], self.targets[last], self.tokens[0])


def rows_of(sizes: Iterable[tuple[int, int]], desirable: int | None = None) -> Rows:
    """`sizes`: tokens and targets of each row."""
    tokens, targets = (tuple(accumulate(sorted(column, reverse=True))) for column in zip(*sizes, strict=True))
    return Rows(tokens, targets, desirable)


def alike(count: int, length: int) -> Rows:
    """Rows of which nothing is known but their greatest length: each full, and every token learned."""
    sizes = tuple(length * (number + 1) for number in range(count))
    return Rows(sizes, sizes)
