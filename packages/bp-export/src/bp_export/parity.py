"""What a proof found: named checks with measured value and limit, losses, and the real number formats in the file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Check:
    """One thing that was compared. A warning has passed, but the user should read its note."""

    name: str
    measured: Any
    limit: Any
    passed: bool
    warning: bool = False
    note: str = ""

    def as_row(self) -> dict[str, Any]:
        """For the table of an error: what was measured, what is allowed, and how far it is off."""
        row = {"name": self.name, "measured": self.measured, "allowed": self.limit, "note": self.note}
        numbers = [self.measured, self.limit]
        if all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers) and self.limit:
            row["times"] = round(self.measured / self.limit, 3)
        return row


@dataclass(frozen=True)
class Parity:
    """The report of a proof. Losses are per trained token; `types` counts the final file's tensors by number format.

    `compared_with` is what stood as truth: "model" (the trained model's logits) or "tensors" (its merged weights).
    `accepted`: not proven, and handed over because the user asked for that.
    """

    quantization: str
    compared_with: str
    tokens: int
    checks: tuple[Check, ...]
    losses: Mapping[str, float]
    types: Mapping[str, int]
    accepted: bool = False

    @property
    def proven(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> list[Check]:
        return [check for check in self.checks if not check.passed]

    @property
    def verdict(self) -> str:
        """How many checks failed, and which, in one sentence."""
        names = ", ".join(check.name for check in self.failures)
        return f"{len(self.failures)} of {len(self.checks)} checks failed: {names}"

    @property
    def warnings(self) -> list[Check]:
        return [check for check in self.checks if check.warning]

    @property
    def formats(self) -> str:
        """The number formats in the file, by tensor, and why they are not what its name says, if so."""
        matrices = {name: count for name, count in self.types.items() if name != "F32"}
        total = sum(matrices.values())
        shares = ", ".join(f"{count * 100 // total} % {name}" for name, count in matrices.items()) or "F32"
        short = "_k" in self.quantization and not all("_K" in name for name in matrices)
        why = ", because not all its rows are multiples of 256" if short else ""
        return f"{self.quantization} on this model is {shares}, by tensor without norms{why}"

    def as_dict(self) -> dict[str, Any]:
        """For parity.json."""
        return {"proven": self.proven, "formats": self.formats, **dataclasses.asdict(self)}
