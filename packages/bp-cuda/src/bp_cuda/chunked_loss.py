"""Cross-entropy of trained tokens in chunks: their logits never exist all at once.

The gradient is made in the forward pass: with p = softmax(logits), that of one token's loss by its hidden state is
(p − onehot) W, which needs nothing from what comes after. Any loss that is a function of the tokens' losses only
multiplies it, row by row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import pad

from bp_core import step_sizes


def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float | None = None) -> Tensor:
    """float32 [tokens]: −log p(target). hidden [tokens, width], weight [vocabulary, width], targets [tokens].

    `softcap`: logits are squashed to ± it (Gemma 2, arXiv:2408.00118, section 2). The weight gets no gradient.
    """
    losses: Tensor = _TokenLosses.apply(hidden, weight, targets, softcap)
    return losses


class _TokenLosses(Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float | None) -> Tensor:
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        rows, part = step_sizes.chunk_sizes(len(weight), weight.element_size(), hidden.device.type)
        for start in range(0, len(hidden), rows):
            chunk = slice(start, start + rows)
            into = gradient[chunk] if gradient is not None else None
            _chunk_losses(hidden[chunk], weight, targets[chunk], softcap, part, losses[chunk], into)
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0][:, None].to(gradient.dtype), None, None, None


def _chunk_losses(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    softcap: float | None,
    part: int,
    losses: Tensor,
    gradient: Tensor | None,
) -> None:
    """Write one chunk's losses and, unless it is None, its gradient, working on the logits of `part` tokens at a time.

    A function of its own, so that a chunk's logits are let go before the next ones are made.
    """
    missing = max(0, step_sizes.LEAST_FLOAT32_ROWS - len(hidden)) if hidden.dtype == torch.float32 else 0
    padded = pad(hidden, (0, 0, 0, missing)) if missing else hidden
    logits = padded @ weight.t()
    parts = zip(logits[: len(hidden)].split(part), targets.split(part), losses.split(part), strict=True)
    for of_logits, of_targets, of_losses in parts:
        of_losses.copy_(_losses(of_logits, of_targets, softcap, gradient is not None))
    if gradient is not None and missing:
        gradient.copy_((logits @ weight)[: len(hidden)])
    elif gradient is not None:
        torch.mm(logits, weight, out=gradient)


def _losses(logits: Tensor, targets: Tensor, softcap: float | None, teaches: bool) -> Tensor:
    """The losses [n] of logits [n, vocabulary], which `teaches` replaces by their gradients."""
    squashed = None
    values = logits.float() if logits.dtype != torch.float32 else logits
    if softcap is not None:
        squashed = torch.tanh(values / softcap)
        values = squashed * softcap
    log_p = torch.log_softmax(values, -1)
    index = targets[:, None]
    losses = -log_p.gather(1, index).squeeze(1)
    if teaches:
        gradient = log_p.exp_()
        gradient.scatter_add_(1, index, torch.full_like(index, -1, dtype=torch.float32))
        if squashed is not None:
            gradient.mul_(1 - squashed.square_())
        logits.copy_(gradient)
    return losses
