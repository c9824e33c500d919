"""Telling how far a long check is."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

from bp_core.events import Notify, Progress

from ..reading.files import Data

QUIET = 2.0  # seconds before progress is told
_BLOCK = 1 << 20


class CheckProgress:
    """Tells how far it is, once it has taken two seconds. JSON lines are counted for that, which is quick."""

    def __init__(self, data: Data, notify: Notify | None) -> None:
        self._data, self._notify = data, notify
        self._began = monotonic()
        self._total = -1

    def __call__(self, stage: str, done: int) -> None:
        if self._notify and monotonic() - self._began > QUIET:
            if self._total < 0:
                self._total = _lines(self._data)
            self._notify(Progress(stage, done, max(done, self._total) if self._total else 0))


def _lines(data: Data) -> int:
    """How many lines a file of JSON lines has; 0 for everything else."""
    if not isinstance(data, str | Path) or Path(data).suffix.lower() not in (".jsonl", ".ndjson"):
        return 0
    if not Path(data).is_file():
        return 0
    with Path(data).open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK), b""))
