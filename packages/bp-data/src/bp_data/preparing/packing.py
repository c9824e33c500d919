"""Packing several short examples into one row, so that rows are nearly full and steps are of similar size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np


class Rows(Sequence[Sequence[int]]):
    """The example numbers of each row: row i has `order[ends[i-1]:ends[i]]`, in the order of the data."""

    def __init__(self, order: Any, ends: Any) -> None:
        self._order, self._ends = order, ends

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Sequence[int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sequence[int]]: ...
    def __getitem__(self, index: int | slice) -> Sequence[int] | list[Sequence[int]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        start = self._ends[index - 1] if index else 0
        row: list[int] = self._order[start : self._ends[index]].tolist()
        return row

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rows):
            return NotImplemented
        return np.array_equal(self._order, other._order) and np.array_equal(self._ends, other._ends)

    __hash__ = None  # type: ignore[assignment]


def pairs(examples: int) -> Rows:
    """Rows of two consecutive examples: chosen and rejected."""
    return Rows(np.arange(examples), np.arange(2, examples + 1, 2))


def pack(lengths: Any, capacity: int) -> Rows:
    """Best-fit decreasing: the longest example first, each into the fullest row with enough room, or a new row.

    `lengths`, int [examples], are in tokens, none above `capacity`. Rows are indexed by their remaining room, with a
    bit mask of the rooms that occur, so that a million examples take seconds.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    longest_first = np.argsort(-lengths, kind="stable")
    row_of = np.empty(len(lengths), dtype=np.int32)
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = rows = 0  # bit r of `rooms`: some row has room for r tokens
    for example, length in zip(longest_first.tolist(), lengths[longest_first].tolist(), strict=True):
        if fits := rooms >> length:
            room = length + (fits & -fits).bit_length() - 1
            row = with_room[room].pop()
            rooms ^= 0 if with_room[room] else 1 << room
        else:
            room, row, rows = capacity, rows, rows + 1
        row_of[example] = row
        with_room[room - length].append(row)
        rooms |= 1 << (room - length)
    return Rows(np.argsort(row_of, kind="stable"), np.cumsum(np.bincount(row_of, minlength=rows)))
