"""What training consumes: one tokenised example, and a micro-batch of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Example:
    """One tokenised row. `trained[i]` is 1 if token i carries loss; token 0 never does, nothing precedes it.

    `desirable` is the verdict on its answer, where answers are rated.
    """

    tokens: Sequence[int]
    trained: Sequence[int]
    desirable: bool = True

    @property
    def targets(self) -> int:
        return sum(self.trained)


@dataclass(frozen=True, slots=True)
class Batch:
    """A micro-batch, unpadded: examples end to end, kept by the rail from seeing each other.

    numpy arrays: tokens int32 [total], trained bool [total], lengths int32 [examples], summing to total. Of preferences
    each chosen example is followed by the rejected one. Rated examples have desirable bool [examples], and the `drift`
    that `Rail.drift` measured over the step.
    """

    tokens: Any
    trained: Any
    lengths: Any
    desirable: Any = None
    drift: float = 0.0


class StepBatch(Protocol):
    """The examples of one optimizer step, in rows: one example each, several packed ones, or the two of a preference.

    `weight` is 1 / what the loss is a mean over: the trained tokens, or the pairs or rated examples of a preference
    method. It is known before anything is computed.
    """

    @property
    def targets(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def weight(self) -> float: ...
    def split(self, micro_batch: int, drift: float = 0.0) -> Iterable[Batch]:
        """Micro-batches of at most so many rows."""
        ...

    def mismatched(self, micro_batch: int) -> Iterable[Batch]:
        """For KTO, each prompt with another one's answer, to measure the drift on; nothing for other methods."""
        ...


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
