"""Duplicate rows, found by an 8-byte hash of each row, within a file and between two files."""

from __future__ import annotations

import hashlib
import json
from array import array
from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from ..formats.records import AnyRecord, content_of

_DIGITS = "0123456789"
NO_KEY = 0  # the key of rows without content
_encode = json.JSONEncoder(sort_keys=True).encode


class Places:
    """The locations of rows (`file:line`) by row number, in 8 bytes a row."""

    def __init__(self) -> None:
        self._numbers = array("q")
        self._starts: list[int] = []
        self._names: list[str] = []

    def append(self, place: str) -> None:
        name = place.rstrip(_DIGITS)
        if not self._names or name != self._names[-1]:
            self._starts.append(len(self._numbers))
            self._names.append(name)
        self._numbers.append(int(place[len(name) :] or -1))

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, row: int) -> str:
        number = self._numbers[row]
        return self._names[bisect_right(self._starts, row) - 1] + (str(number) if number >= 0 else "")


def key(record: AnyRecord) -> int:
    """A hash of the record's content in any format; different records collide once in 2^63 pairs."""
    content = _encode(content_of(record)).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()) | 1


def repeats(keys: array[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows with the key of an earlier row, in order, and the first row with that key; int64 [repeats] each."""
    values = np.frombuffer(keys, dtype=np.uint64)
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    same = np.zeros(len(ranked), dtype=np.bool_)
    same[1:] = (ranked[1:] == ranked[:-1]) & (ranked[1:] != NO_KEY)
    first = order[np.maximum.accumulate(np.where(same, 0, np.arange(len(ranked))))]
    rows, firsts = order[same], first[same]
    back = np.argsort(rows)
    return rows[back], firsts[back]


def shared(keys: array[int], others: array[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of ours that are also in `others`, and the first matching row there; int64 [matches] each."""
    theirs, first = np.unique(np.frombuffer(others, dtype=np.uint64), return_index=True)
    ours = np.frombuffer(keys, dtype=np.uint64)
    at = np.minimum(np.searchsorted(theirs, ours), len(theirs) - 1)
    rows = np.flatnonzero((theirs[at] == ours) & (ours != NO_KEY))
    return rows, first[at[rows]]
