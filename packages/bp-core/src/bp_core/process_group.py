"""The processes that train one model together, started by a launcher such as torchrun or `accelerate launch`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from .errors import ERRORS, BackpropagateError, OutOfMemory

T = TypeVar("T")


class ProcessGroup(Protocol):
    """Exchange between the processes: what can differ from one to another is gathered, and the same in all then."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0. Only rank 0 writes files and prints."""

    @property
    def size(self) -> int: ...

    def gather(self, value: Any) -> list[Any]:
        """The JSON values of all processes, by rank. All must call it, in the same order. Raises PeerLost."""

    def leave(self) -> None:
        """Leave the group, so that the others notice at once."""


@dataclass(frozen=True)
class SingleProcess:
    """A group of one process."""

    rank: int = 0
    size: int = 1

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def leave(self) -> None:
        return None


@dataclass(frozen=True)
class LaunchEnv:
    """Rank and number of processes, in all and on this machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def launch_env() -> LaunchEnv:
    """Read the environment variables that torchrun sets."""
    names = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    return LaunchEnv(*(int(os.environ.get(name) or default) for name, default in names.items()))


def all_agree(group: ProcessGroup, act: Callable[[], T]) -> T:
    """Call `act` in every process and return its result here. An error of ours in one process is raised in all."""
    if group.size == 1:
        return act()
    result, error = _outcome(act)
    errors = group.gather(error.as_dict() if error else None)
    if error:
        raise error
    for other in filter(None, errors):
        raise ERRORS[other["code"]](other["message"], where=other["where"], fix=other["fix"])
    assert result is not None
    return result[0]


def no_op() -> None:
    """What a process does in `all_agree` while another one works."""


def on_rank0(group: ProcessGroup, act: Callable[[], T]) -> T:
    """Call `act` on rank 0 only; its result, a JSON value, or its error is the same in all processes."""
    done = all_agree(group, act if group.rank == 0 else no_op)
    result: T = group.gather(done)[0]
    return result


def _outcome(act: Callable[[], T]) -> tuple[tuple[T] | None, BackpropagateError | None]:
    try:
        return (act(),), None
    except BackpropagateError as error:
        return None, error
    except MemoryError as error:
        return None, OutOfMemory(str(error) or "the host's memory is exhausted.")
