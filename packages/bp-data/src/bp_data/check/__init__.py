"""Checking a data file: every fault with its place, in one pass and flat memory, and a repaired copy if wanted."""

from .check import check
from .findings import KINDS, Finding, Kind
from .report import Report

__all__ = ["KINDS", "Finding", "Kind", "Report", "check"]
