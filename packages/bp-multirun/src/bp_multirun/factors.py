"""The two factors that LoRA adds to a linear layer, and checks whether those of two adapters fit together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bp_core.errors import MergeRefused

from . import vector_ops

MAX_NAMED = 3
FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))


@dataclass(frozen=True, eq=False)
class Pair:
    """The factors of one layer, whose change is scaling × b @ a: a [rank, in], b [out, rank]."""

    a: np.ndarray
    b: np.ndarray

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])


Factors = Mapping[str, Pair]  # by module path, as in PEFT's key between "base_model.model." and ".lora_A.weight"


def check(factors: Factors) -> None:
    """Check that every pair is floats, a [rank, in] and b [out, rank], with rank <= in. Raises MergeRefused."""
    if not factors:
        raise MergeRefused("there are no factors.")
    for name, pair in factors.items():
        if pair.a.ndim != 2 or pair.b.ndim != 2 or pair.a.shape[0] != pair.b.shape[1]:
            raise MergeRefused(f"{name}: A is {_shape(pair.a)} and B is {_shape(pair.b)}; they share no rank.")
        check_wide(pair.a, name)
        if pair.b.dtype not in FLOATS:
            raise MergeRefused(f"{name}: B holds {pair.b.dtype}, not floating-point numbers.")


def check_wide(a: np.ndarray, name: str) -> None:
    """Check that A can have orthonormal rows: floats [rank, in] with rank <= in. Raises MergeRefused."""
    if a.ndim != 2 or a.shape[0] > a.shape[1] or not a.size:
        raise MergeRefused(f"{name}: A is {_shape(a)}; it needs rank × inputs, and a rank no larger than the inputs.")
    if a.dtype not in FLOATS:
        raise MergeRefused(f"{name}: A holds {a.dtype}, not floating-point numbers.")


def check_alike(old: Factors, new: Factors) -> None:
    """Check that both have the same layers with the same shapes. Raises MergeRefused, with what differs."""
    if old.keys() != new.keys():
        missing, extra = _some(old.keys() - new.keys()), _some(new.keys() - old.keys())
        raise MergeRefused(f"missing: {missing}; not expected: {extra}.")
    for name, pair in old.items():
        expected, found = (pair.a.shape, pair.b.shape), (new[name].a.shape, new[name].b.shape)
        if expected != found:
            raise MergeRefused(f"{name}: A and B are {found[0]} and {found[1]}, not {expected[0]} and {expected[1]}.")


def check_finite(array: np.ndarray, name: str) -> np.ndarray:
    """Return a contiguous array of any shape if all of it is finite. Raises MergeRefused."""
    if not vector_ops.finite(array):
        raise MergeRefused(f"{name} has values that are no finite numbers.")
    return array


def _shape(array: np.ndarray) -> str:
    return " × ".join(map(str, array.shape)) or "a single number"


def _some(names: set[str]) -> str:
    first = ", ".join(sorted(names)[:MAX_NAMED]) or "nothing"
    return first + (f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else "")
