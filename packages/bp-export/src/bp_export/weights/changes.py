"""What an adapter changes in one weight, computed in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Change(Protocol):
    """A change of one weight. `shape` is that of the result; None where it is that of the weight, whatever it is."""

    @property
    def shape(self) -> tuple[int, ...] | None: ...
    def applied(self, weight: np.ndarray) -> np.ndarray:
        """The changed weight, float32."""
        ...


@dataclass(frozen=True)
class Delta:
    """LoRA: adds scale × b @ a to a weight [out, in]; a is [rank, in], b [out, rank].

    With `magnitude` [out] it is DoRA (arXiv:2402.09353, equation 5): each row of the sum is scaled to that norm.
    """

    a: np.ndarray
    b: np.ndarray
    scale: float
    magnitude: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.b.shape[0], self.a.shape[1]

    def applied(self, weight: np.ndarray) -> np.ndarray:
        merged = self.b.astype(np.float32) @ self.a.astype(np.float32)
        merged *= np.float32(self.scale)
        merged += weight.astype(np.float32)
        if self.magnitude is not None:
            merged *= (self.magnitude.astype(np.float32) / np.linalg.norm(merged, axis=1))[:, None]
        return merged


@dataclass(frozen=True)
class Replacement:
    """A fully trained weight (PEFT's modules_to_save)."""

    weight: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    def applied(self, weight: np.ndarray) -> np.ndarray:
        return self.weight.astype(np.float32)


@dataclass(frozen=True)
class SavedBase(Replacement):
    """The base's own weight as it was in training, which PEFT saves of embeddings, such as resized ones."""


@dataclass(frozen=True)
class TrainedRows:
    """Rows of an embedding that were trained (PEFT's trainable_token_indices). `values` are [numbers, in]."""

    numbers: Sequence[int]
    values: np.ndarray

    @property
    def shape(self) -> None:
        return None

    def applied(self, weight: np.ndarray) -> np.ndarray:
        merged = weight.astype(np.float32)
        merged[list(self.numbers)] = self.values.astype(np.float32)
        return merged


@dataclass(frozen=True)
class Chain:
    """Several changes of one weight, one after another."""

    parts: tuple[Change, ...]

    @property
    def shape(self) -> tuple[int, ...] | None:
        shapes = [part.shape for part in self.parts if part.shape is not None]
        return shapes[-1] if shapes else None

    def applied(self, weight: np.ndarray) -> np.ndarray:
        merged = weight
        for part in self.parts:
            merged = part.applied(merged)
        return merged


def parts_of(change: Change | None) -> tuple[Change, ...]:
    """The single changes, in their order."""
    if change is None:
        return ()
    return change.parts if isinstance(change, Chain) else (change,)


def chained(parts: Sequence[Change]) -> Change | None:
    """One change that does what these do; None for none."""
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else Chain(tuple(parts))
