"""The check: one pass over the rows, then what only shows when all have been seen, then the repair."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from time import monotonic

from bp_core.config import CheckConfig
from bp_core.errors import BadValue
from bp_core.events import Notify, Progress

from ..chat import ChatTokenizer
from ..decode import STDIN
from ..files import Data, read
from .inspection import Inspection
from .repair import Plan, refuse_existing_copy, repair
from .report import Report

_CHUNK = 512  # rows for the tokenizer's and the hasher's threads at once
_QUIET = 2.0  # seconds before progress is told
_BLOCK = 1 << 20


def check(
    data: Data,
    settings: CheckConfig | None = None,
    tokenizer: ChatTokenizer | None = None,
    on_progress: Notify | None = None,
) -> Report:
    """Find the faults of a data file, or of what else `read` takes; `tokenizer` is that of `settings.model`.

    A fault of a row is a finding. Raises BadValue, OutputUnusable, the errors of reading for a file that cannot be
    opened or is empty, any error of `settings.against`, and NoTarget if a repair would leave no row.
    """
    settings = settings or CheckConfig()
    if settings.fix:
        _refuse_reading_once(data)
        refuse_existing_copy(settings.fix)
    work = Inspection(settings, tokenizer)
    rows = read(data, fault=work.unread)
    progress = _Pace(data, on_progress)
    while chunk := list(islice(rows, _CHUNK)):
        work.add(chunk)
        progress("check", len(work.places))
    work.finish()
    repaired = None
    if settings.fix:
        plan = Plan(settings.fix, work.verdicts, lambda done: progress("repair", done))
        repaired = repair(data, plan)
    return Report(
        rows=len(work.places),
        unread=work.unreadable,
        formats=dict(work.formats),
        findings=work.findings,
        characters=work.characters,
        tokens=work.tokens,
        repaired=repaired,
    )


def _refuse_reading_once(data: Data) -> None:
    if str(data) == STDIN or isinstance(data, Iterator):
        message = "a repair reads the rows twice, and these can be read once."
        raise BadValue(message, fix="Save them to a file first.")


class _Pace:
    """Tells how far it is, once it has taken two seconds. JSON lines are counted for that, which is quick."""

    def __init__(self, data: Data, notify: Notify | None) -> None:
        self._data, self._notify = data, notify
        self._began = monotonic()
        self._total = -1

    def __call__(self, stage: str, done: int) -> None:
        if self._notify and monotonic() - self._began > _QUIET:
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
