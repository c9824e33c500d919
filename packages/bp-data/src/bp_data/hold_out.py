"""Holding examples out of training, to evaluate on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from bp_core.examples import Example

from .split import count_held_out


def hold_out(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Examples to train on, and those of a share of the different ones; equal examples stay together, order is kept.

    Which they are depends on the seed and on their tokens, not on their place. Raises BadValue if a side were empty.
    """
    keys = np.array([_key(example, seed) for example in examples], dtype=np.uint64)
    distinct = np.unique(keys)
    held = keys <= distinct[count_held_out(len(distinct), share) - 1]
    sides = {side: [examples[int(i)] for i in np.flatnonzero(held == side)] for side in (False, True)}
    return sides[False], sides[True]


def _key(example: Example, seed: int) -> int:
    """A number drawn for what the example says: the lowest are held out."""
    tokens = np.asarray(example.tokens, dtype=np.int32).tobytes()
    return int.from_bytes(hashlib.blake2b(tokens, digest_size=8, key=str(seed).encode()).digest())
