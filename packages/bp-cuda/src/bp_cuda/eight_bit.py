"""AdamW with 8-bit moments, by bitsandbytes (arXiv:2110.02861), which importing this module imports.

Paged moments are in memory shared by card and host, and move to the host when the card is full (arXiv:2305.14314,
section 3). Moments on the host lie in its memory always, and each piece of them comes to the card for its update.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .lean_bitsandbytes import AdamW8bit, functional
from .stochastic_rounding import Workspace


class EightBitAdamW(AdamW8bit):
    """bitsandbytes' AdamW8bit, but bfloat16 weights are updated in float32 and rounded stochastically."""

    _space: Workspace | None = None

    def __init__(self, parameters: Iterable[Tensor], *, on_host: bool = False, **options: Any) -> None:
        self._on_host = on_host
        super().__init__(parameters, **options)  # type: ignore[no-untyped-call]
        self._moments: tuple[Tensor, Tensor] | None = None  # of one piece, on the card

    def get_state_buffer(self, p: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The moments of a weight; small ones have 32 bits, and stay where the weight is."""
        if self._on_host and p.dtype == torch.bfloat16 and dtype == torch.uint8:
            return in_host_memory(p.shape, pinned=p.is_cuda)
        buffer: Tensor = super().get_state_buffer(p, dtype)  # type: ignore[no-untyped-call]
        return buffer

    def allocate(self) -> None:
        """Allocate the moments and the workspace now, so that no step has to."""
        for number, group in enumerate(self.param_groups):
            for position, parameter in enumerate(group["params"]):
                self.init_state(group, parameter, number, position)  # type: ignore[no-untyped-call]
            if self._on_host:
                self._space = self._space or Workspace(group["params"])
                self._moments = self._space.moments()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)  # type: ignore[no-untyped-call]
        if self._moments and self._moments[0].is_cuda:
            torch.cuda.synchronize()  # what was copied to the host may be read from here on

    @torch.no_grad()
    def update_step(self, group: dict[str, Any], p: Tensor, gindex: int, pindex: int) -> None:
        if p.dtype != torch.bfloat16:
            super().update_step(group, p, gindex, pindex)  # type: ignore[no-untyped-call]
            return
        state = self.state[p]
        state["step"] += 1
        self._space = self._space or Workspace(group["params"])
        for where, value, gradient in self._space.pieces(p):
            kept = [_piece(state[name], where) for name in ("state1", "state2")]
            if self._moments is None or kept[0].dtype != torch.uint8:
                _update(value, gradient, (kept[0], kept[1]), state, where, group)
                continue
            first, second = (buffer[: len(value)] for buffer in self._moments)
            first.copy_(kept[0], non_blocking=True)
            second.copy_(kept[1], non_blocking=True)
            _update(value, gradient, (first, second), state, where, group)
            kept[0].copy_(first, non_blocking=True)
            kept[1].copy_(second, non_blocking=True)


def in_host_memory(shape: torch.Size, *, pinned: bool) -> Tensor:
    """Zeros, uint8 of that shape, in the host's memory; pinned, the card can copy it while the host goes on."""
    return torch.zeros(shape, dtype=torch.uint8, pin_memory=pinned)


def _update(
    value: Tensor,
    gradient: Tensor,
    moments: tuple[Tensor, Tensor],
    state: dict[str, Any],
    where: slice,
    group: dict[str, Any],
) -> None:
    """Update one piece of a weight. Small weights have 32-bit moments, without scales."""
    first, second = moments
    beta1, beta2 = group["betas"]
    eps, rate, decay, step = group["eps"], group["lr"], group["weight_decay"], state["step"]
    if first.dtype == torch.float32:
        functional.optimizer_update_32bit(
            "adam", gradient, value, first, beta1, eps, step, rate, second, beta2, weight_decay=decay
        )
        return
    blocks = slice(where.start // 256, -(-where.stop // 256))  # each of 256 values has a scale
    functional.optimizer_update_8bit_blockwise(
        "adam", gradient, value, first, second, beta1, beta2, 0.0, 0.0, eps, step, rate,
        state["qmap1"], state["qmap2"], state["absmax1"][blocks], state["absmax2"][blocks], weight_decay=decay,
    )  # fmt: skip


def _piece(moments: Tensor, where: slice) -> Tensor:
    """A slice of the moments that keeps bitsandbytes' attributes for paged memory."""
    piece = moments.view(-1)[where]
    for mark in ("is_paged", "page_deviceid"):
        if hasattr(moments, mark):
            setattr(piece, mark, getattr(moments, mark))
    return piece
