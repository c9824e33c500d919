"""Summing gradients over the processes before each update, so that all take the same step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter

from bp_core.errors import OutOfMemory, PeerLost
from bp_core.process_group import ProcessGroup, all_agree

from ._errors import translated
from .fsdp import full_tensor
from .process_group import broadcast, peer_errors

_BUCKET = 1 << 23  # numbers sent at once


class Gradients:
    """The gradients of the trained parameters. Sums are float32, in a buffer allocated before the first step."""

    def __init__(self, group: ProcessGroup, parameters: Mapping[str, Parameter]) -> None:
        self._group, self._parameters = group, list(parameters.values())
        sharded = any(isinstance(parameter, DTensor) for parameter in self._parameters)  # added up by FSDP
        self._reduces = group.size > 1 and not sharded
        size = min(_BUCKET, sum(parameter.numel() for parameter in self._parameters))
        self._space = torch.empty(size if self._reduces else 0, device=self._parameters[0].device)

    def clip(self, limit: float) -> float:
        """Sum the gradients over the processes and clip their L2 norm to `limit`; return the norm before clipping.

        When memory runs out in one process, OutOfMemory is raised in all.
        """
        if self._reduces:
            all_agree(self._group, self._allocate)
            for bucket in self._buckets():
                self._exchange(bucket)
        return all_agree(self._group, partial(self._clip, limit))

    def _clip(self, limit: float) -> float:
        with translated():
            return full_tensor(torch.nn.utils.clip_grad_norm_(self._parameters, limit)).item()

    def _allocate(self) -> None:
        """Give zero gradients to a process that had no examples in this step, and make all contiguous."""
        with translated():
            for parameter in self._parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                elif not parameter.grad.is_contiguous():
                    parameter.grad = parameter.grad.contiguous()

    def _exchange(self, pieces: list[Tensor]) -> None:
        sizes = [piece.numel() for piece in pieces]
        space = self._space[: sum(sizes)]
        parts = space.split(sizes)
        for part, piece in zip(parts, pieces, strict=True):
            part.copy_(piece)
        with peer_errors():
            dist.all_reduce(space)
        for part, piece in zip(parts, pieces, strict=True):
            piece.copy_(part)

    def _buckets(self) -> Iterator[list[Tensor]]:
        """All gradients in pieces, each list as much as fits into the buffer."""
        room, bucket = self._space.numel(), list[Tensor]()
        for parameter in self._parameters:
            assert parameter.grad is not None
            for piece in parameter.grad.view(-1).split(self._space.numel()):
                if piece.numel() > room:
                    yield bucket
                    room, bucket = self._space.numel(), []
                bucket.append(piece)
                room -= piece.numel()
        yield bucket


@contextmanager
def irreversible(group: ProcessGroup) -> Iterator[None]:
    """An update that the other processes make too, and that could not be replayed if memory ran out only here."""
    try:
        yield
    except OutOfMemory as error:
        if group.size == 1:
            raise
        raise PeerLost(f"memory ran out in the middle of an update: {error}") from error


def broadcast_tensors(tensors: Iterable[Tensor]) -> None:
    """Copy rank 0's tensors to all processes; sharded ones are left alone."""
    for tensor in tensors:
        if not isinstance(tensor, DTensor):
            broadcast(tensor)


def broadcast_random_state(group: ProcessGroup, device: torch.device) -> None:
    """Copy rank 0's random state to all, so that stochastic rounding is equal and a checkpoint needs one state."""
    if group.size == 1:
        return
    state = torch.get_rng_state()
    broadcast(state)
    torch.set_rng_state(state)
    if device.type == "cuda":
        state = torch.cuda.get_rng_state(device)
        broadcast(state)
        torch.cuda.set_rng_state(state, device)
