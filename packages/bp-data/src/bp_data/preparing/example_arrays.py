"""Examples kept small: all tokens in one flat array, all masks in another, and single examples made on demand."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from bp_core.examples import Example


class Examples(Sequence[Example]):
    """numpy arrays, perhaps on disk: tokens int32 [total], trained uint8 [total], ends int64 [examples], and
    desirable uint8 [examples], which is 0 for answers that are rated bad."""

    def __init__(self, tokens: Any, trained: Any, ends: Any, desirable: Any) -> None:
        self.tokens, self.trained, self.ends, self.desirable = tokens, trained, ends, desirable

    @property
    def lengths(self) -> Any:
        """Tokens of each example, int64."""
        return np.diff(self.ends, prepend=0)

    @property
    def trained_tokens(self) -> int:
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
        return Example(memoryview(self.tokens[part]), memoryview(self.trained[part]), bool(self.desirable[index]))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Examples):
            return NotImplemented
        names = ("tokens", "trained", "ends", "desirable")
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)

    __hash__ = None  # type: ignore[assignment]


class Collector:
    """Takes examples one by one and gives them back as Examples, in the same memory."""

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
        """All of them. Nothing can be added afterwards: numpy holds the buffers."""
        buffers: tuple[Any, ...] = (self._tokens, self._trained, self._ends, self._desirable)
        kinds: tuple[Any, ...] = (np.int32, np.uint8, np.int64, np.uint8)
        return Examples(*(np.frombuffer(buffer, kind) for buffer, kind in zip(buffers, kinds, strict=True)))
