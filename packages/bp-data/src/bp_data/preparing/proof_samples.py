"""Choosing the rows for the export proof: few, short, spread over the data, the same every time."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from bp_core.examples import Sample, spread

from ..masking.loss_mask import Masked
from ..tokenizer.chat_tokenizer import ChatTokenizer

_COUNT = 8
_SHORT = 256  # tokens; the proof computes logits for every one of them
_CANDIDATES = 512  # rows whose texts are kept until the last row has been seen


class Candidates:
    """A bounded number of rows that may become samples.

    Of short rows every one is kept, and beyond 512 every second, fourth, …, so they stay evenly spread over the data.
    Of longer rows, and of rows that had to be cut, only the shortest are kept.
    """

    def __init__(self, max_length: int) -> None:
        self._max_length = max_length
        self._short: list[Masked] = []
        self._seen, self._stride = 0, 1
        self._whole: list[Masked] = []
        self._cut: list[Masked] = []

    def add(self, rows: Iterable[Masked]) -> None:
        """Add rows, in the order of the data."""
        for row in rows:
            if len(row.tokens) > self._max_length:
                insort(self._cut, row, key=lambda cut: cut.prompt)
                del self._cut[_COUNT * 8 :]  # some cannot be trimmed
            elif len(row.tokens) > _SHORT:
                insort(self._whole, row, key=lambda whole: len(whole.tokens))
                del self._whole[_COUNT:]
            else:
                self._add_short(row)

    def choose(self, tokenizer: ChatTokenizer) -> list[Sample]:
        """Up to eight samples. Tokenising a sample's text gives its tokens, without the tokenizer's BOS.

        Short rows if there are any, else the shortest; rows that had to be cut only if there are no others.
        """
        if self._short or self._whole:
            return [_sample(row) for row in spread(self._short or self._whole, _COUNT)]
        return list(islice(_trimmed(self._cut, self._max_length, tokenizer), _COUNT))

    def _add_short(self, row: Masked) -> None:
        if self._seen % self._stride == 0:
            self._short.append(row)
        self._seen += 1
        if len(self._short) > _CANDIDATES:
            self._short, self._stride = self._short[::2], self._stride * 2


def _sample(row: Masked) -> Sample:
    return Sample(row.text, tuple(row.tokens), tuple(row.trained), tuple(row.tokens[: row.prompt]))


def _trimmed(rows: Sequence[Masked], max_length: int, tokenizer: ChatTokenizer) -> Iterator[Sample]:
    """Rows cut to max_length tokens, or a few less if the cut would be inside a character or word."""
    for row in rows:
        prefix = len(tokenizer.prefix) if row.bos == "tokenizer" else 0
        for length in range(max_length, max(row.trained.find(1), max_length - 16), -1):
            tokens = list(row.tokens[:length])
            text = tokenizer.decode(tokens[prefix:])
            if tokenizer.encode(text) == tokens[prefix:]:
                prompt = tokens[: min(row.prompt, length - 1)]
                yield Sample(text, tuple(tokens), tuple(row.trained[:length]), tuple(prompt))
                break
