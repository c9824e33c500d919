"""How far two models differ on the same tokens, computed in float64."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

NOISE = 2e-5  # nats per token that float16 alone may cost; a smaller change by an adapter cannot be measured
# Below this many nats per token an adapter's changes are about as small as float16's last bit, and rounding the merged
# weights loses a part of them: 16 % of an adapter that moved SmolLM2 by 0.005, nothing at 2.
WEAK = 0.02
STRICT = 0.1  # allowed distance from 1 of any other adapter's strength in a float16 file

_ROWS = 32  # a chunk of 32 rows × 150 000 tokens × 8 bytes is 38 MB
_TIE = 0.01  # log-probabilities this close are the same choice
# Rounding changes the gap between two tokens by the difference of their errors, whose standard deviation is √2 × the
# noise. 8 × the noise is 5.7 of those: one position in 10^8 if errors are normally distributed.
TURNED = 8.0
USUAL = 4.0  # noise is capped at this many times its median over all positions; more is not rounding


def distinct_positions(rows: Iterable[Sequence[int]]) -> list[np.ndarray]:
    """For each row of tokens the positions whose context (all tokens up to there) is new; int64 [positions].

    Rows that start alike, for example with the same system message, give the same logits there: one observation.
    """
    seen: set[tuple[int, ...]] = set()
    positions = []
    for row in rows:
        contexts = [tuple(row[: position + 1]) for position in range(len(row))]
        new = [position for position, context in enumerate(contexts) if context not in seen]
        positions.append(np.array(new, np.int64))
        seen.update(contexts)
    return positions


@dataclass
class Divergence:
    """Divergence of a model from a reference; `add` takes logits of both, [rows, vocabulary]."""

    rows: int = 0
    total: float = 0.0
    same: int = 0

    def add(self, reference: np.ndarray, other: np.ndarray) -> None:
        for truth, guess in _chunks(reference, other):
            self.total += float((np.exp(truth) * (truth - guess)).sum())
            chosen = np.take_along_axis(truth, guess.argmax(1)[:, None], 1)[:, 0]
            self.same += int((chosen >= truth.max(1) - _TIE).sum())
            self.rows += len(truth)

    @property
    def mean(self) -> float:
        """Mean Kullback–Leibler divergence, in nats per token."""
        return self.total / max(self.rows, 1)

    @property
    def top1(self) -> float:
        """Share of rows where both models prefer the same token; ties count as the same."""
        return self.same / max(self.rows, 1)


@dataclass
class FirstChoices:
    """Where a model prefers another next token than the reference, and whether rounding explains it.

    The noise at a position is the standard deviation, over the vocabulary, of the difference between the two models'
    logits. A choice counts as changed if the reference's gap between its own choice and the other model's is more than
    `TURNED` times the noise. Noise is capped at `USUAL` times its median over all positions.
    """

    gaps: list[float] = field(default_factory=list)  # per position, in nats; 0 where the choice is the same
    noises: list[float] = field(default_factory=list)  # per position, in logits

    def add(self, reference: np.ndarray, other: np.ndarray) -> None:
        """Logits of both models, [positions, vocabulary]."""
        for truth, guess in zip(_split(reference), _split(other), strict=True):
            wide = truth.astype(np.float64)
            chosen = np.take_along_axis(wide, guess.argmax(1)[:, None], 1)[:, 0]
            self.gaps += (wide.max(1) - chosen).tolist()
            self.noises += (guess - wide).std(1).tolist()

    @property
    def ratios(self) -> np.ndarray:
        """Per position, gap / allowed noise; 0 where the choice is the same."""
        noises = np.array(self.noises)
        allowed = np.minimum(noises, USUAL * np.median(noises)) if len(noises) else noises
        ratios: np.ndarray = np.array(self.gaps) / np.maximum(allowed, 1e-12)
        return ratios

    @property
    def turned(self) -> int:
        """How many positions prefer another token without rounding explaining it."""
        return int((self.ratios > TURNED).sum())


@dataclass
class Strength:
    """How much of an adapter is in a model: 1 all of it, 0 none, 2 twice.

    The change from base to model is projected on the change from base to adapter, in log-probabilities weighted by the
    adapter's distribution. To second order, a model with less than 1/2 is nearer to the base than to the adapter.
    """

    along: float = 0.0
    unit: float = 0.0
    moved: Divergence = field(default_factory=Divergence)

    def add(self, base: np.ndarray, adapter: np.ndarray, model: np.ndarray) -> None:
        """Logits of all three, [positions, vocabulary]."""
        self.moved.add(adapter, base)
        for start, other, there in _chunks(base, adapter, model):
            weight = np.exp(other)
            unit, step = other - start, there - start
            unit = unit - (weight * unit).sum(1, keepdims=True)
            self.along += float((weight * unit * step).sum())
            self.unit += float((weight * unit * unit).sum())

    @property
    def value(self) -> float:
        return self.along / self.unit if self.unit else 1.0

    @property
    def weak(self) -> bool:
        """Whether rounding to float16 may lose a part of the adapter."""
        return self.moved.mean < WEAK

    def limit(self, noise: float | None = None) -> float:
        """Allowed distance of the strength from 1. At 1 or more, a missing adapter could not be noticed.

        `noise` is the divergence caused by quantisation, in nats per token; None for float16's rounding alone. Noise
        shifts the strength by cos × √(noise / moved), where cos is its alignment with the adapter: up to 1 for
        rounding, at most 1/4 for quantisation (0.12 measured).
        """
        if noise is None:
            return max(0.5 if self.weak else STRICT, math.sqrt(NOISE / max(self.moved.mean, NOISE)))
        return max(0.25, math.sqrt(noise / max(self.moved.mean, noise / 16)) / 4)


@dataclass
class Loss:
    """Cross-entropy on trained tokens. Row i of the logits predicts token i + 1."""

    total: float = 0.0
    count: int = 0

    def add(self, logits: np.ndarray, tokens: Sequence[int], trained: Sequence[int]) -> None:
        """Logits [tokens, vocabulary] of a row; `trained` is 1 for each trained token, else 0."""
        positions = np.flatnonzero(np.asarray(trained)[1:])
        for (part,), targets in zip(_chunks(logits[positions]), _split(np.asarray(tokens)[positions + 1]), strict=True):
            self.total -= float(np.take_along_axis(part, targets[:, None], 1).sum())
        self.count += len(positions)

    @property
    def mean(self) -> float:
        return self.total / max(self.count, 1)


def _chunks(*logits: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Log-probabilities [rows, vocabulary] of several models on the same rows, a few rows at a time."""
    for parts in zip(*map(_split, logits), strict=True):
        yield tuple(_log_softmax(part) for part in parts)


def _split(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), _ROWS):
        yield rows[start : start + _ROWS]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    wide -= wide.max(1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(1, keepdims=True))
    return wide
