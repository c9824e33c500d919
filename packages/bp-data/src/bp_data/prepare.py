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

from bp_core.config import TrainConfig, TrainOn
from bp_core.contract import Bos, Contract
from bp_core.errors import MethodMismatch, NoTarget, TemplateUnusable
from bp_core.events import Notify, Progress
from bp_core.examples import Example, Sample

from .chat import ChatTokenizer
from .files import Data, read
from .formats import convert
from .layout import lay_out
from .masking import Masked, mark
from .proof import Candidates
from .records import AnyRecord, Record, said

_PLACES = 5  # places told of rows that were dropped
_CHUNK = 512  # rows for the tokenizer's threads at once; progress is told after each


@dataclass(frozen=True)
class Report:
    """What became of the rows. `longest` is before cutting, `tokens` and `targets` after; `sha256` is of the contents.

    `mixed` names the first row of each format but the most frequent. Of `truncated` rows `turns_cut` answers are not
    there as a whole, and `terminators_lost` of them without their end. `dropped` counts rows of which no target was
    left, `dropped_at` the first of them. `left_out` counts parts of answers that the template does not write.
    """

    rows: int
    formats: dict[str, int]
    mixed: dict[str, str]
    examples: int
    tokens: int
    targets: int
    longest: int
    truncated: int
    turns_cut: int
    terminators_lost: int
    dropped: int
    dropped_at: tuple[str, ...]
    left_out: int
    sha256: str

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Prepared:
    """All that training needs of the data: examples, the template contract, rows for the export proof, the report."""

    examples: list[Example]
    contract: Contract
    samples: list[Sample]
    report: Report


def prepare(
    data: Data,
    tokenizer: ChatTokenizer,
    *,
    max_length: int,
    samples: int | None = None,
    columns: Mapping[str, str] | None = None,
    train_on: TrainOn = TrainConfig.train_on,
    on_progress: Notify | None = None,
) -> Prepared:
    """Make examples of the first `samples` rows of the data (all by default), each cut at the end to `max_length`.

    A cut falls after the last answer that fits, or else within the first. Rows are read, converted and tokenised a
    chunk at a time; only tokens and masks are kept. `columns` is as in `read`. Raises the errors of reading and
    converting with the row's place, MethodMismatch, TemplateUnusable, and NoTarget if nothing is left.
    """
    rows = islice(read(data, columns), samples)
    total = len(range(len(data))[:samples]) if isinstance(data, Sequence) and not isinstance(data, str) else 0
    tally = _Tally(tokenizer, max_length)
    while records := [_demonstration(convert(row)) for row in islice(rows, _CHUNK)]:
        tally.add(records, _tokenised(records, tokenizer, train_on))
        if on_progress:
            on_progress(Progress("tokenise", tally.rows, total))
    return tally.prepared()


def _demonstration(record: AnyRecord) -> Record:
    if isinstance(record, Record):
        return record
    raise MethodMismatch(f"this is a row of answers to compare ({record.format}), not an example.", where=record.where)


def _tokenised(records: list[Record], tokenizer: ChatTokenizer, train_on: TrainOn) -> list[Masked]:
    layouts = [lay_out(record, tokenizer, train_on) for record in records]
    encodings = tokenizer.encodings([layout.text for layout in layouts])
    return [mark(layout, encoding, tokenizer) for layout, encoding in zip(layouts, encodings, strict=True)]


class _Tally:
    """What is kept of the rows while they pass by: examples, counts, the hash, and candidates for samples."""

    def __init__(self, tokenizer: ChatTokenizer, max_length: int) -> None:
        self._tokenizer, self._max_length = tokenizer, max_length
        self._examples: list[Example] = []
        self._formats: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self._templates: list[str] = []
        self._dropped_at: list[str] = []
        self._bos: dict[bool, set[Bos]] = {True: set(), False: set()}  # of conversations, and of raw texts
        self._terminators: set[int] = set()
        self._longest = self._truncated = self._turns_cut = self._terminators_lost = self._left_out = 0
        self._digest = hashlib.sha256()
        self._candidates = Candidates(max_length)

    @property
    def rows(self) -> int:
        return self._formats.total()

    def add(self, records: list[Record], masked: list[Masked]) -> None:
        for record, row in zip(records, masked, strict=True):
            self._formats[record.format] += 1
            self._first.setdefault(record.format, record.where)
            self._digest.update(_canonical(record))
            self._bos[not isinstance(record.content, str)].add(row.bos)
            if not isinstance(record.content, str):
                self._note_template(self._tokenizer.template_for(record.tools).source)
            self._count(row, record.where)
        self._candidates.add(masked)

    def _note_template(self, source: str) -> None:
        if source not in self._templates:
            self._templates.append(source)

    def _count(self, row: Masked, where: str) -> None:
        self._terminators.update(row.tokens[end] for end in row.ends)
        self._longest = max(self._longest, len(row.tokens))
        self._left_out += row.left_out
        length = row.cut(self._max_length)
        example = Example(row.tokens[:length], row.trained[:length])
        if length < len(row.tokens):
            self._truncated += 1
            self._turns_cut += sum(end >= length for end in row.ends)
            self._terminators_lost += not any(end < length for end in row.ends) and any(example.trained)
        if any(example.trained):
            self._examples.append(example)
        elif len(self._dropped_at) < _PLACES:
            self._dropped_at.append(where)

    def prepared(self) -> Prepared:
        """Raises NoTarget if no example was left, TemplateUnusable as `_contract`."""
        if not self._examples:
            message = f"no row has a trained token within max_length {self._max_length}."
            raise NoTarget(message, fix="Raise max_length, or shorten the prompts.")
        samples = self._candidates.choose(self._tokenizer)
        return Prepared(self._examples, self._contract(), samples, self._report())

    def _contract(self) -> Contract:
        """What the rows had in common. A template that writes BOS in some rows only cannot be promised to anybody."""
        policies = self._bos[True] or self._bos[False]
        if "template" in policies and len(policies) > 1:
            raise TemplateUnusable("the chat template writes the BOS token in some rows but not in others.")
        tokenizer = self._tokenizer
        bos: Bos = "template" if "template" in policies else "tokenizer" if tokenizer.prefix else "none"
        terminators = tuple(sorted(self._terminators))
        stop = tuple(tokenizer.decode([token]) for token in terminators)
        # Of two templates (with tools and without) the default is what a chat begins with.
        template = self._templates[0] if len(self._templates) == 1 else tokenizer.template if self._templates else ""
        return Contract(template, bos, terminators, stop)

    def _report(self) -> Report:
        return Report(
            rows=self.rows,
            formats=dict(self._formats),
            mixed={name: self._first[name] for name, _ in self._formats.most_common()[1:]},
            examples=len(self._examples),
            tokens=sum(len(example.tokens) for example in self._examples),
            targets=sum(example.targets for example in self._examples),
            longest=self._longest,
            truncated=self._truncated,
            turns_cut=self._turns_cut,
            terminators_lost=self._terminators_lost,
            dropped=self.rows - len(self._examples),
            dropped_at=tuple(self._dropped_at),
            left_out=self._left_out,
            sha256=self._digest.hexdigest(),
        )


def _canonical(record: Record) -> bytes:
    """What the row says, not how the file writes it: line ends, blank lines and key order do not matter."""
    untrained = json.dumps(record.untrained) if record.untrained else ""
    return (json.dumps(said(record), ensure_ascii=False) + untrained + "\n").encode()
