"""The processes of one run, connected by torch.distributed: NCCL between cards, Gloo on the host."""

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
from bp_core.process_group import LaunchEnv, ProcessGroup, SingleProcess, launch_env

from ._errors import is_out_of_memory

# How long to wait for a process that does not answer, such as rank 0 while it prepares data; an ended one is noticed
# at once.
_PATIENCE = timedelta(minutes=30)
_SMALL = 256  # bytes: most values fit, and need one exchange only


class TorchProcessGroup:
    """Several processes. Values are exchanged through Gloo, which notices at once when a process ends."""

    def __init__(self, here: LaunchEnv) -> None:
        self.rank, self.size = here.rank, here.size

    def gather(self, value: Any) -> list[Any]:
        text = json.dumps(value).encode()
        head = len(text).to_bytes(8) + text[: _SMALL - 8]
        with peer_errors():
            heads = self._all_gather(head, _SMALL)
            sizes = [int.from_bytes(head[:8]) for head in heads]
            texts = [head[8:] for head in heads]
            if max(sizes) > _SMALL - 8:
                texts = self._all_gather(text, max(sizes))
        return [json.loads(text[:size]) for text, size in zip(texts, sizes, strict=True)]

    def leave(self) -> None:
        _leave()

    def _all_gather(self, text: bytes, size: int) -> list[bytes]:
        """The texts of all processes, padded with zeros to `size` bytes."""
        own = torch.frombuffer(bytearray(text.ljust(size, b"\0")), dtype=torch.uint8)
        texts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(texts, own)
        return [part.numpy().tobytes() for part in texts]


def join(device: torch.device) -> ProcessGroup:
    """The process group that a launcher started; waits until all processes have joined. Raises PeerLost."""
    here = launch_env()
    if here.size == 1:
        return SingleProcess()
    connect(device)
    return TorchProcessGroup(here)


def connect(device: torch.device) -> None:
    """Initialise torch.distributed, also for a single process."""
    if dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    alone: dict[str, Any] = {}
    if launch_env().size == 1:
        alone = {"store": dist.HashStore(), "rank": 0, "world_size": 1}  # type: ignore[attr-defined]
    with peer_errors():
        dist.init_process_group(backend, timeout=_PATIENCE, **alone)
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def peer_errors() -> Iterator[None]:
    """Raise PeerLost when another process has ended or does not answer."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise PeerLost(f"another process of this run is gone: {str(error).splitlines()[0]}") from error


def broadcast(tensor: Tensor) -> None:
    """Copy rank 0's values to all processes, if there are others, bit for bit, in any number format."""
    if dist.is_initialized():
        with peer_errors():
            dist.broadcast(tensor.detach().view(-1).view(torch.uint8), src=0)
