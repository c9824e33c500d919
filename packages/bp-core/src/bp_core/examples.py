"""Tokenised examples, and the batches of them that training uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Example:
    """One tokenised row. `trained[i]` is 1 if token i carries loss; token 0 never does, since nothing precedes it.

    `desirable` is the rating of its answer (KTO).
    """

    tokens: Sequence[int]
    trained: Sequence[int]
    desirable: bool = True

    @property
    def trained_tokens(self) -> int:
        return sum(self.trained)


@dataclass(frozen=True, slots=True)
class Batch:
    """A micro-batch without padding: examples end to end. The rail keeps them from attending to each other.

    numpy arrays: tokens int32 [total], trained bool [total], lengths int32 [examples], summing to total. For
    preference pairs each chosen example is followed by its rejected one. Rated examples (KTO) have desirable
    bool [examples], and `kl_reference`, which is `Rail.kl_reference` averaged over the step, in nats.
    """

    tokens: Any
    trained: Any
    lengths: Any
    desirable: Any = None
    kl_reference: float = 0.0


class StepBatch(Protocol):
    """The examples of one optimizer step, in rows: one example each, several packed ones, or a preference pair.

    `weight` is 1 / the number of trained tokens, or of pairs or rated examples, over which the loss is a mean.
    `tokens` and `trained_tokens` are counts.
    """

    @property
    def trained_tokens(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def weight(self) -> float: ...
    def split(self, micro_batch: int, kl_reference: float = 0.0) -> Iterable[Batch]:
        """Micro-batches of at most `micro_batch` rows."""

    def mismatched(self, micro_batch: int) -> Iterable[Batch]:
        """For KTO, each prompt with another row's answer, for `Rail.kl_reference`; nothing for other methods."""


class Batches(Protocol):
    """An endless, deterministic stream of steps. `position` counts the rows taken; `seek` restores it."""

    @property
    def position(self) -> int: ...
    def take(self, count: int) -> StepBatch: ...
    def seek(self, position: int) -> None: ...


@dataclass(frozen=True)
class Sample:
    """A row kept to prove an export with: its text, tokens and loss mask, and the tokens before the answer."""

    text: str
    tokens: tuple[int, ...]
    trained: tuple[int, ...]
    prompt: tuple[int, ...]


@dataclass(frozen=True)
class Conversation:
    """A row as messages: its turns, and the tools that it has, as OpenAI and transformers write them."""

    turns: list[dict[str, Any]]
    tools: tuple[dict[str, Any], ...] = ()

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Conversation:
        """From what `dataclasses.asdict` made, perhaps read from JSON."""
        return cls(list(row["turns"]), tuple(row["tools"]))


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Up to `count` of the items, in their order, evenly from all over them."""
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]
