"""What a run will need: settings → recipe with reasons, micro-batch, memory, disk, time; and presets.

Names are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bp_core.lazy_names import lazy_names

if TYPE_CHECKING:
    from .architecture import Architecture
    from .memory import Estimate, estimate
    from .micro_batch import Cut, Room, cut
    from .plan import Plan
    from .preflight import Preflight
    from .presets import PRESETS
    from .recipe import resolve
    from .rows import Rows, alike

__all__ = [
    "PRESETS",
    "Architecture",
    "Cut",
    "Estimate",
    "Plan",
    "Preflight",
    "Room",
    "Rows",
    "alike",
    "cut",
    "estimate",
    "resolve",
]
_HOMES = {
    "PRESETS": ".presets",
    "Architecture": ".architecture",
    **dict.fromkeys(("Cut", "Room", "cut"), ".micro_batch"),
    **dict.fromkeys(("Estimate", "estimate"), ".memory"),
    "Plan": ".plan",
    "Preflight": ".preflight",
    **dict.fromkeys(("Rows", "alike"), ".rows"),
    "resolve": ".recipe",
}
__getattr__ = lazy_names(__name__, _HOMES)
