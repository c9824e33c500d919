"""The token rows that a proof compares on."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from tokenizers import Tokenizer

from bp_core.examples import Sample

TOKENS = 512


def choose(samples: Sequence[Sample], room: int = TOKENS) -> list[Sample]:
    """The shortest samples, up to `room` tokens in total. A single long one is truncated."""
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


def has_marks(text: str) -> bool:
    """Whether a text has combining marks, as Hindi and Thai have."""
    return any(unicodedata.category(letter).startswith("M") for letter in text)
