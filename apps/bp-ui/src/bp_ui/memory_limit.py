"""A limit on the memory of this process, for work on files that came from elsewhere."""

from __future__ import annotations

import sys

if sys.platform != "win32":
    import resource

_BYTES = 8 << 30  # of addresses; a check of an ordinary file needs a tenth of it


def limit_memory() -> None:
    """From now on asking for more raises MemoryError. Where the system has no such limit nothing changes."""
    if sys.platform == "linux":
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = _BYTES if most == resource.RLIM_INFINITY else min(_BYTES, most)
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))
