"""What a run will need: settings → recipe with reasons, micro-batch, memory, disk, time; and presets."""

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
