"""AdamW with 8-bit moments, by bitsandbytes (arXiv:2110.02861), which importing this module imports.

Paged moments are in memory shared by card and host, and move to the host when the card is full (arXiv:2305.14314,
section 3).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .lean_bitsandbytes import AdamW8bit, functional
from .stochastic_rounding import Workspace


class EightBitAdamW(AdamW8bit):
    """bitsandbytes' AdamW8bit, but bfloat16 weights are updated in float32 and rounded stochastically."""

    _space: Workspace | None = None

    def allocate(self) -> None:
        """Allocate the moments now, so that no step has to."""
        for number, group in enumerate(self.param_groups):
            for position, parameter in enumerate(group["params"]):
                self.init_state(group, parameter, number, position)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def update_step(self, group: dict[str, Any], p: Tensor, gindex: int, pindex: int) -> None:
        if p.dtype != torch.bfloat16:
            super().update_step(group, p, gindex, pindex)  # type: ignore[no-untyped-call]
            return
        state = self.state[p]
        state["step"] += 1
        self._space = self._space or Workspace(group["params"])
        for where, value, gradient in self._space.pieces(p):
            _update(value, gradient, state, where, group)


def _update(value: Tensor, gradient: Tensor, state: dict[str, Any], where: slice, group: dict[str, Any]) -> None:
    """Update one piece of a weight. Small weights have 32-bit moments, without scales."""
    first, second = (_piece(state[name], where) for name in ("state1", "state2"))
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
