"""Confidence intervals by the percentile bootstrap over rows (Efron and Tibshirani 1993, chapters 13 and 16).

Rows are drawn again, with replacement. For two models measured on the same rows the same rows are drawn, so that rows
that are hard for both do not blur the difference (a paired bootstrap).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

LEVEL = 0.95
RESAMPLES = 2000
_SEED = 42
_AT_ONCE = 1 << 20  # rows drawn at once, which bounds the memory
Shape = Callable[[Any], Any]


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % bootstrap interval."""

    estimate: float
    low: float
    high: float

    def excludes(self, value: float) -> bool:
        return not self.low <= value <= self.high

    def as_dict(self) -> dict[str, float | None]:
        """The interval as a JSON value; numbers that are not finite become None."""
        parts = {"estimate": self.estimate, "low": self.low, "high": self.high}
        return {name: value if math.isfinite(value) else None for name, value in parts.items()}


@dataclass(frozen=True)
class Ratio:
    """Sum of `over` / sum of `under`, both with one number a row: nats and tokens, or hits and rows.

    A ratio of sums, not a mean of ratios, so that each token counts the same in a short row and in a long one.
    `shape` is a function to apply to the result.
    """

    over: Sequence[float]
    under: Sequence[float]
    shape: Shape | None = None

    def of(self, picks: Any) -> Any:
        """The value of each draw, float64 [draws]. picks: row numbers, int64 [draws, rows]."""
        over = np.asarray(self.over, dtype=np.float64)[picks].sum(axis=1)
        under = np.asarray(self.under, dtype=np.float64)[picks].sum(axis=1)
        ratios = over / under
        return self.shape(ratios) if self.shape else ratios


def interval(ratio: Ratio) -> Interval:
    """A ratio over all rows, with its interval."""
    return _around(*_draws(ratio.of, len(ratio.over)))


def difference(ratio: Ratio, other: Ratio) -> Interval:
    """`ratio` minus `other`, measured on the same rows, with its interval."""
    assert len(ratio.over) == len(other.over), "both are measured on the same rows"
    return _around(*_draws(partial(_minus, ratio, other), len(ratio.over)))


def mean_difference(groups: Sequence[tuple[Ratio, Ratio]]) -> Interval:
    """The mean over groups of rows of (first minus second); groups are resampled separately and count the same."""
    estimates, drawn = [], []
    for number, (first, second) in enumerate(groups):
        estimate, values = _draws(partial(_minus, first, second), len(first.over), number)
        estimates.append(estimate)
        drawn.append(values)
    return _around(float(np.mean(estimates)), np.mean(drawn, axis=0))


def _minus(first: Ratio, second: Ratio, picks: Any) -> Any:
    return first.of(picks) - second.of(picks)


def _draws(statistic: Shape, rows: int, group: int = 0) -> tuple[float, Any]:
    """The statistic over all rows, and of each draw [RESAMPLES]."""
    values = [statistic(picks) for picks in _resamples(rows, group)]
    return float(statistic(np.arange(rows)[None])[0]), np.concatenate(values)


def _around(estimate: float, values: Any) -> Interval:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Interval(estimate, min(low, estimate), max(high, estimate))  # rounding may put equal numbers apart


def _resamples(rows: int, group: int) -> Iterator[Any]:
    """Random row numbers, int64 [draws, rows], the same every time: numpy keeps the bits of PCG64 stable."""
    bits = np.random.PCG64(np.random.SeedSequence(_SEED + group))
    at_once = max(1, _AT_ONCE // rows)
    for start in range(0, RESAMPLES, at_once):
        draws = min(at_once, RESAMPLES - start)
        yield (bits.random_raw(draws * rows) % rows).reshape(draws, rows).astype(np.int64)
