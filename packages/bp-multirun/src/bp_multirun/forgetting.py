"""What was forgotten: the matrix of losses, and the numbers that the field reads off it.

`R[i][t]`, the loss of stage i's held-out rows after stage t, as in GEM (Lopez-Paz and Ranzato, arXiv:1706.08840), which
has accuracies there; so that more is better in both, backward transfer is the fall of the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .record import GENERAL, Record, Score


@dataclass(frozen=True)
class Retained:
    """One earlier stage of the result: what its rows scored when it was merged, and what they score now."""

    number: int
    then: Score
    now: Score


def matrix(record: Record) -> list[list[float | None]]:
    """Losses [stage][after stage], nats a token. None before a stage, and after one that was refused."""
    count = len(record.entries)
    return [
        [
            entry.merged[str(row)].loss if entry.accepted and str(row) in entry.merged else None
            for entry in record.entries
        ]
        for row in range(1, count + 1)
    ]


def general(record: Record) -> list[float | None]:
    """The loss of the rows that belong to no stage: of the base, then after each stage."""
    if not record.entries:
        return []
    losses = [entry.merged[GENERAL].loss if entry.accepted else None for entry in record.entries]
    return [record.entries[0].base[GENERAL].loss, *losses]


def average(record: Record) -> float | None:
    """The mean loss of the stages in the result, each counting the same; None without any."""
    now = record.standing()
    losses = [now[str(number)].loss for number in record.accepted]
    return sum(losses) / len(losses) if losses else None


def retained(record: Record) -> list[Retained]:
    """The stages of the result that others followed."""
    now = record.standing()
    return [
        Retained(number, record.entries[number - 1].merged[str(number)], now[str(number)])
        for number in record.accepted[:-1]
    ]


def backward_transfer(found: Sequence[Retained]) -> float | None:
    """Mean fall of the loss of earlier stages since each was merged: below 0 they were forgotten. None without any."""
    falls = [stage.then.loss - stage.now.loss for stage in found]
    return sum(falls) / len(falls) if falls else None


def price(record: Record) -> float | None:
    """By how much the newest stage's loss is higher after merging than before it: what merging costs. None at none."""
    if not record.accepted:
        return None
    number = record.accepted[-1]
    entry, own = record.entries[number - 1], str(number)
    return entry.merged[own].loss - entry.unmerged[own].loss
