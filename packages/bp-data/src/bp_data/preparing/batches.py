"""An endless, deterministic stream of rows, cut into optimizer steps and those into micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

import numpy as np

from bp_core.choices import PAIRED, Method
from bp_core.examples import Batch, Example

from .packing import Rows, pairs


@dataclass(frozen=True)
class Step:
    """The rows of one optimizer step: one example each, several where they are packed, two where they are compared."""

    rows: Sequence[Sequence[Example]]
    method: Method = "sft"

    @property
    def trained_tokens(self) -> int:
        return sum(example.trained_tokens for row in self.rows for example in row)

    @property
    def tokens(self) -> int:
        return sum(map(_tokens, self.rows))

    @property
    def weight(self) -> float:
        """1 / what the loss is a mean over: trained tokens, or pairs or rated examples."""
        return 1 / (self.trained_tokens if self.method == "sft" else len(self.rows))

    def mismatched(self, micro_batch: int) -> Iterator[Batch]:
        """For KTO: each prompt with the answer of the row before, none longer than the longest row. Else nothing."""
        if self.method == "kto" and len(self.rows) > 1:
            longest = max(map(_tokens, self.rows))
            rows = [
                [_mismatch(row[0], other[0], longest)] for row, other in zip(self.rows, self._turned(), strict=True)
            ]
            yield from Step(rows).split(micro_batch)

    def _turned(self) -> list[Sequence[Example]]:
        return [self.rows[-1], *self.rows[:-1]]

    def split(self, micro_batch: int, kl_reference: float = 0.0) -> Iterator[Batch]:
        """Micro-batches of at most so many rows, as few as can be, with as even a number of tokens as can be had.

        Longest row first, each to the micro-batch with the fewest tokens (Graham 1969, LPT), kept in order therein.
        """
        assert micro_batch > 0, "a micro-batch has at least one row"
        sizes = [_tokens(row) for row in self.rows]
        parts: list[list[int]] = [[] for _ in range(0, len(sizes), micro_batch)]
        open_parts = [(0, number) for number in range(len(parts))]  # a heap: tokens, and which part
        for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
            size, number = heappop(open_parts)
            parts[number].append(index)
            if len(parts[number]) < micro_batch:
                heappush(open_parts, (size + sizes[index], number))
        for part in parts:
            yield _batch([example for index in sorted(part) for example in self.rows[index]], kl_reference)


class Batches:
    """Rows without end, every epoch in an order of its own. `position` counts the rows taken so far.

    A row is one example, or with `packed` the examples that it names; for methods that compare, two of them.
    """

    def __init__(
        self, examples: Sequence[Example], seed: int, packed: Rows | None = None, method: Method = "sft"
    ) -> None:
        assert examples, "there are no examples"
        self._examples = examples
        self._method = method
        self._packed = pairs(len(examples)) if method in PAIRED else packed
        self._rows = len(examples if self._packed is None else self._packed)
        self._seed = seed
        self._epoch = -1
        self._order: Any = ()
        self.position = 0

    def take(self, count: int) -> Step:
        """The next `count` rows; they may come from two epochs or more."""
        start, self.position = self.position, self.position + count
        return Step([self._row(position) for position in range(start, self.position)], self._method)

    def whole(self) -> Step:
        """All rows once, to evaluate on."""
        self.seek(0)
        return self.take(self._rows)

    def seek(self, position: int) -> None:
        """Go on as if `position` rows had been taken."""
        assert position >= 0, "a position is not negative"
        self.position = position

    def _row(self, position: int) -> list[Example]:
        epoch, index = divmod(position, self._rows)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, _permutation(self._seed, epoch, self._rows)
        row = int(self._order[index])
        return [self._examples[i] for i in ([row] if self._packed is None else self._packed[row])]


def _permutation(seed: int, epoch: int, size: int) -> Any:
    # Sorting raw bits: numpy promises the bits of PCG64 for ever, but not how its Generator would shuffle with them.
    keys = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(size)
    return np.argsort(keys, kind="stable")


def _tokens(row: Sequence[Example]) -> int:
    return sum(len(example.tokens) for example in row)


def _mismatch(prompted: Example, answering: Example, longest: int) -> Example:
    """The prompt of one example with the answer of another."""
    before, after = list(prompted.trained).index(1), list(answering.trained).index(1)
    tokens = [*prompted.tokens[:before], *answering.tokens[after:]][:longest]
    trained = [*prompted.trained[:before], *answering.trained[after:]][:longest]
    return Example(tokens, bytes(trained))


def _batch(examples: Sequence[Example], kl_reference: float) -> Batch:
    return Batch(
        tokens=np.concatenate([np.asarray(example.tokens, dtype=np.int32) for example in examples]),
        trained=np.concatenate([np.frombuffer(bytes(example.trained), dtype=np.bool_) for example in examples]),
        lengths=np.array([len(example.tokens) for example in examples], dtype=np.int32),
        desirable=np.array([example.desirable for example in examples], dtype=np.bool_),
        kl_reference=kl_reference,
    )
