"""Examples kept small: all tokens in one flat array, all masks in another, and single examples made on demand."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from bp_core.examples import Example


class Examples(Sequence[Example]):
    """numpy arrays, perhaps on disk: tokens int32 [total], trained uint8 [total], ends int64 [examples]."""

    def __init__(self, tokens: Any, trained: Any, ends: Any) -> None:
        self.tokens, self.trained, self.ends = tokens, trained, ends

    @property
    def lengths(self) -> Any:
        """Tokens of each example, int64."""
        return np.diff(self.ends, prepend=0)

    @property
    def targets(self) -> int:
        """Trained tokens of all examples."""
        return int(np.count_nonzero(self.trained))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        part = slice(self.ends[index - 1] if index else 0, self.ends[index])
        return Example(memoryview(self.tokens[part]), memoryview(self.trained[part]))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Examples):
            return NotImplemented
        pairs = ((self.tokens, other.tokens), (self.trained, other.trained), (self.ends, other.ends))
        return all(np.array_equal(mine, theirs) for mine, theirs in pairs)

    __hash__ = None  # type: ignore[assignment]


class Collector:
    """Takes examples one by one and gives them back as Examples, in the same memory."""

    def __init__(self) -> None:
        self._tokens, self._trained, self._ends = array("i"), bytearray(), array("q")

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, tokens: array[int], trained: bytes) -> None:
        self._tokens.extend(tokens)
        self._trained += trained
        self._ends.append(len(self._tokens))

    def examples(self) -> Examples:
        """All of them. Nothing can be added afterwards: numpy holds the buffers."""
        flat = ((self._tokens, np.int32), (self._trained, np.uint8), (self._ends, np.int64))
        return Examples(*(np.frombuffer(buffer, dtype) for buffer, dtype in flat))
