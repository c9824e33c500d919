"""Rotary positions (arXiv:2104.09864) that keep only the angles, with the norm of heads where a model has one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .preparation import Backward, Norm


@dataclass(frozen=True)
class Heads:
    """How a row of queries, keys and values divides: so many heads of each, all of `dim`. The norms may be missing."""

    queries: int
    keys: int
    dim: int
    query_norm: Norm | None = None
    key_norm: Norm | None = None

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[n, all] → queries [heads, n, dim], keys and values [kv heads, n, dim]."""
        parts = rows.view(len(rows), -1, self.dim).split([self.queries, self.keys, self.keys], dim=1)
        query, key, value = (part.transpose(0, 1) for part in parts)
        return query, key, value


def rotate(rows: Tensor, heads: Heads, cos: Tensor, sin: Tensor) -> Tensor:
    """Normalise queries and keys, where they have norms, and rotate them; without norms in place.

    rows [n, all], a tensor that nothing else reads; cos and sin [n, angles]: the first half of the angles is used,
    because both halves of a head turn by the same ones. A head's numbers beyond its `angles` stay.
    """
    rotated: Tensor = (_NormedRotation if heads.query_norm else _Rotation).apply(rows, heads, cos, sin)
    return rotated


def normalise(rows: Tensor, heads: Heads) -> Tensor:
    """Only the norms, for layers without positions."""
    none = rows.new_empty(len(rows), 0)
    return rotate(rows, heads, none, none) if heads.query_norm else rows


class _Rotation(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, heads: Heads, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.heads = heads
        ctx.save_for_backward(cos, sin)
        ctx.mark_dirty(rows)
        _turn(rows, heads, cos, sin)
        return rows

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        turned = gradients[0].clone(memory_format=torch.contiguous_format)
        _turn(turned, ctx.heads, cos, -sin)
        return turned, None, None, None


class _NormedRotation(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, heads: Heads, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.heads = heads
        ctx.save_for_backward(rows, cos, sin)
        normed, _ = _normed(rows, heads)
        _turn(normed, heads, cos, sin)
        return normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        rows, cos, sin = ctx.saved_tensors
        heads: Heads = ctx.heads
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        _turn(gradient, heads, cos, -sin)
        _, (of_query, of_key) = _normed(rows, heads)
        query, key, _ = _by_head(gradient, heads)
        query.copy_(of_query(query))
        key.copy_(of_key(key))
        return gradient, None, None, None


def _normed(rows: Tensor, heads: Heads) -> tuple[Tensor, tuple[Backward, Backward]]:
    """The rows with normalised queries and keys, and what makes gradients of them."""
    assert heads.query_norm and heads.key_norm, "a model has both or none"
    query, key, value = _by_head(rows, heads)
    normed_query, query_backward = heads.query_norm(query)
    normed_key, key_backward = heads.key_norm(key)
    return torch.cat([normed_query, normed_key, value], dim=1).view_as(rows), (query_backward, key_backward)


def _turn(rows: Tensor, heads: Heads, cos: Tensor, sin: Tensor) -> None:
    """(a, b) → (a cos − b sin, b cos + a sin) for queries and keys, in place."""
    half = cos.shape[-1] // 2
    cos, sin = cos[:, None, :half], sin[:, None, :half]
    turning = rows.view(len(rows), -1, heads.dim)[:, : heads.queries + heads.keys]
    first, second = turning[..., :half], turning[..., half : 2 * half]
    across = first * sin
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).add_(across)


def _by_head(rows: Tensor, heads: Heads) -> tuple[Tensor, ...]:
    """Queries, keys and values, [n, heads, dim] each."""
    parts = rows.view(len(rows), -1, heads.dim).split([heads.queries, heads.keys, heads.keys], dim=1)
    return tuple(parts)
