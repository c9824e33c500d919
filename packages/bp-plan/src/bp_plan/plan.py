"""What a training run will do, before it starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bp_core.contract import Contract
from bp_core.recipe import Recipe

from .preflight import Preflight


@dataclass(frozen=True)
class Plan:
    """What a training run will do; nothing is loaded yet. `data` counts rows, tokens and truncated rows.

    `remarks` tell the user about the licence, untested models, and what may not fit. `contract` says how text became
    tokens.
    """

    recipe: Recipe
    device: str
    base: Path
    data: Mapping[str, Any]
    preflight: Preflight
    remarks: tuple[str, ...] = ()
    contract: Contract | None = None

    def as_dict(self) -> dict[str, Any]:
        told = {**dataclasses.asdict(self), "base": str(self.base), "preflight": self.preflight.as_dict()}
        del told["contract"]  # the whole template; what it adds is among the remarks
        return told
