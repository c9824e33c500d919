"""Rows to evaluate on that were trained on, too: an evaluation on them measures memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from rensa import RMinHash

from bp_core.examples import Example

from ..check.near_duplicates import NearIndex, hashes

_MOST = 20_000  # rows of each side that are looked at for near duplicates, which takes some seconds
_CHUNK = 512
Decode = Callable[[Sequence[int]], str]  # token ids to text


@dataclass(frozen=True)
class Overlap:
    """How many of `rows` evaluation rows are among the training rows: `equal`, and `near` that almost are."""

    rows: int
    equal: int
    near: int


def overlap(training: Sequence[Example], evaluation: Sequence[Example], decode: Decode) -> Overlap:
    """Compare by tokens, and the rest by their words as `data check` does."""
    trained = {_key(example) for example in training}
    others = [example for example in evaluation if _key(example) not in trained]
    index = NearIndex()
    for number, hashed in enumerate(_hashes(training, decode)):
        index.add(number, hashed)
    near = sum(index.find(hashed) is not None for hashed in _hashes(others, decode))
    return Overlap(len(evaluation), len(evaluation) - len(others), near)


def _key(example: Example) -> bytes:
    return np.asarray(example.tokens, dtype=np.int32).tobytes()


def _hashes(examples: Sequence[Example], decode: Decode) -> Iterator[RMinHash]:
    texts = (decode([int(token) for token in example.tokens]) for example in islice(examples, _MOST))
    while chunk := list(islice(texts, _CHUNK)):
        yield from hashes(chunk)
