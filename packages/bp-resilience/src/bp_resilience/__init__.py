"""The one training loop, and what keeps it alive."""

from .checkpoints import CheckpointManager, State
from .clock import Clock
from .loop import LoopContext, train
from .schedule import learning_rate
from .signals import Signals
from .thermal import nvml

__all__ = ["CheckpointManager", "Clock", "LoopContext", "Signals", "State", "learning_rate", "nvml", "train"]
