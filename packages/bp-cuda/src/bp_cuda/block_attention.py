"""Causal attention in blocks of queries by batched products, with the backward pass by formula.

For each block S = Q Kᵀ with the keys that it sees, P = softmax(S), O = P V; backward dV = Pᵀ dO, dP = dO Vᵀ,
dS = P ∘ (dP − Σ dP ∘ P), dQ = dS K, dK = dSᵀ Q (arXiv:2205.14135, appendix B). The query heads that share a key head
are rows of one product. Of short segments P is kept, of long ones it is computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from bp_core import step_sizes


class Scores(NamedTuple):
    """How scores are made of products: their factor, the sliding window in tokens, the softcap."""

    scale: float
    window: int | None = None
    softcap: float | None = None


class _Block(NamedTuple):
    """Which queries are computed at once, and the keys that any of them sees."""

    queries: slice
    keys: slice


def attend(query: Tensor, key: Tensor, value: Tensor, borders: Sequence[int], scores: Scores) -> Tensor:
    """query [heads, n, dim], key and value [kv heads, n, dim] → [n, heads, dim].

    `borders`: the starts of the segments and the end of the last one; each attends to itself only.
    """
    with torch.autocast(query.device.type, enabled=False):
        attended: Tensor = _BlockAttention.apply(query, key, value, tuple(borders), scores)
    return attended


class _BlockAttention(Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, borders: tuple[int, ...], scores: Scores
    ) -> Tensor:
        heads, n, dim = query.shape
        out = query.new_empty(n, heads, dim)
        later, kept = _later(query), []
        for start, end in pairwise(borders):
            for block in _blocks(start, end, scores.window):
                q = _folded(query[:, block.queries], len(key), scores.scale)
                k, v = (tensor[:, block.keys].contiguous() for tensor in (key, value))
                p = _weights(q, k, block, scores, later)
                _put(out[block.queries], _product(p, v))
                if end - start <= step_sizes.SHORT_SEGMENT:
                    kept.append(p)
        ctx.borders, ctx.scores = borders, scores
        ctx.save_for_backward(query, key, value, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        scores: Scores = ctx.scores
        heads, n, dim = query.shape
        later = _later(query)
        rows = query.new_empty(n, heads + 2 * len(key), dim)  # so that a product that made all three gets one tensor
        of_query, of_key, of_value = rows.split([heads, len(key), len(key)], dim=1)
        for start, end in reversed(list(pairwise(ctx.borders))):
            for block in reversed(list(_blocks(start, end, scores.window))):
                q = _folded(query[:, block.queries], len(key), scores.scale)
                k, v = (tensor[:, block.keys].contiguous() for tensor in (key, value))
                short = end - start <= step_sizes.SHORT_SEGMENT
                p = kept.pop() if short else _weights(q, k, block, scores, later)
                do = _folded(gradients[0][block.queries].transpose(0, 1), len(key))
                ds = _softmax_backward(_product(do, v.transpose(1, 2)), p)
                if scores.softcap is not None:
                    ds.mul_(_slope(q, k, scores.softcap))
                _put(of_query[block.queries], _product(ds, k).mul_(scores.scale))
                dk = _product(ds.transpose(1, 2), q).transpose(0, 1)
                dv = _product(p.transpose(1, 2), do).transpose(0, 1)
                if block.queries.stop == end:  # the first that is computed
                    rows[start : block.keys.start, heads:] = 0  # keys that only earlier blocks see
                    of_key[block.keys] = dk
                    of_value[block.keys] = dv
                else:
                    of_key[block.keys] += dk
                    of_value[block.keys] += dv
        return of_query.transpose(0, 1), of_key.transpose(0, 1), of_value.transpose(0, 1), None, None


def _blocks(start: int, end: int, window: int | None) -> Iterator[_Block]:
    """The blocks of the segment from `start` to `end`."""
    for first in range(start, end, step_sizes.QUERY_BLOCK):
        last = min(first + step_sizes.QUERY_BLOCK, end)
        oldest = start if window is None else max(start, first - window + 1)
        yield _Block(slice(first, last), slice(oldest, last))


def _product(left: Tensor, right: Tensor) -> Tensor:
    """[batch, m, k] × [batch, k, n], as fast for a batch of one: torch takes up to six times as long for that."""
    return torch.mm(left[0], right[0])[None] if len(left) == 1 else torch.bmm(left, right)


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


def _weights(q: Tensor, k: Tensor, block: _Block, scores: Scores, later: Tensor) -> Tensor:
    """softmax(S), [kv heads, group × queries, keys]; computed in float32 whatever it is kept in."""
    products = _product(q, k.transpose(1, 2))
    if scores.softcap is not None:
        products = products.div_(scores.softcap).tanh_().mul_(scores.softcap)
    queries, keys = (part.stop - part.start for part in block)
    by_query = products.view(len(k), -1, queries, keys)
    by_query[..., keys - queries :].add_(later[:queries, :queries])
    if scores.window is not None and keys > scores.window:
        by_query.masked_fill_(_left(queries, keys, scores.window, q.device), float("-inf"))
    return products.softmax(-1)


def _later(query: Tensor) -> Tensor:
    """What is added to the scores of a block's queries and keys: −∞ for keys after a query, otherwise 0."""
    size = min(step_sizes.QUERY_BLOCK, query.shape[1])
    return torch.full((size, size), float("-inf"), dtype=query.dtype, device=query.device).triu_(1)


def _left(queries: int, keys: int, window: int, device: torch.device) -> Tensor:
    """Which keys the window has left behind: bool [queries, keys]."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril_(keys - queries - window)


def _softmax_backward(dp: Tensor, p: Tensor) -> Tensor:
    """P ∘ (dP − Σ dP ∘ P)"""
    ds: Tensor = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
    return ds


def _slope(q: Tensor, k: Tensor, softcap: float) -> Tensor:
    """The derivative of softcap × tanh(S / softcap) by S."""
    squashed = _product(q, k.transpose(1, 2)).div_(softcap).tanh_()
    return 1 - squashed.square_()
