"""The one training loop, and what keeps it alive."""

from .alive import Claim
from .checkpoints import Keeper, State
from .clock import Clock
from .event_log import EventLog, read_events
from .heat import nvml
from .loop import Surroundings, train
from .schedule import learning_rate
from .signals import Signals

__all__ = [
    "Claim",
    "Clock",
    "EventLog",
    "Keeper",
    "Signals",
    "State",
    "Surroundings",
    "learning_rate",
    "nvml",
    "read_events",
    "train",
]
