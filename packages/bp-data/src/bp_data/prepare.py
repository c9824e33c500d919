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

from bp_core.contract import Bos, Contract
from bp_core.errors import NoTarget, TemplateUnusable
from bp_core.events import Notify, Progress

from .cache import keep, load, place
from .chat import ChatTokenizer
from .examples import Collector, Examples
from .files import Data, Row, read
from .formats import Record, convert
from .masking import Layout, Masked, lay_out, mark
from .prepared import Prepared, Report
from .proof import Candidates

_CHUNK = 512  # rows for the tokenizer's threads at once; progress is told after each


def prepare(
    data: Data,
    tokenizer: ChatTokenizer,
    *,
    max_length: int,
    samples: int | None = None,
    packing: bool = False,
    columns: Mapping[str, str] | None = None,
    cache: Path | None = None,
    on_progress: Notify | None = None,
) -> Prepared:
    """Make examples of the first `samples` rows of the data (all by default), each cut at the end to `max_length`.

    Rows are read, converted and tokenised a chunk at a time; only tokens and masks are kept. `columns` is as in `read`.
    With `packing` the examples share rows of `max_length` tokens. `cache` is a folder where what is made of large files
    is kept, and found again as long as nothing of what it depends on has changed.
    Raises the errors of reading and converting with the row's place, TemplateUnusable, and NoTarget if nothing is left.
    """
    settings = {"max_length": max_length, "samples": samples, "columns": columns}
    entry = place(cache, data, tokenizer, settings) if cache else None
    prepared = load(entry) if entry else None
    if prepared is None:
        rows = islice(read(data, columns), samples)
        total = len(range(len(data))[:samples]) if isinstance(data, Sequence) and not isinstance(data, str) else 0
        prepared = _prepared(rows, total, _Tally(tokenizer, max_length), on_progress)
        if cache and entry and entry == place(cache, data, tokenizer, settings):  # the file did not change meanwhile
            keep(entry, prepared)
    return prepared.packing(max_length) if packing else prepared


def _prepared(rows: Iterator[Row], total: int, tally: _Tally, notify: Notify | None) -> Prepared:
    for records, masked in _tokenised(rows, tally.tokenizer):
        tally.add(records, masked)
        if notify:
            notify(Progress("tokenise", tally.rows, total))
    return tally.prepared()


def _tokenised(rows: Iterator[Row], tokenizer: ChatTokenizer) -> Iterator[tuple[list[Record], list[Masked]]]:
    """The rows chunk by chunk. While one is tokenised, in Rust and without Python's lock, the next is rendered."""
    with ThreadPoolExecutor(1) as thread:
        waiting: tuple[list[Record], list[Layout], Future[list[Encoding]]] | None = None
        while records := [convert(row) for row in islice(rows, _CHUNK)]:
            layouts = [lay_out(record, tokenizer) for record in records]
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

    def __init__(self, tokenizer: ChatTokenizer, max_length: int) -> None:
        self.tokenizer, self._max_length = tokenizer, max_length
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
        return Contract(tokenizer.template if self._bos[True] else "", bos, terminators, stop)

    def _report(self, examples: Examples) -> Report:
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
            packed=0,
            sha256=self._digest.hexdigest(),
        )


def _canonical(record: Record) -> bytes:
    """What the row says, not how the file writes it: line ends, blank lines and key order do not matter."""
    untrained = json.dumps(record.untrained) if record.untrained else ""
    return (json.dumps(record.content, ensure_ascii=False) + untrained + "\n").encode()
