"""An endless, deterministic stream of examples, cut into optimizer steps and those into micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bp_core.examples import Batch, Example


@dataclass(frozen=True)
class Step:
    """The examples of one optimizer step."""

    examples: Sequence[Example]

    @property
    def targets(self) -> int:
        return sum(example.targets for example in self.examples)

    @property
    def tokens(self) -> int:
        return sum(len(example.tokens) for example in self.examples)

    def split(self, micro_batch: int) -> Iterator[Batch]:
        """Micro-batches of so many examples, in order; the last may be smaller."""
        assert micro_batch > 0, "a micro-batch has at least one example"
        for start in range(0, len(self.examples), micro_batch):
            yield _batch(self.examples[start : start + micro_batch])


class Batches:
    """Examples without end, every epoch in an order of its own. `position` counts the examples taken so far."""

    def __init__(self, examples: Sequence[Example], seed: int) -> None:
        assert examples, "there are no examples"
        self._examples = examples
        self._seed = seed
        self._epoch = -1
        self._order: list[int] = []
        self.position = 0

    def take(self, count: int) -> Step:
        """The next `count` examples; they may come from two epochs or more."""
        start, self.position = self.position, self.position + count
        return Step([self._example(position) for position in range(start, self.position)])

    def seek(self, position: int) -> None:
        """Go on as if `position` examples had been taken."""
        assert position >= 0, "a position is not negative"
        self.position = position

    def _example(self, position: int) -> Example:
        epoch, index = divmod(position, len(self._examples))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, _permutation(self._seed, epoch, len(self._examples))
        return self._examples[self._order[index]]


def _permutation(seed: int, epoch: int, size: int) -> list[int]:
    # Sorting raw bits: numpy promises the bits of PCG64 for ever, but not how its Generator would shuffle with them.
    keys = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(size)
    order: list[int] = np.argsort(keys, kind="stable").tolist()
    return order


def _batch(examples: Sequence[Example]) -> Batch:
    return Batch(
        tokens=np.concatenate([np.asarray(example.tokens, dtype=np.int32) for example in examples]),
        trained=np.concatenate([np.frombuffer(bytes(example.trained), dtype=np.bool_) for example in examples]),
        lengths=np.array([len(example.tokens) for example in examples], dtype=np.int32),
    )
