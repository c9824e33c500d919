"""The memory of this process, for training on the CPU."""

from __future__ import annotations

import ctypes
import sys

import psutil

from bp_core.rail import Memory

if sys.platform != "win32":
    import resource


def memory() -> Memory:
    """Bytes: resident now, the peak of this process, and the machine's total."""
    info = psutil.Process().memory_info()
    return Memory(info.rss, _peak(), psutil.virtual_memory().total)


def give_back() -> None:
    """Return freed memory to the system; glibc keeps much of it, measured as a third of what training used."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _peak() -> int:
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(used if sys.platform == "darwin" else used * 1024)  # Linux counts in KiB
