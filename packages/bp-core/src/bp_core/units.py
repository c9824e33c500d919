"""Numbers, and other measured values, as a person reads them."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

_UNITS = {"MB": 10**6, "GB": 10**9, "MIB": 1 << 20, "GIB": 1 << 30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(MB|GB|MIB|GIB)")


def gigabytes(count: int) -> str:
    """Bytes."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def bytes_of(text: str) -> int | None:
    """A size such as 5GB or 700 MB in bytes; None for what is no size."""
    match = _SIZE.fullmatch(text.strip().upper())
    return round(float(match[1]) * _UNITS[match[2]]) if match else None


def duration(seconds: float) -> str:
    """How long something takes."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60}:{rest % 60:02d}"


def in_words(seconds: float) -> str:
    """How long something took, for a sentence."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def counted(number: int, what: str) -> str:
    """A number with what is counted: 1 row, 2 rows."""
    return f"1 {what}" if number == 1 else f"{number:,} {what}s"


def moment(seconds: float) -> str:
    """Seconds since 1970 as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def short(value: Any) -> str:
    """A measured value in a few characters."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {short(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return " to ".join(short(item) for item in value)
    return "" if value is None else str(value)
