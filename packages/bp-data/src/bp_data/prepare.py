"""From data to examples: read, convert, render, tokenise, mask, cut — and a report in which every row is counted."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from tokenizers import Encoding

from bp_core.config import TrainConfig, TrainOn
from bp_core.contract import Bos, Contract
from bp_core.errors import MethodMismatch, NoTarget, TemplateUnusable
from bp_core.events import Notify, Progress

from .cache import keep, load, place
from .chat import ChatTokenizer
from .examples import Collector, Examples
from .files import Data, Row, read
from .formats import convert
from .layout import Layout, lay_out
from .masking import Masked, mark
from .prepared import Prepared, Report
from .proof import Candidates
from .records import AnyRecord, Record, said

_PLACES = 5  # places told of rows that were dropped
_CHUNK = 512  # rows for the tokenizer's threads at once; progress is told after each


def prepare(
    data: Data,
    tokenizer: ChatTokenizer,
    *,
    max_length: int,
    samples: int | None = None,
    packing: bool = False,
    columns: Mapping[str, str] | None = None,
    train_on: TrainOn = TrainConfig.train_on,
    cache: Path | None = None,
    on_progress: Notify | None = None,
) -> Prepared:
    """Make examples of the first `samples` rows of the data (all by default), each cut at the end to `max_length`.

    A cut falls after the last answer that fits, or else within the first. Rows are read, converted and tokenised a
    chunk at a time; only tokens and masks are kept. `columns` is as in `read`. With `packing` the examples share
    rows of `max_length` tokens. `cache` is a folder where what is made of large files is kept, and found again as long
    as nothing that it depends on has changed. Raises the errors of reading and converting with the row's place,
    MethodMismatch, TemplateUnusable, and NoTarget if nothing is left.
    """
    settings = {"max_length": max_length, "samples": samples, "columns": columns, "train_on": train_on}
    entry = place(cache, data, tokenizer, settings) if cache else None
    prepared = load(entry) if entry else None
    if prepared is None:
        rows = islice(read(data, columns), samples)
        total = len(range(len(data))[:samples]) if isinstance(data, Sequence) and not isinstance(data, str) else 0
        prepared = _prepared(rows, total, _Tally(tokenizer, max_length, train_on), on_progress)
        if cache and entry and entry == place(cache, data, tokenizer, settings):  # the file did not change meanwhile
            keep(entry, prepared)
    return prepared.packing(max_length) if packing else prepared


def _prepared(rows: Iterator[Row], total: int, tally: _Tally, notify: Notify | None) -> Prepared:
    for records, masked in _tokenised(rows, tally.tokenizer, tally.train_on):
        tally.add(records, masked)
        if notify:
            notify(Progress("tokenise", tally.rows, total))
    return tally.prepared()


def _demonstration(record: AnyRecord) -> Record:
    if isinstance(record, Record):
        return record
    raise MethodMismatch(f"this is a row of answers to compare ({record.format}), not an example.", where=record.where)


def _tokenised(
    rows: Iterator[Row], tokenizer: ChatTokenizer, train_on: TrainOn
) -> Iterator[tuple[list[Record], list[Masked]]]:
    """The rows chunk by chunk. While one is tokenised, in Rust and without Python's lock, the next is rendered."""
    with ThreadPoolExecutor(1) as thread:
        waiting: tuple[list[Record], list[Layout], Future[list[Encoding]]] | None = None
        while records := [_demonstration(convert(row)) for row in islice(rows, _CHUNK)]:
            layouts = [lay_out(record, tokenizer, train_on) for record in records]
            encodings = thread.submit(tokenizer.encodings, [layout.text for layout in layouts])
            if waiting:
                yield _marked(*waiting, tokenizer)
            waiting = records, layouts, encodings
        if waiting:
            yield _marked(*waiting, tokenizer)


def _marked(
    records: list[Record], layouts: list[Layout], encodings: Future[list[Encoding]], tokenizer: ChatTokenizer
) -> tuple[list[Record], list[Masked]]:
    pairs = zip(layouts, encodings.result(), strict=True)
    return records, [mark(layout, encoding, tokenizer) for layout, encoding in pairs]


class _Tally:
    """What is kept of the rows while they pass by: examples, counts, the hash, and candidates for samples."""

    def __init__(self, tokenizer: ChatTokenizer, max_length: int, train_on: TrainOn) -> None:
        self.tokenizer, self._max_length, self.train_on = tokenizer, max_length, train_on
        self._examples = Collector()
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
                self._note_template(self.tokenizer.template_for(record.tools).source)
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
        trained = row.trained[:length]
        if length < len(row.tokens):
            self._truncated += 1
            self._turns_cut += sum(end >= length for end in row.ends)
            self._terminators_lost += not any(end < length for end in row.ends) and any(trained)
        if any(trained):
            self._examples.add(row.tokens[:length], trained)
        elif len(self._dropped_at) < _PLACES:
            self._dropped_at.append(where)

    def prepared(self) -> Prepared:
        """Raises NoTarget if no example was left, TemplateUnusable as `_contract`."""
        if not self._examples:
            message = f"no row has a trained token within max_length {self._max_length}."
            raise NoTarget(message, fix="Raise max_length, or shorten the prompts.")
        samples, examples = self._candidates.choose(self.tokenizer), self._examples.examples()
        return Prepared(examples, None, self._contract(), samples, self._report(examples))

    def _contract(self) -> Contract:
        """What the rows had in common. A template that writes BOS in some rows only cannot be promised to anybody."""
        policies = self._bos[True] or self._bos[False]
        if "template" in policies and len(policies) > 1:
            raise TemplateUnusable("the chat template writes the BOS token in some rows but not in others.")
        tokenizer = self.tokenizer
        bos: Bos = "template" if "template" in policies else "tokenizer" if tokenizer.prefix else "none"
        terminators = tuple(sorted(self._terminators))
        stop = tuple(tokenizer.decode([token]) for token in terminators)
        # Of two templates (with tools and without) the default is what a chat begins with.
        template = self._templates[0] if len(self._templates) == 1 else tokenizer.template if self._templates else ""
        return Contract(template, bos, terminators, stop)

    def _report(self, examples: Examples) -> Report:
        return Report(
            rows=self.rows,
            formats=dict(self._formats),
            mixed={name: self._first[name] for name, _ in self._formats.most_common()[1:]},
            examples=len(examples),
            tokens=len(examples.tokens),
            targets=examples.targets,
            longest=self._longest,
            truncated=self._truncated,
            turns_cut=self._turns_cut,
            terminators_lost=self._terminators_lost,
            dropped=self.rows - len(examples),
            dropped_at=tuple(self._dropped_at),
            left_out=self._left_out,
            packed=0,
            sha256=self._digest.hexdigest(),
        )


def _canonical(record: Record) -> bytes:
    """What the row says, not how the file writes it: line ends, blank lines and key order do not matter."""
    untrained = json.dumps(record.untrained) if record.untrained else ""
    return (json.dumps(said(record), ensure_ascii=False) + untrained + "\n").encode()
