"""Initial adapters: pairs A [rank, in] and B [out, rank], float32, from random numbers."""

from __future__ import annotations

import mlx.core as mx

Pair = tuple[mx.array, mx.array]


def default(rows: int, columns: int, rank: int) -> Pair:
    """A [rank, in], random as in PEFT, and B [out, rank], zero, so that the adapter has no effect at the start."""
    bound = columns**-0.5
    return mx.random.uniform(-bound, bound, (rank, columns)), mx.zeros((rows, rank))


def orthogonal(rows: int, columns: int, rank: int) -> Pair:
    """A [rank, in] and B [out, rank] with B A = 0: they use orthogonal directions. As in PEFT; on the CPU."""
    basis, _ = mx.linalg.qr(mx.random.normal((rank, rank)), stream=mx.cpu)
    a = (mx.random.normal((columns, rank // 2)) @ basis[0::2]).T / 10
    b = mx.random.normal((rows, rank // 2)) @ basis[1::2] / 10
    return mx.contiguous(a), b
