"""From data to examples: read, convert, render, tokenise, mask, cut — and a report in which every row is counted."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from bp_core.contract import Bos, Contract
from bp_core.errors import NoTarget, TemplateUnusable
from bp_core.events import Notify, Progress
from bp_core.examples import Sample

from .chat import ChatTokenizer
from .examples import Collector, Examples
from .files import Data, read
from .formats import Record, convert
from .masking import Masked, lay_out, mark
from .packing import Rows, pack
from .proof import Candidates

_CHUNK = 512  # rows for the tokenizer's threads at once; progress is told after each


@dataclass(frozen=True)
class Report:
    """What became of the rows. `longest` is before cutting, `tokens` and `targets` after; `sha256` is of the contents.

    `terminators_lost` counts answers whose end was cut off, `dropped` rows of which no target was left; `packed` is how
    many rows the examples share, 0 if each has its own.
    """

    rows: int
    formats: dict[str, int]
    examples: int
    tokens: int
    targets: int
    longest: int
    truncated: int
    terminators_lost: int
    dropped: int
    packed: int
    sha256: str

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Prepared:
    """All that training needs of the data: examples, the template contract, rows for the export proof, the report.

    `packed` says which examples share a row; None if each has its own.
    """

    examples: Examples
    packed: Rows | None
    contract: Contract
    samples: list[Sample]
    report: Report


def prepare(
    data: Data,
    tokenizer: ChatTokenizer,
    *,
    max_length: int,
    samples: int | None = None,
    packing: bool = False,
    columns: Mapping[str, str] | None = None,
    on_progress: Notify | None = None,
) -> Prepared:
    """Make examples of the first `samples` rows of the data (all by default), each cut at the end to `max_length`.

    Rows are read, converted and tokenised a chunk at a time; only tokens and masks are kept. `columns` is as in `read`.
    With `packing` the examples share rows of `max_length` tokens.
    Raises the errors of reading and converting with the row's place, TemplateUnusable, and NoTarget if nothing is left.
    """
    rows = islice(read(data, columns), samples)
    total = len(range(len(data))[:samples]) if isinstance(data, Sequence) and not isinstance(data, str) else 0
    tally = _Tally(tokenizer, max_length)
    while records := [convert(row) for row in islice(rows, _CHUNK)]:
        tally.add(records, _tokenised(records, tokenizer))
        if on_progress:
            on_progress(Progress("tokenise", tally.rows, total))
    return tally.prepared(packing)


def _tokenised(records: list[Record], tokenizer: ChatTokenizer) -> list[Masked]:
    layouts = [lay_out(record, tokenizer) for record in records]
    encodings = tokenizer.encodings([layout.text for layout in layouts])
    return [mark(layout, encoding, tokenizer) for layout, encoding in zip(layouts, encodings, strict=True)]


class _Tally:
    """What is kept of the rows while they pass by: examples, counts, the hash, and candidates for samples."""

    def __init__(self, tokenizer: ChatTokenizer, max_length: int) -> None:
        self._tokenizer, self._max_length = tokenizer, max_length
        self._examples = Collector()
        self._formats: Counter[str] = Counter()
        self._bos: dict[bool, set[Bos]] = {True: set(), False: set()}  # of conversations, and of raw texts
        self._terminators: set[int] = set()
        self._longest = self._truncated = self._terminators_lost = 0
        self._digest = hashlib.sha256()
        self._candidates = Candidates(max_length)

    @property
    def rows(self) -> int:
        return self._formats.total()

    def add(self, records: list[Record], masked: list[Masked]) -> None:
        for record, row in zip(records, masked, strict=True):
            self._formats[record.format] += 1
            self._digest.update(_canonical(record))
            self._bos[not isinstance(record.content, str)].add(row.bos)
            self._count(row)
        self._candidates.add(masked)

    def _count(self, row: Masked) -> None:
        self._terminators.update(row.tokens[end] for end in row.ends)
        self._longest = max(self._longest, len(row.tokens))
        self._truncated += len(row.tokens) > self._max_length
        self._terminators_lost += sum(end >= self._max_length for end in row.ends)
        trained = row.trained[: self._max_length]
        if any(trained):
            self._examples.add(row.tokens[: self._max_length], trained)

    def prepared(self, packing: bool) -> Prepared:
        """Raises NoTarget if no example was left, TemplateUnusable as `_contract`."""
        if not self._examples:
            message = f"no row has a trained token within max_length {self._max_length}."
            raise NoTarget(message, fix="Raise max_length, or shorten the prompts.")
        samples, examples = self._candidates.choose(self._tokenizer), self._examples.examples()
        packed = pack(examples.lengths, self._max_length) if packing else None
        return Prepared(examples, packed, self._contract(), samples, self._report(examples, packed))

    def _contract(self) -> Contract:
        """What the rows had in common. A template that writes BOS in some rows only cannot be promised to anybody."""
        policies = self._bos[True] or self._bos[False]
        if "template" in policies and len(policies) > 1:
            raise TemplateUnusable("the chat template writes the BOS token in some rows but not in others.")
        tokenizer = self._tokenizer
        bos: Bos = "template" if "template" in policies else "tokenizer" if tokenizer.prefix else "none"
        terminators = tuple(sorted(self._terminators))
        stop = tuple(tokenizer.decode([token]) for token in terminators)
        return Contract(tokenizer.template if self._bos[True] else "", bos, terminators, stop)

    def _report(self, examples: Examples, packed: Rows | None) -> Report:
        return Report(
            rows=self.rows,
            formats=dict(self._formats),
            examples=len(examples),
            tokens=len(examples.tokens),
            targets=examples.targets,
            longest=self._longest,
            truncated=self._truncated,
            terminators_lost=self._terminators_lost,
            dropped=self.rows - len(examples),
            packed=len(packed) if packed else 0,
            sha256=self._digest.hexdigest(),
        )


def _canonical(record: Record) -> bytes:
    """What the row says, not how the file writes it: line ends, blank lines and key order do not matter."""
    untrained = json.dumps(record.untrained) if record.untrained else ""
    return (json.dumps(record.content, ensure_ascii=False) + untrained + "\n").encode()
