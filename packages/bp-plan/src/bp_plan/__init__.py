"""What a run will need: a recipe with reasons, micro-batch size, memory, disk and time; and model presets."""

from .architecture import Architecture
from .defaults import MachineSettings, for_machine
from .memory import Estimate, estimate
from .micro_batch import StepPlan
from .plan import Plan
from .preflight import Preflight
from .presets import PRESETS
from .recipe import resolve
from .rows import DeviceInfo, RowSizes, full_rows

__all__ = [
    "PRESETS",
    "Architecture",
    "DeviceInfo",
    "Estimate",
    "MachineSettings",
    "Plan",
    "Preflight",
    "RowSizes",
    "StepPlan",
    "estimate",
    "for_machine",
    "full_rows",
    "resolve",
]
