"""Choosing the rows with which an export is proven: few, short, spread over the data, the same every time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from bp_core.examples import Sample

from .chat import ChatTokenizer
from .masking import Masked

_COUNT = 8
_SHORT = 256  # tokens; the proof computes logits for every one of them


def choose(masked: Sequence[Masked], max_length: int, tokenizer: ChatTokenizer) -> list[Sample]:
    """Up to eight rows as samples. Tokenising a sample's text gives its tokens, less a BOS that the tokenizer writes.

    Short rows first; without any, the shortest; rows that had to be cut only if there are no others.
    """
    whole = [row for row in masked if len(row.tokens) <= max_length]
    short = [row for row in whole if len(row.tokens) <= _SHORT]
    if short or whole:
        return [_sample(row) for row in _spread(short or sorted(whole, key=lambda row: len(row.tokens))[:_COUNT])]
    shortest = sorted(masked, key=lambda row: row.prompt)
    return list(islice(_trimmed(shortest, max_length, tokenizer), _COUNT))


def _spread(rows: Sequence[Masked]) -> list[Masked]:
    count = min(_COUNT, len(rows))
    return [rows[index * len(rows) // count] for index in range(count)]


def _sample(row: Masked) -> Sample:
    return Sample(row.text, tuple(row.tokens), tuple(row.trained), tuple(row.tokens[: row.prompt]))


def _trimmed(rows: Sequence[Masked], max_length: int, tokenizer: ChatTokenizer) -> Iterator[Sample]:
    """Rows cut to at most max_length, a few tokens shorter where a cut falls inside a character or a word."""
    for row in rows:
        prefix = len(tokenizer.prefix) if row.bos == "tokenizer" else 0
        for length in range(max_length, max(row.trained.find(1), max_length - 16), -1):
            tokens = list(row.tokens[:length])
            text = tokenizer.decode(tokens[prefix:])
            if tokenizer.encode(text) == tokens[prefix:]:
                prompt = tokens[: min(row.prompt, length - 1)]
                yield Sample(text, tuple(tokens), tuple(row.trained[:length]), tuple(prompt))
                break
