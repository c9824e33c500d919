"""The pass over the rows: each is checked once, and a few bytes of it are kept."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bp_core.config import MAX_LENGTH, DataConfig
from bp_core.errors import BackpropagateError, BadToolCall, FileEmpty, FileUnreadable, NoTarget, UnknownFormat

from ..formats.detect import convert
from ..formats.fields import shown
from ..formats.records import AnyRecord
from ..formats.suggestions import how_to_use
from ..reading.columns import Columns
from ..reading.context import Remark
from ..reading.files import Row
from ..tokenizer.chat_tokenizer import ChatTokenizer
from .characters import clean, named, oddities
from .config import CheckConfig
from .duplicates import NO_KEY, Places, key, repeats, shared
from .findings import KEPT, KINDS, Findings
from .held_out import HeldOut
from .lengths import Lengths
from .markup import Markup
from .near_duplicates import NearIndex, hashes
from .report import RepairReport, Report
from .secrets import hidden, secrets
from .tokens import Tokens
from .tool_calls import call_faults
from .turns import RowText, has_null_turn, turn_faults
from .type_drift import TypeDrift


@dataclass
class _UnusedColumn:
    """A column that is not learned: where it was seen first, what it held there, and what to do about it."""

    where: str
    example: str
    fix: str
    rows: int = 1


KEEP = 0
CODES = {name: code for code, name in enumerate(KINDS, KEEP + 1)}  # why a row is left out, in a byte


class Inspection:
    """The state of a check. `verdicts` has a byte for each row: KEEP, or the code of the fault to leave it out for."""

    def __init__(self, settings: CheckConfig, reading: DataConfig, tokenizer: ChatTokenizer | None) -> None:
        self._findings = Findings()
        self.places, self.verdicts, self._keys = Places(), bytearray(), array("Q")
        self._formats: Counter[str] = Counter()
        self._lengths = Lengths()
        self._tokens = Tokens(tokenizer, settings.max_length or MAX_LENGTH) if tokenizer else None
        self._unreadable = 0
        self._empty: FileEmpty | None = None
        self._format_places: dict[str, str] = {}
        self._drift, self._markup = TypeDrift(), Markup(tokenizer)
        self._near = NearIndex() if settings.near else None
        self._near_rows, self._near_leaks = array("q"), array("q")  # a row, and the one it is nearly, in turn
        self._held_out = HeldOut(settings.against, reading, settings.near) if settings.against else None
        self._columns = Columns(reading)
        self._unused: dict[str, _UnusedColumn] = {}

    def unread(self, error: BackpropagateError) -> None:
        """Add the error of a row or file that could not be read."""
        if isinstance(error, FileEmpty):
            kind, self._empty = "empty-file", error
        else:
            self._unreadable += 1
            kind = "bad-encoding" if isinstance(error, FileUnreadable) else "broken-row"
        self._findings.add(kind, error.where or "", hidden(error.message), error.fix)

    def tell(self, remark: Remark) -> None:
        """Add a remark of the reader."""
        self._findings.add(remark.kind, remark.where, remark.message, remark.fix)

    def add(self, rows: Sequence[Row]) -> None:
        """Check some more rows, in the order of the data."""
        numbers = range(len(self.places), len(self.places) + len(rows))
        records = []
        for number, row in zip(numbers, rows, strict=True):
            record, text = self._check(row)
            if record:
                records.append((number, record, text))
        if self._tokens:
            for index, kind, message, fix in self._tokens.add([record for _, record, _ in records]):
                self._fault(records[index][0], kind, message, fix)
        if self._near:
            self._compare([(number, text.joined) for number, _, text in records], self._near)

    def finish(self) -> None:
        """Add the findings that need all rows: duplicates, leaks, type drift, mixed formats.

        Raises FileEmpty if there were no rows.
        """
        if self._empty and not self.places and not self._unreadable:
            raise self._empty
        exact = np.zeros(len(self.places), dtype=np.bool_)
        if self._held_out:
            exact |= self._add_findings("leak", *shared(self._keys, self._held_out.keys), self._held_out.places)
        exact |= self._add_findings("duplicate", *repeats(self._keys), self.places)
        for kind, pairs in (("near-leak", self._near_leaks), ("near-duplicate", self._near_rows)):
            rows, others = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
            new = ~exact[rows]
            places = self._held_out.places if self._held_out and kind == "near-leak" else self.places
            self._add_findings(kind, rows[new], others[new], places)
        self._drift.add_findings(self._findings)
        self._columns.tell_unseen(self.tell, None)
        for name, column in self._unused.items():
            share = column.rows / len(self.places)
            message = f"column {name!r} is not learned, in {column.rows} rows ({share:.0%}), such as {column.example}"
            self._findings.add("unused-column", column.where, hidden(message), column.fix)
        for name, count in self._formats.most_common()[1:]:
            usual = self._formats.most_common(1)[0][0]
            self._findings.add("mixed-formats", self._format_places[name], f"{name} ({count}), and elsewhere {usual}")

    def report(self, repaired: RepairReport | None = None) -> Report:
        formats, findings = dict(self._formats), self._findings
        return Report(len(self.places), self._unreadable, formats, findings, self._lengths, self._tokens, repaired)

    def _check(self, row: Row) -> tuple[AnyRecord | None, RowText]:
        """Add the faults of a row; return its record, if it could be converted, and its text."""
        number = len(self.places)
        self.places.append(row.where)
        self.verdicts.append(KEEP)
        self._drift.add(row.value, row.where)
        record = self._record(row, number)
        text = RowText.of(record) if record else RowText.somewhere_in(row)
        for kind, message, offset in self._spots(text.joined):
            self._findings.add(kind, row.where, text.turn(offset) + message)
        if record:
            self._formats[record.format] += 1
            self._format_places.setdefault(record.format, row.where)
            self._lengths.add(sum(map(len, text.texts)))
            for name in record.unused:
                self._note_unused(name, row)
            for kind, message in (*turn_faults(record), *call_faults(record)):
                self._findings.add(kind, row.where, hidden(message))
        return record, text

    def _record(self, row: Row, number: int) -> AnyRecord | None:
        """The converted row; its verdict and key are those of the cleaned row, which a repair would write."""
        cleaned, removed = clean(row.value)
        for kind, characters in removed.items():
            self._findings.add(kind, row.where, f"{len(characters)} in the row: {named(characters)}")
        result = kept = self._converted(row)
        if removed:
            kept = self._converted(Row(cleaned, row.where))
        fault = next((each for each in (result, kept) if isinstance(each, BackpropagateError)), None)
        if fault:
            self._findings.add(_kind(fault, row), row.where, hidden(fault.message), fault.fix)
        if isinstance(kept, BackpropagateError):
            self.verdicts[number] = CODES[_kind(kept, row)]
        self._keys.append(NO_KEY if isinstance(kept, BackpropagateError) else key(kept))
        return None if isinstance(result, BackpropagateError) else result

    def _note_unused(self, name: str, row: Row) -> None:
        found = self._unused.get(name)
        if found:
            found.rows += 1
            return
        value = self._columns.rename(row.value, row.where)
        fix = how_to_use(name, value, lambda renamed: convert(Row(renamed, row.where)))
        self._unused[name] = _UnusedColumn(row.where, shown(value.get(name)), fix)

    def _converted(self, row: Row) -> AnyRecord | BackpropagateError:
        try:
            return convert(Row(self._columns.rename(row.value, row.where), row.where))
        except BackpropagateError as error:
            return error

    def _spots(self, text: str) -> Iterable[tuple[str, str, int]]:
        yield from secrets(text)
        yield from self._markup(text)
        yield from oddities(text)

    def _compare(self, texts: list[tuple[int, str]], index: NearIndex) -> None:
        for (number, _), hashed in zip(texts, hashes([text for _, text in texts]), strict=True):
            if self._held_out and (other := self._held_out.nearly(hashed)) is not None:
                self._near_leaks.extend((number, other))
            if (other := index.add(number, hashed)) is not None:
                self._near_rows.extend((number, other))

    def _fault(self, number: int, kind: str, message: str, fix: str | None) -> None:
        self._findings.add(kind, self.places[number], hidden(message), fix)
        if KINDS[kind].repair == "left out" and self.verdicts[number] == KEEP:
            self.verdicts[number] = CODES[kind]

    def _add_findings(
        self, kind: str, rows: NDArray[np.int64], others: NDArray[np.int64], places: Places
    ) -> NDArray[np.bool_]:
        """Add a finding for each row that (nearly) equals its other row; return which rows, bool [all rows]."""
        for row, other in zip(rows[:KEPT].tolist(), others[:KEPT].tolist(), strict=True):
            self._findings.add(kind, self.places[row], f"says {_NEARLY.get(kind, '')}what {places[other]} says")
        self._findings.more(kind, max(0, len(rows) - KEPT))
        verdicts = np.frombuffer(self.verdicts, dtype=np.uint8)
        if KINDS[kind].repair == "left out":
            verdicts[rows] = np.where(verdicts[rows] == KEEP, CODES[kind], verdicts[rows])
        added = np.zeros(len(self.places), dtype=np.bool_)
        added[rows] = True
        return added


_NEARLY = {"near-duplicate": "nearly ", "near-leak": "nearly "}


def _kind(error: BackpropagateError, row: Row) -> str:
    if isinstance(error, UnknownFormat):
        return "unknown-format"
    if isinstance(error, BadToolCall):
        return "broken-call"
    if has_null_turn(row):
        return "empty-answer"
    return "no-answer" if isinstance(error, NoTarget) else "broken-row"
