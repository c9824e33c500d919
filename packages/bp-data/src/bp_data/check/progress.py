"""Progress of a long check."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

from bp_core.events import Notify, Progress

from ..reading.files import Data

QUIET = 2.0  # seconds before progress is reported
_BLOCK = 1 << 20


class CheckProgress:
    """Reports progress after the first two seconds; for JSON lines with a total, which is quick to count."""

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
    """The number of lines of a JSON lines file; 0 for other data."""
    if not isinstance(data, str | Path) or Path(data).suffix.lower() not in (".jsonl", ".ndjson"):
        return 0
    if not Path(data).is_file():
        return 0
    with Path(data).open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK), b""))
