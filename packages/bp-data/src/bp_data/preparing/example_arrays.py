"""Many examples in flat arrays; single Example objects are created on demand."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from bp_core.examples import Example


class Examples(Sequence[Example]):
    """numpy arrays, perhaps memory-mapped: tokens int32 [total], trained uint8 [total], ends int64 [examples], and
    desirable uint8 [examples], 0 for answers rated as bad."""

    def __init__(self, tokens: Any, trained: Any, ends: Any, desirable: Any) -> None:
        self.tokens, self.trained, self.ends, self.desirable = tokens, trained, ends, desirable

    @property
    def lengths(self) -> Any:
        """The length of each example in tokens, int64 [examples]."""
        return np.diff(self.ends, prepend=0)

    @property
    def trained_tokens(self) -> int:
        """The number of trained tokens in all examples."""
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
        return Example(memoryview(self.tokens[part]), memoryview(self.trained[part]), bool(self.desirable[index]))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Examples):
            return NotImplemented
        names = ("tokens", "trained", "ends", "desirable")
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)

    __hash__ = None  # type: ignore[assignment]


class Collector:
    """Collects examples one by one into Examples, without a copy."""

    def __init__(self) -> None:
        self._tokens, self._trained, self._ends, self._desirable = array("i"), bytearray(), array("q"), bytearray()

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, tokens: array[int], trained: bytes, desirable: bool = True) -> None:
        self._tokens.extend(tokens)
        self._trained += trained
        self._ends.append(len(self._tokens))
        self._desirable.append(desirable)

    def examples(self) -> Examples:
        """All examples. Nothing can be added afterwards, because numpy holds the buffers."""
        return Examples(
            np.frombuffer(self._tokens, np.int32),
            np.frombuffer(self._trained, np.uint8),
            np.frombuffer(self._ends, np.int64),
            np.frombuffer(self._desirable, np.uint8),
        )
