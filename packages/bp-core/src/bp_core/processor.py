"""The processor of this machine, by name."""

from __future__ import annotations

import platform
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

_LINUX = Path("/proc/cpuinfo")
_MACOS = ("sysctl", "-n", "machdep.cpu.brand_string")


def name() -> str:
    """As its maker calls it; where the system does not tell, its architecture."""
    told = ""
    with suppress(OSError):
        if sys.platform == "linux":
            told = _model(_LINUX.read_text(encoding="utf-8", errors="replace"))
        elif sys.platform == "darwin":
            told = subprocess.run(_MACOS, capture_output=True, text=True, check=False).stdout
        else:
            told = platform.processor()
    return " ".join(told.split()) or platform.machine()


def _model(text: str) -> str:
    """The first model name in the text of /proc/cpuinfo, which some architectures leave out."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value
    return ""
