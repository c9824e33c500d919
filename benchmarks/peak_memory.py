"""The most memory that this process ever had."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def peak() -> int:
    """In bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # unlike ru_maxrss, not what the parent had before
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
