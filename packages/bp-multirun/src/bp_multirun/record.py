"""The record of a session: which stages were merged, and each adapter's scores on the held-out rows of each stage."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bp_core.errors import CheckpointUnusable
from bp_core.folders import damage, write_json

RECORD_FILE = "session.json"
GENERAL = "general"  # the name of a set of rows that belongs to no stage
_VERSION = 1
_PREFIX = "state-"


@dataclass(frozen=True)
class Stage:
    """One stage of training: `name` for the user, `digest` identifies its data."""

    name: str
    digest: str


@dataclass(frozen=True)
class Score:
    """One adapter's score on one set of rows, with one number a row: summed loss (nats) and trained tokens.

    `right`, for pairs of answers: 1 where the better one is likelier, else 0; empty for other rows.
    """

    nats: Sequence[float]
    over: Sequence[float]
    right: Sequence[float] = ()

    @property
    def loss(self) -> float:
        """Nats per token."""
        return sum(self.nats) / sum(self.over)


Scores = Mapping[str, Score]  # by set of rows: "1", "2", … of the stages, and GENERAL


@dataclass(frozen=True)
class Entry(Stage):
    """A finished stage. Scores of the base model, of its adapter before merging, and of the merged one, even if that
    was refused. `rise`: by how much merging raised the mean loss of the earlier stages. `drift`: `Merger.drift`."""

    accepted: bool
    rise: float | None
    base: Scores
    unmerged: Scores
    merged: Scores
    drift: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """A session so far. `facts` must stay the same for its adapters to be merged and compared."""

    facts: Mapping[str, Any]
    entries: tuple[Entry, ...] = ()

    @property
    def accepted(self) -> tuple[int, ...]:
        """The numbers, from 1, of the accepted stages."""
        return tuple(number for number, entry in enumerate(self.entries, 1) if entry.accepted)

    def standing(self) -> Scores:
        """The scores of the current merged adapter; empty before the first stage."""
        return next((entry.merged for entry in reversed(self.entries) if entry.accepted), {})

    def write(self, folder: Path) -> None:
        write_json(folder / RECORD_FILE, {"version": _VERSION, **dataclasses.asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> Record:
        """Raises CheckpointUnusable for a record of another version."""
        value = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        if value["version"] != _VERSION:
            message = f"the session is of version {value['version']}, not {_VERSION}."
            raise CheckpointUnusable(message, where=str(folder), fix="Start a new session in another --output.")
        return cls(value["facts"], tuple(_entry(entry) for entry in value["entries"]))


def states(folder: Path) -> list[Path]:
    """The undamaged states of a session, newest first."""
    paths = sorted(folder.glob(f"{_PREFIX}*"), reverse=True)
    return [path for path in paths if damage(path) is None]


def state_place(folder: Path, count: int) -> Path:
    """The folder of the state after `count` stages."""
    return folder / f"{_PREFIX}{count:04d}"


def _entry(value: Mapping[str, Any]) -> Entry:
    scores = {kind: {s: Score(**score) for s, score in value[kind].items()} for kind in ("base", "unmerged", "merged")}
    return Entry(**{**value, **scores})
