"""SLAO, continual merging of one LoRA adapter: Qiao & Mahdavi, "Merge before Forget", arXiv:2512.23017.

A is replaced by the newest one, B is interpolated; each stage starts from orthonormal rows of A and the last trained B
(Algorithm 1, equations 13 and 14). The state's size does not grow with the number of stages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bp_core.errors import BadValue, MergeRefused

from . import blocks
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
    """Orthonormal rows that span those of a [rank, in]: Q of the QR of its transpose, with diag R >= 0 (equation 13).

    Computed in float32, or in float64 if `a` is; the dtype stays. Raises MergeRefused.
    """
    check_wide(a, "A")
    found: np.ndarray = _orthonormal(a[None], "A")[0]
    return found


def rows_of(factors: Factors) -> dict[str, np.ndarray]:
    """`rows` of every A; layers of one shape are done together, as many as 64 MiB hold."""
    alike: dict[tuple[tuple[int, ...], np.dtype], list[str]] = {}
    for name, pair in factors.items():
        check_wide(pair.a, name)
        alike.setdefault((pair.a.shape, pair.a.dtype), []).append(name)
    found: dict[str, np.ndarray] = {}
    for (shape, _), names in alike.items():
        count = max(1, _TOGETHER // math.prod(shape))
        for first in range(0, len(names), count):
            group = names[first : first + count]
            results = _orthonormal(np.stack([factors[name].a for name in group]), ", ".join(group[:3]))
            found.update(zip(group, results, strict=True))
    return {name: found[name] for name in factors}


def coefficient(i: int, schedule: Schedule, constant: float = 0.5) -> float:
    """The weight of stage i (from 1) when it is merged; `constant`, in (0, 1], counts from the second stage on."""
    if type(i) is not int or i < 1:
        raise BadValue(f"a stage has number {i!r}; it must be a whole number from 1 on.")
    if schedule not in _SCHEDULES:
        raise BadValue(f"the schedule is {schedule!r}; it must be one of {', '.join(_SCHEDULES)}.")
    if schedule == "constant" and not 0 < constant <= 1:
        raise BadValue(f"the constant weight is {constant!r}; it must be above 0 and at most 1.")
    return _SCHEDULES[schedule](i, constant)


def shares(count: int, schedule: Schedule, constant: float = 0.5) -> tuple[float, ...]:
    """How much of each of `count` stages is in the merged B; they sum to 1."""
    found: list[float] = []
    for i in range(1, count + 1):
        weight = coefficient(i, schedule, constant)
        found = [share * (1 - weight) for share in found] + [weight]
    return tuple(found)


@dataclass(frozen=True, eq=False)
class State:
    """What is kept between stages, float32 and read-only: the merged A is the last trained one.

    An array that may be written to is copied, since its owner may go on changing it; those of a memory map are not.
    """

    index: int  # merges so far
    a: Arrays
    b_finetuned: Arrays
    b_merged: Arrays

    def __post_init__(self) -> None:
        for field in ("a", "b_finetuned", "b_merged"):
            object.__setattr__(self, field, {name: _kept(array) for name, array in getattr(self, field).items()})


def start(state: State, init_a: InitA = "qr", init_b: InitB = "finetuned") -> dict[str, Pair]:
    """The factors with which the next stage begins, free to be changed."""
    b = {"finetuned": state.b_finetuned, "merged": state.b_merged}[init_b]
    last = {name: Pair(state.a[name], b[name]) for name in state.a}
    a = rows_of(last) if init_a == "qr" else {name: array.copy() for name, array in state.a.items()}
    return {name: Pair(a[name], b[name].copy()) for name in last}


def fold(state: State | None, new: Factors, schedule: Schedule = "inverse-sqrt", constant: float = 0.5) -> State:
    """The state with one more stage in it: B <- B + weight (B_new - B), A <- A_new (equation 14).

    Nothing given is changed. Raises MergeRefused if `new` does not fit the state or is not finite.
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
    """The merged adapter, read-only; it keeps the scaling with which it was trained."""
    return {name: Pair(state.a[name], state.b_merged[name]) for name in state.a}


def gram_error(a: np.ndarray) -> float:
    """How far the rows of `a` are from orthogonal and equally long: max |A Aᵀ / s - I|, s their mean squared length."""
    wide = a.astype(np.float64)
    gram = wide @ wide.T
    scale = float(np.trace(gram)) / len(gram)
    return float(np.abs(gram / (scale or 1.0) - np.eye(len(gram))).max())


def cosine(new: Arrays, merged: Arrays) -> float:
    """Between two sets of B taken as one long vector each; 0 if one of them is 0."""
    product = sum(blocks.dot(new[name], merged[name]) for name in merged)
    lengths = _length(new) * _length(merged)
    return product / lengths if lengths else 0.0


def norm_ratio(state: State) -> float:
    """Length of the merged B over that of the last trained one; 1 if the latter is 0."""
    last = _length(state.b_finetuned)
    return _length(state.b_merged) / last if last else 1.0


def _orthonormal(stack: np.ndarray, name: str) -> np.ndarray:
    """`rows` of each matrix of a stack [layers, rank, in]."""
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
    """Every layer's B, in one piece of memory: first touching it costs as much as all else, and less in one piece."""
    whole = np.empty(sum(array.size for array in new.values()), np.float32)
    merged: dict[str, np.ndarray] = {}
    end = 0
    for name, array in new.items():
        begin, end = end, end + array.size
        merged[name] = whole[begin:end].reshape(array.shape)
        if not blocks.blend(old[name], array, weight, merged[name]):
            raise MergeRefused(f"{name}: the new B, or what it is merged to, has values that are no finite numbers.")
        merged[name].setflags(write=False)
    return merged


def _length(arrays: Arrays) -> float:
    return math.sqrt(sum(blocks.dot(array, array) for array in arrays.values()))
