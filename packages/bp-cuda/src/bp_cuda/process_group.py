"""The processes of one run, connected by torch.distributed: NCCL between cards, Gloo for everything on the host."""

from __future__ import annotations

import atexit
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bp_core.errors import PeerLost
from bp_core.process_group import Alone, Launched, Team, launched

from ._errors import is_out_of_memory

# For a process that lives and does not answer; one that ends is noticed at once. Rank 0 may prepare data for so long.
_PATIENCE = timedelta(minutes=30)
_SMALL = 256  # bytes: most values, in one exchange


class Processes:
    """A team of several. What is told goes through Gloo, which notices at once when a process ends."""

    def __init__(self, here: Launched) -> None:
        self.rank, self.size = here.rank, here.size

    def gather(self, value: Any) -> list[Any]:
        said = json.dumps(value).encode()
        head = len(said).to_bytes(8) + said[: _SMALL - 8]
        with answered():
            heads = self._all_gather(head, _SMALL)
            sizes = [int.from_bytes(head[:8]) for head in heads]
            longest = max(sizes)
            told = [head[8:] for head in heads] if longest <= _SMALL - 8 else self._all_gather(said, longest)
        return [json.loads(text[:size]) for text, size in zip(told, sizes, strict=True)]

    def leave(self) -> None:
        _leave()

    def _all_gather(self, said: bytes, size: int) -> list[bytes]:
        mine = torch.frombuffer(bytearray(said.ljust(size, b"\0")), dtype=torch.uint8)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(found, mine)
        return [part.numpy().tobytes() for part in found]


def join(device: torch.device) -> Team:
    """The team that a launcher started, once all of it is here. Raises PeerLost."""
    here = launched()
    if here.size == 1:
        return Alone()
    connect(device)
    return Processes(here)


def connect(device: torch.device) -> None:
    """What torch.distributed needs before it does anything, also for a process by itself."""
    if dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    alone: dict[str, Any] = {}
    if launched().size == 1:
        alone = {"store": dist.HashStore(), "rank": 0, "world_size": 1}  # type: ignore[attr-defined]
    with answered():
        dist.init_process_group(backend, timeout=_PATIENCE, **alone)
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def answered() -> Iterator[None]:
    """Raise PeerLost when another process ended or does not answer."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise PeerLost(f"another process of this run is gone: {str(error).splitlines()[0]}") from error


def broadcast(tensor: Tensor) -> None:
    """Give everybody rank 0's values, bit for bit, whatever the number format."""
    with answered():
        dist.broadcast(tensor.detach().view(-1).view(torch.uint8), src=0)
