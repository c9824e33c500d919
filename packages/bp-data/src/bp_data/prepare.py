"""From data to examples: read, convert, render, tokenise, mask, cut — and a report in which every row is counted."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bp_core.contract import Bos, Contract
from bp_core.errors import NoTarget, TemplateUnusable
from bp_core.events import Notify, Progress
from bp_core.examples import Example, Sample

from .chat import ChatTokenizer
from .files import Data, read
from .formats import Record, convert
from .masking import Masked, lay_out, mark
from .proof import choose

_CHUNK = 512  # rows for the tokenizer's threads at once; progress is told after each


@dataclass(frozen=True)
class Report:
    """What became of the rows. `longest` is before cutting, `tokens` and `targets` after; `sha256` is of the contents.

    `terminators_lost` counts answers whose end was cut off, `dropped` rows of which no target was left.
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
    on_progress: Notify | None = None,
) -> Prepared:
    """Make examples of the first `samples` rows of the data (all by default), each cut at the end to `max_length`.

    Raises the errors of reading and converting with the row's place, TemplateUnusable, and NoTarget if nothing is left.
    """
    records = [convert(row) for row in read(data)[:samples]]
    masked: list[Masked] = []
    for chunk in _tokenised(records, tokenizer):
        masked += chunk
        if on_progress:
            on_progress(Progress("tokenise", len(masked), len(records)))
    examples = [_cut(row, max_length) for row in masked]
    kept = [example for example in examples if any(example.trained)]
    if not kept:
        message = f"no row has a trained token within max_length {max_length}."
        raise NoTarget(message, fix="Raise max_length, or shorten the prompts.")
    report = _report(records, masked, kept, max_length)
    return Prepared(kept, _contract(records, masked, tokenizer), choose(masked, max_length, tokenizer), report)


def _tokenised(records: list[Record], tokenizer: ChatTokenizer) -> Iterator[list[Masked]]:
    for start in range(0, len(records), _CHUNK):
        layouts = [lay_out(record, tokenizer) for record in records[start : start + _CHUNK]]
        encodings = tokenizer.encodings([layout.text for layout in layouts])
        yield [mark(layout, encoding, tokenizer) for layout, encoding in zip(layouts, encodings, strict=True)]


def _cut(row: Masked, max_length: int) -> Example:
    return Example(row.tokens[:max_length], row.trained[:max_length])


def _contract(records: list[Record], masked: list[Masked], tokenizer: ChatTokenizer) -> Contract:
    """What the rows had in common. A template that writes BOS in some rows only cannot be promised to anybody."""
    chats = [row for record, row in zip(records, masked, strict=True) if record.format != "text"]
    policies = {row.bos for row in chats or masked}
    if "template" in policies and len(policies) > 1:
        raise TemplateUnusable("the chat template writes the BOS token in some rows but not in others.")
    bos: Bos = "template" if "template" in policies else "tokenizer" if tokenizer.prefix else "none"
    terminators = tuple(sorted({row.tokens[end] for row in masked for end in row.ends}))
    stop = tuple(tokenizer.decode([token]) for token in terminators)
    return Contract(tokenizer.template if chats else "", bos, terminators, stop)


def _report(records: list[Record], masked: list[Masked], kept: list[Example], max_length: int) -> Report:
    return Report(
        rows=len(records),
        formats=dict(Counter(record.format for record in records)),
        examples=len(kept),
        tokens=sum(len(example.tokens) for example in kept),
        targets=sum(example.targets for example in kept),
        longest=max(len(row.tokens) for row in masked),
        truncated=sum(len(row.tokens) > max_length for row in masked),
        terminators_lost=sum(end >= max_length for row in masked for end in row.ends),
        dropped=len(masked) - len(kept),
        sha256=_sha256(records),
    )


def _sha256(records: list[Record]) -> str:
    """Of what the rows say, not of how the file writes it: line ends, blank lines and key order do not matter."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(record.content, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()
