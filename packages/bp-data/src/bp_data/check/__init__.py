"""Checking a data file: every fault with its place, in one pass and flat memory, and a repaired copy if wanted.

Names are loaded when they are first used: its settings need none of what it computes with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bp_core.lazy_names import lazy_names

if TYPE_CHECKING:
    from .findings import KINDS, Finding, Kind
    from .report import Report
    from .whole_check import check

__all__ = ["KINDS", "Finding", "Kind", "Report", "check"]
_HOMES = {**dict.fromkeys(("KINDS", "Finding", "Kind"), ".findings"), "Report": ".report", "check": ".whole_check"}
__getattr__ = lazy_names(__name__, _HOMES)
