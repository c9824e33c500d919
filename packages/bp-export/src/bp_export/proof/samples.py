"""The rows of tokens that a proof compares on, and how they are compared."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer

from bp_core.examples import Sample

TOKENS = 512


def choose(samples: Sequence[Sample], room: int = TOKENS) -> list[Sample]:
    """The shortest samples, whole, up to `room` tokens in all; a single long one is cut."""
    chosen: list[Sample] = []
    for sample in sorted(samples, key=lambda sample: len(sample.tokens)):
        if len(sample.tokens) < 2 or (chosen and len(sample.tokens) > room):
            continue
        chosen.append(Sample(sample.text, sample.tokens[:room], sample.trained[:room], sample.prompt))
        room -= len(sample.tokens)
    return chosen


def as_sample(text: str, tokenizer: Tokenizer) -> Sample:
    tokens = tuple(tokenizer.encode(text, add_special_tokens=False).ids)
    return Sample(text, tokens, (0, *(1,) * (len(tokens) - 1)), ())


def context(lists: Iterable[Sequence[int]]) -> int:
    return max(len(row) for row in lists)


def begins(tokens: Sequence[int], start: Sequence[int]) -> bool:
    return list(tokens[: len(start)]) == list(start)


def has_marks(text: str) -> bool:
    """Whether a text has combining marks of its own, as Hindi and Thai have."""
    return any(unicodedata.category(letter).startswith("M") for letter in text)
