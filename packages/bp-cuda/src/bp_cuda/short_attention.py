"""Causal attention over short segments by batched products, with the backward pass by formula.

For each segment S = Q Kᵀ, P = softmax(S), O = P V; backward dV = Pᵀ dO, dP = dO Vᵀ, dS = P ∘ (dP − Σ dP ∘ P),
dQ = dS K, dK = dSᵀ Q (arXiv:2205.14135, appendix B). The query heads that share a key head are rows of one product.
P is kept, so what is kept grows with the square of a segment's length.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function


class Scores(NamedTuple):
    """How scores are made of products: their factor, the sliding window in tokens, the softcap."""

    scale: float
    window: int | None = None
    softcap: float | None = None


def attend(query: Tensor, key: Tensor, value: Tensor, borders: Sequence[int], scores: Scores) -> Tensor:
    """query [heads, n, dim], key and value [kv heads, n, dim] → [n, heads, dim].

    `borders`: the starts of the segments and the end of the last one; each attends to itself only.
    """
    with torch.autocast(query.device.type, enabled=False):
        attended: Tensor = _ShortAttention.apply(query, key, value, tuple(borders), scores)
    return attended


class _ShortAttention(Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, borders: tuple[int, ...], scores: Scores
    ) -> Tensor:
        heads, n, dim = query.shape
        out = query.new_empty(n, heads, dim)
        weights = []
        for start, end in pairwise(borders):
            part = slice(start, end)
            q = _folded(query[:, part], len(key), scores.scale)
            p = _weights(q, key[:, part], scores)
            weights.append(p)
            _put(out[part], p @ value[:, part])
        ctx.borders, ctx.scores = borders, scores
        ctx.save_for_backward(query, key, value, *weights)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *weights = ctx.saved_tensors
        scores: Scores = ctx.scores
        heads, n, dim = query.shape
        rows = query.new_empty(n, heads + 2 * len(key), dim)  # so that a product that made all three gets one tensor
        of_query, of_key, of_value = rows.split([heads, len(key), len(key)], dim=1)
        for (start, end), p in zip(pairwise(ctx.borders), weights, strict=True):
            part = slice(start, end)
            q = _folded(query[:, part], len(key), scores.scale)
            do = _folded(gradients[0][part].transpose(0, 1), len(key))
            of_value[part] = (p.transpose(1, 2) @ do).transpose(0, 1)
            ds = _softmax_backward(do @ value[:, part].transpose(1, 2), p)
            if scores.softcap is not None:
                ds.mul_(_slope(q, key[:, part], scores.softcap))
            _put(of_query[part], (ds @ key[:, part]).mul_(scores.scale))
            of_key[part] = (ds.transpose(1, 2) @ q).transpose(0, 1)
        return of_query.transpose(0, 1), of_key.transpose(0, 1), of_value.transpose(0, 1), None, None


def _folded(tensor: Tensor, kv_heads: int, scale: float = 1.0) -> Tensor:
    """[heads, n, dim] → [kv heads, group × n, dim] times scale, a new tensor."""
    heads, n, dim = tensor.shape
    folded = torch.empty(heads, n, dim, dtype=tensor.dtype, device=tensor.device)
    torch.mul(tensor, scale, out=folded)
    return folded.view(kv_heads, heads // kv_heads * n, dim)


def _put(rows: Tensor, folded: Tensor) -> None:
    """Write [kv heads, group × n, dim] into [n, heads, dim]."""
    n, heads, dim = rows.shape
    rows.copy_(folded.view(heads, n, dim).transpose(0, 1))


def _weights(q: Tensor, key: Tensor, scores: Scores) -> Tensor:
    """softmax(S), [kv heads, group × n, n]; computed in float32 whatever it is kept in."""
    n = key.shape[1]
    products = q @ key.transpose(1, 2)
    if scores.softcap is not None:
        products = products.div_(scores.softcap).tanh_().mul_(scores.softcap)
    by_query = products.view(len(key), -1, n, n)
    by_query.masked_fill_(_hidden(n, scores.window, key.device), float("-inf"))
    return products.softmax(-1)


def _hidden(n: int, window: int | None, device: torch.device) -> Tensor:
    """Which keys a query does not see: bool [n, n]."""
    hidden = torch.ones(n, n, dtype=torch.bool, device=device)
    later = hidden.triu(1)
    return later if window is None else later | hidden.tril(-window)


def _softmax_backward(dp: Tensor, p: Tensor) -> Tensor:
    """P ∘ (dP − Σ dP ∘ P)"""
    ds: Tensor = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
    return ds


def _slope(q: Tensor, key: Tensor, softcap: float) -> Tensor:
    """The derivative of softcap × tanh(S / softcap) by S."""
    squashed = (q @ key.transpose(1, 2)).div_(softcap).tanh_()
    return 1 - squashed.square_()
