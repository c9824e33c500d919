"""The report of a proof: its checks, losses, and the number formats in the file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bp_core.units import gigabytes


@dataclass(frozen=True)
class Check:
    """A check: what was measured, and its limit. A warning has passed, but the user should read its note."""

    name: str
    measured: Any
    limit: Any
    passed: bool
    warning: bool = False
    note: str = ""

    def as_row(self) -> dict[str, Any]:
        """A row for an error's table: measured value, allowed value, and their ratio."""
        row = {"name": self.name, "measured": self.measured, "allowed": self.limit, "note": self.note}
        numbers = [self.measured, self.limit]
        if all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers) and self.limit:
            row["times"] = round(self.measured / self.limit, 3)
        return row


@dataclass(frozen=True)
class Trial:
    """A number format that was tried: its file's size, and what the proof's rows say of it.

    `divergence` is nats per token from the f16 file, `loss` nats per trained token, `strength` how much of the training
    is left (1: all of it); None where it could not be measured. `kept`: both are within their limits.
    """

    quantization: str
    bytes: int
    divergence: float
    loss: float | None
    strength: float | None
    kept: bool

    def as_row(self) -> dict[str, Any]:
        """For the table of an error."""
        return {"name": self.quantization, "measured": self.divergence, "allowed": None, "note": gigabytes(self.bytes)}


@dataclass(frozen=True)
class Parity:
    """The report of a proof. Losses are per trained token; `types` counts the file's tensors by number format.

    `compared_with` is the reference: "model" (the trained model's logits) or "tensors" (its merged weights).
    `accepted`: the file is not proven, and was exported because the user asked for it.
    """

    quantization: str
    compared_with: str
    tokens: int
    checks: tuple[Check, ...]
    losses: Mapping[str, float]
    types: Mapping[str, int]
    accepted: bool = False
    importance_tokens: int = 0
    trials: tuple[Trial, ...] = ()

    @property
    def proven(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> list[Check]:
        return [check for check in self.checks if not check.passed]

    @property
    def verdict(self) -> str:
        """Which checks failed, in one sentence."""
        names = ", ".join(check.name for check in self.failures)
        return f"{len(self.failures)} of {len(self.checks)} checks failed: {names}"

    @property
    def warnings(self) -> list[Check]:
        return [check for check in self.checks if check.warning]

    @property
    def formats(self) -> str:
        """The number formats in the file, and why they differ from its name, if they do."""
        matrices = {name: count for name, count in self.types.items() if name != "F32"}
        total = sum(matrices.values())
        shares = ", ".join(f"{count * 100 // total} % {name}" for name, count in matrices.items()) or "F32"
        short = "_k" in self.quantization and not all("_K" in name for name in matrices)
        why = ", because not all its rows are multiples of 256" if short else ""
        return f"{self.quantization} on this model is {shares}, by tensor without norms{why}"

    def as_dict(self) -> dict[str, Any]:
        """For parity.json."""
        return {"proven": self.proven, "formats": self.formats, **dataclasses.asdict(self)}
