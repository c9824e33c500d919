"""SLAO, continual merging of one LoRA adapter: Qiao & Mahdavi, "Merge before Forget", arXiv:2512.23017.

A is replaced by the newest one, B is interpolated; each stage starts from A with orthonormal rows and the last B
(Algorithm 1, equations 13 and 14). The size of the state does not depend on the number of stages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bp_core.errors import BadValue, MergeRefused

from . import vector_ops
from .config import InitA, InitB, Schedule
from .factors import Factors, Pair, check, check_alike, check_finite, check_wide

Arrays = Mapping[str, np.ndarray]

_SCHEDULES: Mapping[str, Callable[[int, float], float]] = {
    "inverse-sqrt": lambda i, _: 1 / math.sqrt(i),
    "inverse": lambda i, _: 1 / i,
    "constant": lambda i, constant: 1.0 if i == 1 else constant,
}
_TOGETHER = 1 << 24  # elements of A that are orthonormalised at a time: 64 MiB


def rows(a: np.ndarray) -> np.ndarray:
    """Orthonormal rows with the span of those of `a` [rank, in]: Q of QR(aᵀ) with diag R >= 0 (equation 13).

    Computed in float32, or float64 if `a` is; returned [rank, in] in the dtype of `a`. Raises MergeRefused.
    """
    check_wide(a, "A")
    result: np.ndarray = _orthonormal(a[None], "A")[0]
    return result


def rows_of(factors: Factors) -> dict[str, np.ndarray]:
    """`rows` of every A [rank, in]; layers of one shape are computed together, as many as fit in 64 MiB."""
    alike: dict[tuple[tuple[int, ...], np.dtype], list[str]] = {}
    for name, pair in factors.items():
        check_wide(pair.a, name)
        alike.setdefault((pair.a.shape, pair.a.dtype), []).append(name)
    orthonormal: dict[str, np.ndarray] = {}
    for (shape, _), names in alike.items():
        count = max(1, _TOGETHER // math.prod(shape))
        for first in range(0, len(names), count):
            group = names[first : first + count]
            results = _orthonormal(np.stack([factors[name].a for name in group]), ", ".join(group[:3]))
            orthonormal.update(zip(group, results, strict=True))
    return {name: orthonormal[name] for name in factors}


def coefficient(i: int, schedule: Schedule, constant: float = 0.5) -> float:
    """The weight of stage i (from 1) when it is merged; `constant`, in (0, 1], applies from the second stage on."""
    if type(i) is not int or i < 1:
        raise BadValue(f"a stage has number {i!r}; it must be a whole number from 1 on.")
    if schedule not in _SCHEDULES:
        raise BadValue(f"the schedule is {schedule!r}; it must be one of {', '.join(_SCHEDULES)}.")
    if schedule == "constant" and not 0 < constant <= 1:
        raise BadValue(f"the constant weight is {constant!r}; it must be above 0 and at most 1.")
    return _SCHEDULES[schedule](i, constant)


def shares(count: int, schedule: Schedule, constant: float = 0.5) -> tuple[float, ...]:
    """The share of each of `count` stages in the merged B; they sum to 1."""
    shares: list[float] = []
    for i in range(1, count + 1):
        weight = coefficient(i, schedule, constant)
        shares = [share * (1 - weight) for share in shares] + [weight]
    return tuple(shares)


@dataclass(frozen=True, eq=False)
class State:
    """What is kept between stages, by layer, float32 and read-only: a [rank, in], b_finetuned and b_merged [out, rank].

    The merged A is the last trained one. Writable arrays are copied, because their owner may change them; arrays of a
    memory map are not.
    """

    index: int  # merges so far
    a: Arrays
    b_finetuned: Arrays
    b_merged: Arrays

    def __post_init__(self) -> None:
        for field in ("a", "b_finetuned", "b_merged"):
            object.__setattr__(self, field, {name: _kept(array) for name, array in getattr(self, field).items()})


def start(state: State, init_a: InitA = "qr", init_b: InitB = "finetuned") -> dict[str, Pair]:
    """The factors with which the next stage starts, a [rank, in] and b [out, rank] by layer; they may be changed."""
    b = {"finetuned": state.b_finetuned, "merged": state.b_merged}[init_b]
    last = {name: Pair(state.a[name], b[name]) for name in state.a}
    a = rows_of(last) if init_a == "qr" else {name: array.copy() for name, array in state.a.items()}
    return {name: Pair(a[name], b[name].copy()) for name in last}


def fold(state: State | None, new: Factors, schedule: Schedule = "inverse-sqrt", constant: float = 0.5) -> State:
    """The state with one more stage merged: B <- B + weight (B_new - B), A <- A_new (equation 14).

    The arguments are not changed. Raises MergeRefused if `new` does not fit the state or is not finite.
    """
    check(new)
    if state is not None:
        check_alike(deploy(state), new)
    index = 1 if state is None else state.index + 1
    weight = coefficient(index, schedule, constant)
    a = {name: check_finite(_kept(pair.a), f"{name}: A") for name, pair in new.items()}
    b = {name: _kept(pair.b) for name, pair in new.items()}
    if state is None or weight == 1:
        return State(index, a, b, {name: check_finite(array, f"{name}: B") for name, array in b.items()})
    return State(index, a, b, _blended(state.b_merged, b, weight))


def deploy(state: State) -> dict[str, Pair]:
    """The merged factors, a [rank, in] and b [out, rank] by layer, read-only; their scaling is that of training."""
    return {name: Pair(state.a[name], state.b_merged[name]) for name in state.a}


def gram_error(a: np.ndarray) -> float:
    """How far the rows of `a` [rank, in] are from orthonormal: max |A Aᵀ / s - I|, s their mean squared length."""
    wide = a.astype(np.float64)
    gram = wide @ wide.T
    scale = float(np.trace(gram)) / len(gram)
    return float(np.abs(gram / (scale or 1.0) - np.eye(len(gram))).max())


def cosine(new: Arrays, merged: Arrays) -> float:
    """The cosine between two sets of B [out, rank], each taken as one long vector; 0 if one of them is 0."""
    product = sum(vector_ops.dot(new[name], merged[name]) for name in merged)
    lengths = _length(new) * _length(merged)
    return product / lengths if lengths else 0.0


def _orthonormal(stack: np.ndarray, name: str) -> np.ndarray:
    """`rows` of each matrix in a stack [layers, rank, in]."""
    check_finite(np.ascontiguousarray(stack), f"{name}: A")
    work: Any = stack.astype(np.promote_types(stack.dtype, np.float32), copy=False)
    q, r = np.linalg.qr(work.swapaxes(1, 2))
    signs = np.where(np.diagonal(r, axis1=1, axis2=2) < 0, -1, 1).astype(q.dtype)
    q *= signs[:, None, :]
    return np.ascontiguousarray(q.swapaxes(1, 2)).astype(stack.dtype, copy=False)


def _kept(array: np.ndarray) -> np.ndarray:
    kept = np.ascontiguousarray(array.copy() if array.flags.writeable else array, np.float32)
    kept.setflags(write=False)
    return kept


def _blended(old: Arrays, new: Arrays, weight: float) -> dict[str, np.ndarray]:
    """Every layer's merged B, in one allocation, because touching new memory takes half of the time."""
    whole = np.empty(sum(array.size for array in new.values()), np.float32)
    merged: dict[str, np.ndarray] = {}
    end = 0
    for name, array in new.items():
        begin, end = end, end + array.size
        merged[name] = whole[begin:end].reshape(array.shape)
        if not vector_ops.blend(old[name], array, weight, merged[name]):
            raise MergeRefused(f"{name}: the new B, or what it is merged to, has values that are no finite numbers.")
        merged[name].setflags(write=False)
    return merged


def _length(arrays: Arrays) -> float:
    return math.sqrt(sum(vector_ops.dot(array, array) for array in arrays.values()))
