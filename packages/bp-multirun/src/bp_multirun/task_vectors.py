"""Merging separately trained adapters by their task vectors ΔW = s B A: the methods that SLAO is compared with.

A merged ΔW has a higher rank than an adapter; the result is its best approximation of the adapter's rank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from bp_core.errors import BadValue

from .factors import Factors, Pair, check, check_alike, check_finite

Rule = Literal["linear", "ties", "dare"]
Products = tuple[np.ndarray, np.ndarray, np.ndarray]  # U [out, k], singular values [k], Vᵀ [k, in]

EXACT = 256  # matrices whose smaller side is at most this are decomposed fully
ITERATIONS = 6


def merge(
    rule: Rule, adapters: Sequence[Factors], scalings: Mapping[str, float], *, density: float = 0.5, seed: int = 0
) -> dict[str, Pair]:
    """Merge adapters with the same layers and scalings (by layer), one layer at a time. Raises MergeRefused.

    linear: the mean. ties: arXiv:2306.01708, trimmed within each layer. dare: arXiv:2311.03099, then the mean.
    `density`, in (0, 1], is the share of a layer's values that ties and dare keep.
    """
    _check(rule, adapters, density)
    merged: dict[str, Pair] = {}
    for name, first in adapters[0].items():
        scaled = [Pair(adapter[name].a, adapter[name].b * scalings[name]) for adapter in adapters]
        rng = _generator(seed, name)
        products = _mean(scaled) if rule == "linear" else truncated(_DENSE[rule](scaled, density, rng), first.rank, rng)
        merged[name] = _split(products, first.rank, scalings[name])
    return merged


def trimmed(change: np.ndarray, density: float) -> np.ndarray:
    """`change` [out, in] with all but the largest magnitudes, a share `density` of its values, set to 0."""
    size = np.abs(change).reshape(-1)
    keep = int(density * size.size)
    if keep == size.size:
        return change
    limit = np.partition(size, size.size - keep)[size.size - keep] if keep else np.inf
    return np.where(np.abs(change) >= limit, change, 0)


def truncated(matrix: np.ndarray, rank: int, rng: np.random.Generator) -> Products:
    """The `rank` largest singular triples of matrix [out, in].

    Of a large one by subspace iteration (Halko et al., arXiv:0909.4061).
    """
    if min(matrix.shape) <= max(EXACT, 4 * rank):
        u, s, vt = np.linalg.svd(matrix, full_matrices=False)
        return u[:, :rank], s[:rank], vt[:rank]
    basis = rng.standard_normal((matrix.shape[1], 2 * rank + 8), np.float32)
    for _ in range(ITERATIONS):  # algorithm 4.4
        left = np.linalg.qr(matrix @ basis)[0]
        basis = np.linalg.qr(matrix.T @ left)[0]
    u, s, vt = np.linalg.svd(matrix @ basis, full_matrices=False)
    return u[:, :rank], s[:rank], (vt @ basis.T)[:rank]


def _check(rule: str, adapters: Sequence[Factors], density: float) -> None:
    if rule not in ("linear", *_DENSE):
        raise BadValue(f"the rule is {rule!r}; it must be one of linear, {', '.join(_DENSE)}.")
    if not 0 < density <= 1:
        raise BadValue(f"the density is {density!r}; it must be above 0 and at most 1.")
    if not adapters:
        raise BadValue("there are no adapters to merge.")
    for adapter in adapters:
        check(adapter)
        check_alike(adapters[0], adapter)
        for name, pair in adapter.items():
            check_finite(pair.a, name)
            check_finite(pair.b, name)


def _mean(pairs: Sequence[Pair]) -> Products:
    """The SVD of the mean of B A, without forming the products: from orthonormal bases of all B and all A."""
    out, triangle_out = np.linalg.qr(np.hstack([pair.b for pair in pairs]).astype(np.float64))
    into, triangle_into = np.linalg.qr(np.vstack([pair.a for pair in pairs]).T.astype(np.float64))
    u, s, vt = np.linalg.svd(triangle_out @ triangle_into.T / len(pairs), full_matrices=False)
    return out @ u, s, vt @ into.T


def _ties(pairs: Sequence[Pair], density: float, rng: np.random.Generator) -> np.ndarray:
    """The mean of the trimmed changes [out, in] over those whose sign is that of their sum."""
    shape = pairs[0].b.shape[0], pairs[0].a.shape[1]
    sums, counts = np.zeros((2, *shape), np.float32), np.zeros((2, *shape), np.uint16)
    for pair in pairs:
        change = trimmed(_product(pair), density)
        for side, there in enumerate((change > 0, change < 0)):
            np.add(sums[side], change, out=sums[side], where=there)
            counts[side] += there
    positive = sums[0] + sums[1] >= 0
    merged: np.ndarray = np.where(positive, sums[0], sums[1])
    merged /= np.maximum(np.where(positive, counts[0], counts[1]), 1)
    return merged


def _dare(pairs: Sequence[Pair], density: float, rng: np.random.Generator) -> np.ndarray:
    """The mean of the changes [out, in], with values dropped at random and the others scaled up by 1 / density."""
    total = np.zeros((pairs[0].b.shape[0], pairs[0].a.shape[1]), np.float32)
    for pair in pairs:
        change = _product(pair)
        change *= rng.random(change.shape, np.float32) < density
        total += change
    total /= density * len(pairs)
    return total


_DENSE: dict[str, Callable[[Sequence[Pair], float, np.random.Generator], np.ndarray]] = {"ties": _ties, "dare": _dare}


def _product(pair: Pair) -> np.ndarray:
    change: np.ndarray = pair.b.astype(np.float32) @ pair.a.astype(np.float32)
    return change


def _generator(seed: int, name: str) -> np.random.Generator:
    """A random generator for a layer, independent of the other layers."""
    return np.random.default_rng([seed, *hashlib.sha256(name.encode()).digest()])


def _split(products: Products, rank: int, scaling: float) -> Pair:
    """Factors of rank `rank` with scaling × B A = U S Vᵀ, the singular values split equally between both."""
    u, s, vt = products[0][:, :rank], products[1][:rank], products[2][:rank]
    root = np.sqrt(s / scaling)
    a, b = np.zeros((rank, vt.shape[1]), np.float32), np.zeros((u.shape[0], rank), np.float32)
    a[: len(s)] = root[:, None] * vt
    b[:, : len(s)] = u * root
    return Pair(a, b)
