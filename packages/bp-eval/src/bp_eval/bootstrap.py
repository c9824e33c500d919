"""How sure a number is: percentile bootstrap over rows (Efron and Tibshirani 1993, chapters 13 and 16).

Rows are drawn again, with replacement; what was measured on a row stays together. Of two models measured on the same
rows the same rows are drawn, so what makes a row hard for both does not blur their difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.95
RESAMPLES = 2000
_SEED = 42
_AT_ONCE = 1 << 20  # rows drawn at once, to bound the memory
Shape = Callable[[Any], Any]


def _as_it_is(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Interval:
    """A number and the interval that holds 95 % of what other draws of rows would have given."""

    estimate: float
    low: float
    high: float

    def excludes(self, value: float) -> bool:
        return not self.low <= value <= self.high

    def as_dict(self) -> dict[str, float | None]:
        """A JSON value: None for what is no finite number."""
        parts = {"estimate": self.estimate, "low": self.low, "high": self.high}
        return {name: value if math.isfinite(value) else None for name, value in parts.items()}


@dataclass(frozen=True)
class Ratio:
    """`shape` of a sum of `over` divided by a sum of `under`, both with one number a row: nats ÷ tokens, hits ÷ rows.

    A ratio of sums, not a mean of ratios: a token counts the same in a short row and in a long one.
    """

    over: Sequence[float]
    under: Sequence[float]
    shape: Shape = _as_it_is

    def of(self, picks: Any) -> Any:
        """The value for each line of row numbers [draws, rows]."""
        over, under = (np.asarray(part, dtype=np.float64)[picks].sum(axis=1) for part in (self.over, self.under))
        return self.shape(over / under)


def interval(ratio: Ratio) -> Interval:
    """A ratio over all rows."""
    return _percentiles(ratio.of, len(ratio.over))


def difference(ratio: Ratio, other: Ratio) -> Interval:
    """The first less the second, measured on the same rows."""
    assert len(ratio.over) == len(other.over), "both are measured on the same rows"
    return _percentiles(lambda picks: ratio.of(picks) - other.of(picks), len(ratio.over))


def mean_difference(groups: Sequence[tuple[Ratio, Ratio]]) -> Interval:
    """The mean over groups of rows, each drawn by itself, of the first less the second; each group counts the same."""

    def values(group: int, picks: Any) -> Any:
        first, second = groups[group]
        return first.of(picks) - second.of(picks)

    sizes = [len(first.over) for first, _ in groups]
    estimate = float(np.mean([values(number, np.arange(rows)[None])[0] for number, rows in enumerate(sizes)]))
    drawn = [
        np.concatenate([values(number, picks) for picks in _resamples(rows, number)])
        for number, rows in enumerate(sizes)
    ]
    return _around(estimate, np.mean(drawn, axis=0))


def _percentiles(statistic: Shape, rows: int) -> Interval:
    estimate = float(statistic(np.arange(rows)[None])[0])
    return _around(estimate, np.concatenate([statistic(picks) for picks in _resamples(rows)]))


def _around(estimate: float, values: Any) -> Interval:
    low, high = (float(value) for value in np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return Interval(estimate, min(low, estimate), max(high, estimate))  # else rounding could part equal numbers


def _resamples(rows: int, group: int = 0) -> Iterator[Any]:
    """Row numbers [draws, rows], the same ones every time: numpy promises these bits for ever."""
    bits = np.random.PCG64(np.random.SeedSequence(_SEED + group))
    at_once = max(1, _AT_ONCE // rows)
    for start in range(0, RESAMPLES, at_once):
        draws = min(at_once, RESAMPLES - start)
        yield (bits.random_raw(draws * rows) % rows).reshape(draws, rows).astype(np.int64)
