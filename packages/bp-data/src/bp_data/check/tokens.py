"""What a model's tokenizer and chat template make of the rows: whether they can, how long, and what the cut takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bp_core.errors import BackpropagateError

from ..chat import ChatTokenizer
from ..formats import Record
from ..masking import Layout, Masked, lay_out, mark
from .lengths import Lengths

Told = tuple[int, str, str, str | None]  # the index of a record, the kind, the message, and what to do


class Tokens:
    """Renders and tokenises rows as training does, and counts."""

    def __init__(self, tokenizer: ChatTokenizer, max_length: int) -> None:
        self._tokenizer, self.max_length = tokenizer, max_length
        self.lengths = Lengths()
        self.trained = self.over = 0

    def add(self, records: Sequence[Record]) -> Iterator[Told]:
        """The faults of some records, by their index among them."""
        layouts: list[tuple[int, Layout]] = []
        for index, record in enumerate(records):
            try:
                layouts.append((index, lay_out(record, self._tokenizer)))
            except BackpropagateError as error:
                yield index, "template-refuses", error.message, error.fix
        encodings = self._tokenizer.encodings([layout.text for _, layout in layouts])
        for (index, layout), encoding in zip(layouts, encodings, strict=True):
            try:
                masked = mark(layout, encoding, self._tokenizer)
            except BackpropagateError as error:
                yield index, "template-refuses", error.message, error.fix
            else:
                yield from ((index, kind, said, None) for kind, said in self._count(masked))

    def _count(self, row: Masked) -> Iterator[tuple[str, str]]:
        length, limit = len(row.tokens), self.max_length
        self.lengths.add(length)
        self.trained += sum(row.trained)
        if length <= limit:
            return
        self.over += 1
        yield "too-long", f"{length} tokens, {length - limit} more than max_length {limit}"
        if lost := sum(end >= limit for end in row.ends):
            yield "end-lost", f"the cut takes the end of {lost} of {len(row.ends)} trained turns"
        if not any(row.trained[:limit]):
            yield "no-target", f"the first trained token is number {row.prompt + 1}"
