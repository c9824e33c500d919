"""Forgetting: the matrix of losses, and the usual measures derived from it.

`R[i][t]` is the loss of stage i's held-out rows after stage t, as in GEM (Lopez-Paz and Ranzato, arXiv:1706.08840). GEM
uses accuracies; so that higher is better here too, backward transfer is the fall of the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .record import GENERAL, Entry, Record, Score


@dataclass(frozen=True)
class StageRetention:
    """The score of an earlier stage's rows just after it was merged, and now."""

    number: int
    then: Score
    now: Score


def matrix(record: Record) -> list[list[float | None]]:
    """Losses [stage][after stage], in nats per token. None before the stage, and after one that was refused."""
    names = [str(number) for number in range(1, len(record.entries) + 1)]
    return [[_loss(entry, name) for entry in record.entries] for name in names]


def _loss(entry: Entry, name: str) -> float | None:
    return entry.merged[name].loss if entry.accepted and name in entry.merged else None


def general(record: Record) -> list[float | None]:
    """The loss of the general rows, which belong to no stage: of the base model, then after each stage."""
    if not record.entries:
        return []
    losses = [_loss(entry, GENERAL) for entry in record.entries]
    return [record.entries[0].base[GENERAL].loss, *losses]


def average(record: Record) -> float | None:
    """The mean loss of the accepted stages, each counting the same; None without any."""
    now = record.standing()
    return _mean([now[str(number)].loss for number in record.accepted])


def retained(record: Record) -> list[StageRetention]:
    """The accepted stages but the last."""
    now = record.standing()
    return [
        StageRetention(number, record.entries[number - 1].merged[str(number)], now[str(number)])
        for number in record.accepted[:-1]
    ]


def backward_transfer(stages: Sequence[StageRetention]) -> float | None:
    """Mean fall of the loss of earlier stages since each was merged; negative if they were forgotten."""
    return _mean([stage.then.loss - stage.now.loss for stage in stages])


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def merge_cost(record: Record) -> float | None:
    """The rise of the newest stage's loss by merging it; None without any accepted stage."""
    if not record.accepted:
        return None
    number = record.accepted[-1]
    entry, own = record.entries[number - 1], str(number)
    return entry.merged[own].loss - entry.unmerged[own].loss
