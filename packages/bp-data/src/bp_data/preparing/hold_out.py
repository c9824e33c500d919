"""Holding examples out of training, to evaluate on."""

from __future__ import annotations

import dataclasses
import hashlib
from array import array
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from bp_core.choices import PAIRED
from bp_core.examples import Example

from ..split import count_held_out
from .example_arrays import Collector, Examples
from .prepared import Prepared


def hold_out(prepared: Prepared, share: float, seed: int) -> tuple[Prepared, Examples]:
    """Split off a share of the distinct rows: examples, pairs, or the examples of a row's thoughts.

    Returns the training data, unpacked, and the held-out examples.

    Equal rows stay on one side, and the order is kept. The choice depends on the seed and the tokens, not on the
    position. The report is still that of all rows. Raises BadValue if a side would be empty.
    """
    sizes = _sizes(prepared)
    ends = np.cumsum(sizes)
    rows = (prepared.examples[int(end - size) : int(end)] for end, size in zip(ends, sizes, strict=True))
    keys = np.array([_key(row, seed) for row in rows], dtype=np.uint64)
    distinct = np.unique(keys)
    held = np.repeat(keys <= distinct[count_held_out(len(distinct), share) - 1], sizes)
    kept, taken = (_collected(prepared.examples[int(i)] for i in np.flatnonzero(held == side)) for side in (0, 1))
    return dataclasses.replace(prepared, examples=kept, packed=None, rows=None), taken


def _sizes(prepared: Prepared) -> NDArray[np.int64]:
    """How many examples each row has, int64 [rows]."""
    count = len(prepared.examples)
    if prepared.rows is None:
        size = 2 if prepared.report.method in PAIRED else 1
        return np.full(count // size, size)
    borders = np.flatnonzero(np.diff(prepared.rows)) + 1
    return np.diff(borders, prepend=0, append=count)


def _key(row: Iterable[Example], seed: int) -> int:
    """A pseudo-random number from the tokens of a row; the lowest are held out."""
    tokens = b"".join(np.asarray(example.tokens, dtype=np.int32).tobytes() for example in row)
    return int.from_bytes(hashlib.blake2b(tokens, digest_size=8, key=str(seed).encode()).digest())


def _collected(examples: Iterable[Example]) -> Examples:
    found = Collector()
    for example in examples:
        found.add(array("i", example.tokens), bytes(example.trained), example.desirable)
    return found.examples()
