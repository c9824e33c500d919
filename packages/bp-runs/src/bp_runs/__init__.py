"""The record of a training run: folder, lock file, events, ledger, trackers, and who holds it.

Names are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bp_core.lazy_names import lazy_names

if TYPE_CHECKING:
    from .claim import Claim, Owner
    from .event_log import EventLog, read_events
    from .ledger import Entry, Ledger
    from .lock_file import Lock
    from .recorder import Recording
    from .run_folder import RunFolder
    from .summary import Summary

__all__ = ["Claim", "Entry", "EventLog", "Ledger", "Lock", "Owner", "Recording", "RunFolder", "Summary", "read_events"]
_HOMES = {
    **dict.fromkeys(("Claim", "Owner"), ".claim"),
    **dict.fromkeys(("EventLog", "read_events"), ".event_log"),
    **dict.fromkeys(("Entry", "Ledger"), ".ledger"),
    "Lock": ".lock_file",
    "Recording": ".recorder",
    "RunFolder": ".run_folder",
    "Summary": ".summary",
}
__getattr__ = lazy_names(__name__, _HOMES)
