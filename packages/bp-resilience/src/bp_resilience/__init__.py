"""The one training loop, and what keeps it alive."""

from .checkpoints import Keeper, State
from .clock import Clock
from .loop import Surroundings, train
from .schedule import learning_rate
from .signals import Signals
from .thermal import nvml

__all__ = [
    "Clock",
    "Keeper",
    "Signals",
    "State",
    "Surroundings",
    "learning_rate",
    "nvml",
    "train",
]
