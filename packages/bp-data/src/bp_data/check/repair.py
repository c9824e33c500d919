"""The repaired copy: without rows that training would refuse and without duplicates, the others cleaned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bp_core.config import DataConfig
from bp_core.errors import BackpropagateError, BadValue, FileEmpty, FileUnreadable, NoTarget

from ..reading.files import Data, read
from ..reading.jsonl import line, new_lines, refuse_existing
from .characters import clean
from .inspection import CODES, KEEP
from .report import RepairReport

_NAMES = {code: name for name, code in CODES.items()}
_EVERY = 4096  # rows between two progress reports


@dataclass(frozen=True, slots=True)
class Plan:
    """Where to write, and for each readable row KEEP or the code of the fault to leave it out for."""

    target: str
    verdicts: bytearray
    on_progress: Callable[[int], None]
    reading: DataConfig


def refuse_target(target: str) -> None:
    """Raises OutputUnusable if a file of the repair exists, BadValue if `target` does not end in .jsonl."""
    if Path(target).suffix.lower() != ".jsonl":
        raise BadValue(f"a repaired copy is JSON lines, and {target} does not end in .jsonl.", fix="Name it so.")
    refuse_existing(Path(target))
    refuse_existing(_changes(target))


def repair(data: Data, plan: Plan) -> RepairReport:
    """Read the data again, and write the rows to keep. Raises NoTarget, FileUnreadable, OutputUnusable."""
    with new_lines(Path(plan.target)) as copy, new_lines(_changes(plan.target)) as log:
        changes = _Changes(log)
        rows = 0
        for number, row in enumerate(read(data, plan.reading, changes.unread)):
            if number == len(plan.verdicts):
                break
            verdict = plan.verdicts[number]
            if verdict != KEEP:
                changes.left_out(row.where, _NAMES[verdict])
            else:
                copy.write(line(changes.cleaned(row.value, row.where)))
                rows += 1
            if number % _EVERY == 0:
                plan.on_progress(number)
        return changes.done(plan, rows)


def _changes(target: str) -> Path:
    return Path(target).with_suffix(".changes.jsonl")


class _Changes:
    """Writes the list of changed rows, and counts them."""

    def __init__(self, log: BinaryIO) -> None:
        self._log = log
        self._left_out: Counter[str] = Counter()
        self._removed: Counter[str] = Counter()
        self._cleaned = 0

    def unread(self, error: BackpropagateError) -> None:
        if not isinstance(error, FileEmpty):
            self.left_out(error.where or "", "bad-encoding" if isinstance(error, FileUnreadable) else "broken-row")

    def left_out(self, place: str, kind: str) -> None:
        self._left_out[kind] += 1
        self._log.write(line({"place": place, "change": "left out", "kind": kind}))

    def cleaned(self, value: Mapping[str, object], place: str) -> Mapping[str, object]:
        result, removed = clean(value)
        if removed:
            self._cleaned += 1
            counts = {kind: len(characters) for kind, characters in removed.items()}
            self._removed.update(counts)
            self._log.write(line({"place": place, "change": "cleaned", "removed": counts}))
        return result

    def done(self, plan: Plan, rows: int) -> RepairReport:
        """Raises NoTarget if no row was kept, FileUnreadable if the data has changed since it was first read."""
        gone = sum(verdict != KEEP for verdict in plan.verdicts)
        if rows + gone != len(plan.verdicts):
            raise FileUnreadable("the data changed while it was checked.", fix="Run the check again.")
        if not rows:
            raise NoTarget("a repair would leave no row.", fix="Correct the rows that the findings name.")
        target = Path(plan.target)
        return RepairReport(
            target, _changes(plan.target), rows, self._cleaned, dict(self._left_out), dict(self._removed)
        )
