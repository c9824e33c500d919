"""Checking a data file: every fault with its location, in one pass and bounded memory, and optionally a repaired copy.

Names are loaded when they are first used, so that importing the settings is cheap.
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
