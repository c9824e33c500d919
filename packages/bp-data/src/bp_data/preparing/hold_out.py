"""Holding examples out of training, to evaluate on."""

from __future__ import annotations

import dataclasses
import hashlib
from array import array
from collections.abc import Iterable

import numpy as np

from bp_core.choices import PAIRED
from bp_core.examples import Example

from ..split import count_held_out
from .example_arrays import Collector, Examples
from .prepared import Prepared


def hold_out(prepared: Prepared, share: float, seed: int) -> tuple[Prepared, Examples]:
    """Split off a share of the distinct examples or pairs; returns the training data, unpacked, and the held-out ones.

    Equal examples stay on one side, and the order is kept. The choice depends on the seed and the tokens, not on the
    position. The report is still that of all rows. Raises BadValue if a side would be empty.
    """
    size = 2 if prepared.report.method in PAIRED else 1
    rows = (prepared.examples[start : start + size] for start in range(0, len(prepared.examples), size))
    keys = np.array([_key(row, seed) for row in rows], dtype=np.uint64)
    distinct = np.unique(keys)
    held = np.repeat(keys <= distinct[count_held_out(len(distinct), share) - 1], size)
    kept, taken = (_collected(prepared.examples[int(i)] for i in np.flatnonzero(held == side)) for side in (0, 1))
    return dataclasses.replace(prepared, examples=kept, packed=None), taken


def _key(row: Iterable[Example], seed: int) -> int:
    """A pseudo-random number from the tokens of a row; the lowest are held out."""
    tokens = b"".join(np.asarray(example.tokens, dtype=np.int32).tobytes() for example in row)
    return int.from_bytes(hashlib.blake2b(tokens, digest_size=8, key=str(seed).encode()).digest())


def _collected(examples: Iterable[Example]) -> Examples:
    found = Collector()
    for example in examples:
        found.add(array("i", example.tokens), bytes(example.trained), example.desirable)
    return found.examples()
