"""Checking rows with a model's tokenizer and chat template: errors, lengths, and what the cut to max_length removes."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from bp_core.config import TrainConfig
from bp_core.errors import BackpropagateError

from ..formats.records import AnyRecord, Preference, Record, demonstrations
from ..formats.served_schema import with_schema
from ..masking.each_thought import with_each_thought
from ..masking.loss_mask import Masked, mark
from ..masking.render import Layout, lay_out
from ..tokenizer.chat_tokenizer import ChatTokenizer
from .lengths import Lengths

RowFault = tuple[int, str, str, str | None]  # the index of a record, the kind, the message, and what to do


class Tokens:
    """Renders and tokenises rows as training does, and counts."""

    def __init__(self, tokenizer: ChatTokenizer, max_length: int) -> None:
        self._tokenizer, self.max_length = tokenizer, max_length
        self.lengths = Lengths()
        self.trained = self.over = 0

    def add(self, records: Sequence[AnyRecord]) -> Iterator[RowFault]:
        """The faults of some records, by index; each kind once for the two answers of a preference."""
        found: set[tuple[int, str]] = set()
        for index, kind, message, fix in self._faults(records):
            if (index, kind) not in found:
                found.add((index, kind))
                yield index, kind, message, fix

    def _faults(self, records: Sequence[AnyRecord]) -> Iterator[RowFault]:
        layouts: list[tuple[int, Layout]] = []
        for index, record in enumerate(records):
            try:
                parts = self._parts(record)
                layouts += [(index, lay_out(each, self._tokenizer)) for each in parts]
            except BackpropagateError as error:
                yield index, "template-refuses", error.message, error.fix
                continue
            if isinstance(record, Record) and len(parts) > 1:
                yield index, "several-thoughts", f"{len(parts)} examples, one for each thought", None
        yield from self._marked(records, layouts)

    def _marked(self, records: Sequence[AnyRecord], layouts: Sequence[tuple[int, Layout]]) -> Iterator[RowFault]:
        """Tokenise what could be rendered, and count."""
        before: dict[int, array[int]] = {}  # the tokens of the chosen answers
        encodings = self._tokenizer.encodings([layout.text for _, layout in layouts])
        for (index, layout), encoding in zip(layouts, encodings, strict=True):
            try:
                masked = mark(layout, encoding, self._tokenizer)
            except BackpropagateError as error:
                yield index, "template-refuses", error.message, error.fix
            else:
                record = records[index]
                is_text = isinstance(record, Record) and isinstance(record.content, str)
                for kind, message in self._count(masked, is_text):
                    yield index, kind, message, None
                if isinstance(record, Preference):
                    if before.get(index) == masked.tokens:
                        yield index, "alike-answers", "chosen and rejected have the same tokens", None
                    before[index] = masked.tokens

    def _parts(self, record: AnyRecord) -> list[Record]:
        """The conversations of a row, as training takes them."""
        found: list[Record] = []
        for each in demonstrations(record):
            found += with_each_thought(with_schema(each), self._tokenizer, TrainConfig.train_on)
        return found

    def _count(self, row: Masked, is_text: bool) -> Iterator[tuple[str, str]]:
        length, limit = len(row.tokens), self.max_length
        self.lengths.add(length)
        self.trained += sum(row.trained)
        if row.left_out:
            yield "not-written", f"parts of answers that the template leaves out: {row.left_out}"
        if row.ids_made_up:
            yield "made-up-id", f"calls without an id that the template takes: {row.ids_made_up}"
        if length <= limit:
            return
        if is_text:
            yield (
                "split-text",
                f"{length} tokens: {len(row.pieces(limit, 0, self._tokenizer.prefix))} pieces of {limit}",
            )
            return
        self.over += 1
        kept = row.cut(limit)
        lost = sum(end >= kept for end in row.ends)
        yield "too-long", f"{length} tokens, {length - limit} more than max_length {limit}; answers cut off: {lost}"
        if not any(row.trained[:kept]):
            yield "no-target", f"the first trained token is number {row.prompt + 1}"
        elif not any(end < kept for end in row.ends):
            yield "end-lost", "the cut falls inside the only answer that is left"
