"""How far two models are apart on the same tokens, in float64."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

NOISE = 2e-5  # nats per token that float16 alone may cost; an adapter that moves less cannot be told from it
# Below this many nats per token an adapter's changes are of the size of a float16's last bit, and rounding the merged
# weights takes a part of them for good: 16 % of an adapter that moved SmolLM2 by 0.005, nothing at 2.
WEAK = 0.02
STRICT = 0.1  # how far from 1 the strength of any other adapter may be in a float16 file

_ROWS = 32  # a chunk of 32 rows × 150 000 tokens × 8 bytes is 38 MB
_TIE = 0.01  # log-probabilities this close are the same choice
# A choice turned round by rounding: the gap between two tokens changes by the difference of their two errors, whose
# standard deviation is √2 × the noise. 8 × the noise is 5.7 of those: one place in 10^8, were the errors normal.
TURNED = 8.0
USUAL = 4.0  # noise above so many times the median over all places is more than rounding, and is not allowed for


def distinct_places(rows: Iterable[Sequence[int]]) -> list[np.ndarray]:
    """Of each row of tokens the places to judge: those whose context, the tokens up to there, no earlier place has.

    Rows that begin alike, with a system message say, give the same logits at the same places; they are one observation.
    int64 [places] for each row.
    """
    seen: set[tuple[int, ...]] = set()
    found = []
    for row in rows:
        contexts = [tuple(row[: place + 1]) for place in range(len(row))]
        found.append(np.array([place for place, context in enumerate(contexts) if context not in seen], np.int64))
        seen.update(contexts)
    return found


@dataclass
class Divergence:
    """Sums over rows of logits [n, vocabulary] of a reference and of another model."""

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
        """Share of rows where the other model's first choice is the reference's too; ties count as the same."""
        return self.same / max(self.rows, 1)


@dataclass
class FirstChoices:
    """Where another model prefers another next token than a reference, and whether rounding explains it.

    At each place the noise is measured: the standard deviation, over the vocabulary, of the difference between the two
    models' logits (one constant added to all of them changes nothing). A choice counts as turned round where the
    reference's own gap, from its first choice to the other model's, is more than `TURNED` times the noise there. Of
    noise that is more than `USUAL` times the median over all places only so much is allowed for.
    """

    gaps: list[float] = field(default_factory=list)  # of each place, in nats; 0 where the choice is the same
    noises: list[float] = field(default_factory=list)  # of each place, in logits

    def add(self, reference: np.ndarray, other: np.ndarray) -> None:
        """Take the logits [places, vocabulary] of both models."""
        for truth, guess in zip(_split(reference), _split(other), strict=True):
            wide = truth.astype(np.float64)
            chosen = np.take_along_axis(wide, guess.argmax(1)[:, None], 1)[:, 0]
            self.gaps += (wide.max(1) - chosen).tolist()
            self.noises += (guess - wide).std(1).tolist()

    @property
    def ratios(self) -> np.ndarray:
        """Of each place the gap in units of the noise that is allowed for there; 0 where the choice is the same."""
        noises = np.array(self.noises)
        allowed = np.minimum(noises, USUAL * np.median(noises)) if len(noises) else noises
        ratios: np.ndarray = np.array(self.gaps) / np.maximum(allowed, 1e-12)
        return ratios

    @property
    def turned(self) -> int:
        """How many places choose another token although rounding does not explain it."""
        return int((self.ratios > TURNED).sum())


@dataclass
class Strength:
    """How much of an adapter is in a model: 1 all of it, 0 none, 2 twice.

    The step from base to adapter is the unit: the model's own step is projected on it, in log-probabilities under the
    adapter's distribution. To second order a model is nearer to the base than to the adapter exactly below 1/2.
    """

    along: float = 0.0
    unit: float = 0.0
    moved: Divergence = field(default_factory=Divergence)

    def add(self, base: np.ndarray, adapter: np.ndarray, model: np.ndarray) -> None:
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
        """Whether float16 may take a part of the adapter."""
        return self.moved.mean < WEAK

    def limit(self, noise: float | None = None) -> float:
        """How far from 1 a strength may be; from 1 on, a dropped adapter could not be told from a good one.

        `noise` is what quantisation cost, in nats per token; without, there is only float16's rounding. Noise shifts
        the strength by cos × √(noise / moved), cos being how far it points where the adapter does: anything up to 1
        for rounding, and up to 1/4 for quantisation, whose noise mostly points elsewhere (0.12 measured).
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
        places = np.flatnonzero(np.asarray(trained)[1:])
        for (part,), wanted in zip(_chunks(logits[places]), _split(np.asarray(tokens)[places + 1]), strict=True):
            self.total -= float(np.take_along_axis(part, wanted[:, None], 1).sum())
        self.count += len(places)

    @property
    def mean(self) -> float:
        return self.total / max(self.count, 1)


def _chunks(*logits: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Log-probabilities of several models on the same rows, a few rows at a time."""
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
