"""The one training loop, and what keeps it alive."""

from .checkpoints import Keeper, State
from .loop import train
from .schedule import learning_rate

__all__ = ["Keeper", "State", "learning_rate", "train"]
