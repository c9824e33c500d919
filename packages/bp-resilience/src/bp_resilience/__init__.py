"""The one training loop, and what keeps it alive."""

from .checkpoints import Keeper, State
from .ledger import Entry, Ledger
from .loop import train
from .owner import Owner
from .schedule import learning_rate
from .summary import Summary

__all__ = ["Entry", "Keeper", "Ledger", "Owner", "State", "Summary", "learning_rate", "train"]
