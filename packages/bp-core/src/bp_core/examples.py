"""What training consumes: one tokenised example, and a micro-batch of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Example:
    """One tokenised row. `trained[i]` is 1 if token i carries loss; token 0 never does, nothing precedes it."""

    tokens: Sequence[int]
    trained: Sequence[int]

    @property
    def targets(self) -> int:
        return sum(self.trained)


@dataclass(frozen=True, slots=True)
class Batch:
    """A micro-batch, unpadded: examples end to end, kept by the rail from seeing each other.

    numpy arrays: tokens int32 [total], trained bool [total], lengths int32 [examples], summing to total.
    """

    tokens: Any
    trained: Any
    lengths: Any


class StepBatch(Protocol):
    """The examples of one optimizer step. The loss weight 1/targets is known before anything is computed."""

    @property
    def targets(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    def split(self, micro_batch: int) -> Iterable[Batch]: ...


class Batches(Protocol):
    """An endless, deterministic stream of steps whose position can be saved and restored."""

    @property
    def position(self) -> int: ...
    def take(self, count: int) -> StepBatch: ...
    def seek(self, position: int) -> None: ...


@dataclass(frozen=True)
class Sample:
    """A row kept to prove an export with: rendered text, its tokens and loss mask, and the prompt before the answer."""

    text: str
    tokens: tuple[int, ...]
    trained: tuple[int, ...]
    prompt: tuple[int, ...]
