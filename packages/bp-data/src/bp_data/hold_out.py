"""Holding examples out of training, to evaluate on."""

from __future__ import annotations

import dataclasses
import hashlib
from array import array
from collections.abc import Iterable

import numpy as np

from bp_core.examples import Example

from .examples import Collector, Examples
from .prepared import Prepared
from .split import count_held_out


def hold_out(prepared: Prepared, share: float, seed: int) -> tuple[Prepared, Examples]:
    """What to train on, unpacked, and a share of the different examples; equal ones stay together, order is kept.

    Which they are depends on the seed and on their tokens, not on their place. The report stays that of all rows.
    Raises BadValue if a side were empty.
    """
    keys = np.array([_key(example, seed) for example in prepared.examples], dtype=np.uint64)
    distinct = np.unique(keys)
    held = keys <= distinct[count_held_out(len(distinct), share) - 1]
    kept, taken = (_collected(prepared.examples[int(i)] for i in np.flatnonzero(held == side)) for side in (0, 1))
    return dataclasses.replace(prepared, examples=kept, packed=None), taken


def _key(example: Example, seed: int) -> int:
    """A number drawn for what the example says: the lowest are held out."""
    tokens = np.asarray(example.tokens, dtype=np.int32).tobytes()
    return int.from_bytes(hashlib.blake2b(tokens, digest_size=8, key=str(seed).encode()).digest())


def _collected(examples: Iterable[Example]) -> Examples:
    found = Collector()
    for example in examples:
        found.add(array("i", example.tokens), bytes(example.trained))
    return found.examples()
