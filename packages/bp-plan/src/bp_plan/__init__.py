"""What a run will need: settings → recipe with reasons, micro-batch, memory, disk, time; and presets.

Names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .architecture import Architecture
    from .defaults import MachineSettings, for_machine
    from .memory import Estimate, estimate
    from .micro_batch import StepPlan
    from .plan import Plan
    from .preflight import Preflight
    from .presets import PRESETS
    from .recipe import resolve
    from .rows import Room, Rows, alike

__all__ = [
    "PRESETS",
    "Architecture",
    "Estimate",
    "MachineSettings",
    "Plan",
    "Preflight",
    "Room",
    "Rows",
    "StepPlan",
    "alike",
    "estimate",
    "for_machine",
    "resolve",
]
_HOMES = {
    "PRESETS": "presets",
    "Architecture": "architecture",
    **dict.fromkeys(("MachineSettings", "for_machine"), "defaults"),
    "StepPlan": "micro_batch",
    **dict.fromkeys(("Estimate", "estimate"), "memory"),
    "Plan": "plan",
    "Preflight": "preflight",
    **dict.fromkeys(("Room", "Rows", "alike"), "rows"),
    "resolve": "recipe",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
