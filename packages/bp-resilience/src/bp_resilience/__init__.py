"""The one training loop, and what keeps it alive."""

from .alive import Claim
from .checkpoints import Keeper, State
from .clock import Clock
from .event_log import EventLog, read_events
from .ledger import Entry, Ledger
from .loop import Surroundings, train
from .owner import Owner
from .schedule import learning_rate
from .signals import Signals
from .summary import Summary
from .thermal import nvml

__all__ = [
    "Claim",
    "Clock",
    "Entry",
    "EventLog",
    "Keeper",
    "Ledger",
    "Owner",
    "Signals",
    "State",
    "Summary",
    "Surroundings",
    "learning_rate",
    "nvml",
    "read_events",
    "train",
]
