"""An endless, deterministic stream of rows, cut into optimizer steps and micro-batches."""

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
    """The rows of one optimizer step: one example each, several packed ones, or a preference pair."""

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
        """1 / the number of trained tokens, or of pairs or rated examples."""
        return 1 / (self.trained_tokens if self.method == "sft" else len(self.rows))

    def mismatched(self, micro_batch: int) -> Iterator[Batch]:
        """For KTO: each prompt with the answer of the row before, cut to the longest row. Nothing for other methods."""
        if self.method == "kto" and len(self.rows) > 1:
            longest = max(map(_tokens, self.rows))
            pairs = zip(self.rows, [self.rows[-1], *self.rows[:-1]], strict=True)
            rows = [[_mismatch(row[0], other[0], longest)] for row, other in pairs]
            yield from Step(rows).split(micro_batch)

    def split(self, micro_batch: int, kl_reference: float = 0.0) -> Iterator[Batch]:
        """The fewest micro-batches of at most `micro_batch` rows, with about equal numbers of tokens.

        Rows are assigned longest first, each to the micro-batch with the fewest tokens (Graham 1969, LPT); inside a
        micro-batch they keep their order.
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
    """Endless rows, shuffled anew in every epoch. `position` counts the rows taken so far.

    A row is one example, with `packed` several, and for preference methods a pair.
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
        """Continue as if `position` rows had been taken."""
        assert position >= 0, "a position is not negative"
        self.position = position

    def _row(self, position: int) -> list[Example]:
        epoch, index = divmod(position, self._rows)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, _permutation(self._seed, epoch, self._rows)
        row = int(self._order[index])
        return [self._examples[i] for i in ([row] if self._packed is None else self._packed[row])]


def _permutation(seed: int, epoch: int, size: int) -> Any:
    # Sorted by raw bits: numpy keeps the bits of PCG64 stable, but not the shuffle of its Generator.
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
