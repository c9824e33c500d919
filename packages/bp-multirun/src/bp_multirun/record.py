"""What a session knows of its stages: which were merged, and what each adapter scored on the rows held out of each."""

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
    """One pass of training: `name` for people, `digest` tells its data from others."""

    name: str
    digest: str


@dataclass(frozen=True)
class Score:
    """What one adapter makes of one set of rows, row by row: summed loss in nats, trained tokens.

    `right`, of pairs of answers: 1 where the better one is the likelier, else 0; empty for other rows.
    """

    nats: Sequence[float]
    over: Sequence[float]
    right: Sequence[float] = ()

    @property
    def loss(self) -> float:
        """Nats a token."""
        return sum(self.nats) / sum(self.over)


Scores = Mapping[str, Score]  # by set: "1", "2", … are the stages', GENERAL belongs to none


@dataclass(frozen=True)
class Entry:
    """A stage that is done. `merged` are the scores of what was the result once it was done: of the candidate, if that
    was refused, then `rise` says by how much it worsened the earlier stages. `drift` are numbers of the merge."""

    name: str
    digest: str
    accepted: bool
    rise: float | None
    base: Scores
    unmerged: Scores
    merged: Scores
    drift: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """A session so far. `facts` are what must stay the same for its adapters to be merged and compared."""

    facts: Mapping[str, Any]
    entries: tuple[Entry, ...] = ()

    @property
    def accepted(self) -> tuple[int, ...]:
        """The numbers of the stages in the result, from 1."""
        return tuple(number for number, entry in enumerate(self.entries, 1) if entry.accepted)

    def standing(self) -> Scores:
        """What the result scored when it last changed; nothing before the first."""
        return next((entry.merged for entry in reversed(self.entries) if entry.accepted), {})

    def with_(self, entry: Entry) -> Record:
        return dataclasses.replace(self, entries=(*self.entries, entry))

    def write(self, folder: Path) -> None:
        write_json(folder / RECORD_FILE, {"version": _VERSION, **dataclasses.asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> Record:
        """Raises CheckpointUnusable for a record that another version wrote."""
        value = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        if value["version"] != _VERSION:
            message = f"the session is of version {value['version']}, not {_VERSION}."
            raise CheckpointUnusable(message, where=str(folder), fix="Start a new session in another --output.")
        return cls(value["facts"], tuple(_entry(entry) for entry in value["entries"]))


def states(folder: Path) -> list[Path]:
    """The whole states of a session, the newest first; what a killed process left half written is not among them."""
    found = sorted(folder.glob(f"{_PREFIX}*"), reverse=True)
    return [path for path in found if damage(path) is None]


def state_place(folder: Path, count: int) -> Path:
    """Where the state after `count` stages belongs."""
    return folder / f"{_PREFIX}{count:04d}"


def _entry(value: Mapping[str, Any]) -> Entry:
    scores = {kind: {s: Score(**score) for s, score in value[kind].items()} for kind in ("base", "unmerged", "merged")}
    return Entry(**{**value, **scores})
