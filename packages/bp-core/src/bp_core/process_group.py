"""The processes that train one model together, as a launcher such as torchrun or `accelerate launch` started them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from .errors import ERRORS, BackpropagateError, OutOfMemory

T = TypeVar("T")


class Team(Protocol):
    """Everything that can differ from process to process goes through here, and comes out the same in each."""

    @property
    def rank(self) -> int:
        """Which of them this process is. 0 leads: it alone writes, and talks."""
        ...

    @property
    def size(self) -> int: ...

    def gather(self, value: Any) -> list[Any]:
        """Everybody's JSON value, by rank. All must call it, in the same order. Raises PeerLost."""
        ...

    def leave(self) -> None:
        """Let the others know at once that this process takes no further part."""
        ...


@dataclass(frozen=True)
class Alone:
    """A process by itself."""

    rank: int = 0
    size: int = 1

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def leave(self) -> None:
        return None


@dataclass(frozen=True)
class Launched:
    """What a launcher said of this process: which of how many it is, in all and on this machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def launched() -> Launched:
    """From the environment that torchrun defines."""
    names = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    return Launched(*(int(os.environ.get(name) or default) for name, default in names.items()))


def agreed(team: Team, act: Callable[[], T]) -> T:
    """What `act` gives here, once everybody has done theirs. An error of ours in one process is raised in all."""
    if team.size == 1:
        return act()
    result, error = _outcome(act)
    found = next((told for told in team.gather(error.as_dict() if error else None) if told), None)
    if error:
        raise error
    if found:
        raise ERRORS[found["code"]](found["message"], where=found["where"], fix=found["fix"])
    assert result is not None
    return result[0]


def nothing() -> None:
    """This process's part of what another does."""


def led(team: Team, act: Callable[[], T]) -> T:
    """What `act`, done by rank 0 alone, gives: a JSON value, or an error of ours."""
    done = agreed(team, act if team.rank == 0 else nothing)
    result: T = team.gather(done)[0]
    return result


def _outcome(act: Callable[[], T]) -> tuple[tuple[T] | None, BackpropagateError | None]:
    try:
        return (act(),), None
    except BackpropagateError as error:
        return None, error
    except MemoryError as error:
        return None, OutOfMemory(str(error) or "the host's memory is exhausted.")
