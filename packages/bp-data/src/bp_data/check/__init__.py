"""Checking a data file: every fault with its location, in one pass and bounded memory, and optionally a repaired copy.

Names are loaded when they are first used, so that importing the settings is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .findings import KINDS, Finding, Kind
    from .report import Report
    from .whole_check import check

__all__ = ["KINDS", "Finding", "Kind", "Report", "check"]
_HOMES = {**dict.fromkeys(("KINDS", "Finding", "Kind"), "findings"), "Report": "report", "check": "whole_check"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
