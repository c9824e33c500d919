"""Initial adapters: pairs A [rank, in] and B [out, rank], from a weight [out, in] or from random numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from bp_core.choices import Init

Pair = tuple[Tensor, Tensor]


def from_weight(init: Init, weight: Tensor, rank: int, scale: float) -> Pair:
    """A pair A, B, float32, with scale × B A ≈ the largest part of `weight` [out, in].

    pissa: the largest singular vectors (arXiv:2404.02948, equations 2 to 4), in pissa_niter_16 by 16 iterations.
    olora: the first columns and rows of a QR decomposition (arXiv:2406.01775, algorithm 1).
    """
    weight = weight.float()
    if init == "olora":
        left, right = torch.linalg.qr(weight)
        return right[:rank].contiguous(), left[:, :rank].contiguous()
    if init == "pissa":
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
    else:
        left, values, right = torch.svd_lowrank(weight, rank, niter=16)
        right = right.T
    root = (values[:rank] / scale).sqrt()
    return root[:, None] * right[:rank], left[:, :rank] * root


def orthogonal(rows: int, columns: int, rank: int) -> Pair:
    """A [rank, in] and B [out, rank] with B A = 0: they use orthogonal directions. As in PEFT; on the CPU."""
    basis, _ = torch.linalg.qr(torch.randn(rank, rank))
    a = (torch.randn(columns, rank // 2) @ basis[0::2]).T / 10
    b = torch.randn(rank // 2, rows).T @ basis[1::2] / 10
    return a, b
