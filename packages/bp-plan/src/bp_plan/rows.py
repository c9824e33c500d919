"""The sizes of a data set's rows, and the device that will train on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from bp_core.choices import Mode
from bp_core.rail import Probe
from bp_core.step_sizes import SHORT_SEGMENT, kept_weights

from .memory import GIB
from .training_step import MicroBatchSize

# What a desktop may want more while training runs: a window opened, a film played. A choice, not measured.
_SCREEN_RESERVE = GIB // 2


@dataclass(frozen=True)
class DeviceInfo:
    """Where training happens: the backend, free memory in bytes (None: unknown), and its fast number format.

    `reserve`: bytes that are free, but left to a desktop; `free` is without them. `lacks`: the modes that cannot run
    here, each with what is missing, as the end of a sentence that begins with the mode.
    """

    backend: str
    free: int | None
    dtype: str
    reserve: int = 0
    lacks: Mapping[Mode, str] = field(default_factory=dict)

    @classmethod
    def of(cls, backend: str, probe: Probe, lacks: Mapping[Mode, str] | None = None) -> DeviceInfo:
        """What a rail's `probe()` found."""
        reserve = min(probe.free, _SCREEN_RESERVE) if probe.shows_screen else 0
        return cls(backend, probe.free - reserve or None, probe.dtype or "auto", reserve, lacks or {})


@dataclass(frozen=True)
class RowSizes:
    """How long the rows are: `tokens[k]`, `targets[k]` and `weights[k]` are upper bounds for any k + 1 rows together.

    `targets` counts trained tokens, `weights` the attention weights that a head keeps on a processor. `desirable` is
    the number of answers rated good, None without ratings.
    """

    tokens: tuple[int, ...]
    targets: tuple[int, ...]
    weights: tuple[int, ...]
    desirable: int | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def largest(self, count: int) -> MicroBatchSize:
        """The largest micro-batch of `count` rows."""
        sums = self.tokens[: min(count, len(self.tokens))]
        return MicroBatchSize(sums[-1], self.targets[len(sums) - 1], sums[0], self.weights[len(sums) - 1])


def row_sizes(sizes: Iterable[tuple[int, int, int]], desirable: int | None = None) -> RowSizes:
    """From (tokens, trained tokens, attention weights that a head keeps) of each row."""
    tokens, targets, weights = map(_largest_sums, zip(*sizes, strict=True))
    return RowSizes(tokens, targets, weights, desirable)


def full_rows(count: int, length: int, *, packed: bool = False) -> RowSizes:
    """The worst case when only the maximum length is known: every row full, every token trained.

    `packed`: a row may hold many examples; those of SHORT_SEGMENT tokens keep the most.
    """
    weights = kept_weights(length)
    if packed:
        weights = length // SHORT_SEGMENT * kept_weights(SHORT_SEGMENT) + kept_weights(length % SHORT_SEGMENT)
    return row_sizes([(length, length, weights)] * count)


def _largest_sums(counts: Iterable[int]) -> tuple[int, ...]:
    return tuple(accumulate(sorted(counts, reverse=True)))
