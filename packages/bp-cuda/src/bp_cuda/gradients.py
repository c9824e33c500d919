"""What a team adds up before every update, so that all take the same step."""

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
from bp_core.process_group import Team, agreed

from ._errors import translated
from .fsdp import together
from .process_group import answered, broadcast

_BUCKET = 1 << 23  # numbers that are sent at once


class Gradients:
    """The gradients of some parameters. Sums are float32 and taken in space that exists before the first step."""

    def __init__(self, team: Team, parameters: Mapping[str, Parameter]) -> None:
        self._team, self._parameters = team, list(parameters.values())
        self._apart = team.size > 1 and not any(
            isinstance(p, DTensor) for p in self._parameters
        )  # else added up before
        size = min(_BUCKET, sum(parameter.numel() for parameter in self._parameters))
        self._space = torch.empty(size if self._apart else 0, device=self._parameters[0].device)

    def clip(self, limit: float) -> float:
        """Make everybody's gradients the sum of all, no longer than `limit`; return how long the sum was.

        Memory runs out in all processes or in none.
        """
        if self._apart:
            agreed(self._team, self._make_room)
            for bucket in self._buckets():
                self._exchange(bucket)
        return agreed(self._team, partial(self._clip, limit))

    def _clip(self, limit: float) -> float:
        with translated():
            return together(torch.nn.utils.clip_grad_norm_(self._parameters, limit)).item()

    def _make_room(self) -> None:
        """A process that had no examples in this step has no gradients yet."""
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
        with answered():
            dist.all_reduce(space)
        for part, piece in zip(parts, pieces, strict=True):
            piece.copy_(part)

    def _buckets(self) -> Iterator[list[Tensor]]:
        """All gradients in pieces, as many at once as there is space for."""
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
def once(team: Team) -> Iterator[None]:
    """What the others do at this moment too, and could not take back if memory ran out here."""
    try:
        yield
    except OutOfMemory as error:
        if team.size == 1:
            raise
        raise PeerLost(f"memory ran out in the middle of an update: {error}") from error


def same(team: Team, tensors: Iterable[Tensor]) -> None:
    """Give everybody what rank 0 has; of what is shared out each has its own."""
    if team.size > 1:
        for tensor in tensors:
            if not isinstance(tensor, DTensor):
                broadcast(tensor)


def same_chance(team: Team, device: torch.device) -> None:
    """Give everybody rank 0's random state: rounding by chance must fall alike, and a checkpoint holds one state."""
    if team.size == 1:
        return
    state = torch.get_rng_state()
    broadcast(state)
    torch.set_rng_state(state)
    if device.type == "cuda":
        state = torch.cuda.get_rng_state(device)
        broadcast(state)
        torch.cuda.set_rng_state(state, device)
