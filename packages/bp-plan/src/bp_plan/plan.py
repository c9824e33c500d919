"""A training run that is decided, but not begun."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bp_core.recipe import Recipe

from .preflight import Preflight


@dataclass(frozen=True)
class Plan:
    """What a training run would do; nothing is loaded yet. `data` counts rows, tokens and what was cut.

    `remarks` are what a user should know: of the licence, of what is untested, of what may not fit.
    """

    recipe: Recipe
    device: str
    base: Path
    data: Mapping[str, Any]
    preflight: Preflight
    remarks: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "base": str(self.base), "preflight": self.preflight.as_dict()}
