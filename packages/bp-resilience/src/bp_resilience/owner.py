"""Which process works on a run, and whether it still does."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Owner:
    """A process, told from a later one with the same number by when it began (seconds since 1970)."""

    host: str
    pid: int
    began: float

    @classmethod
    def this(cls) -> Owner:
        """The calling process."""
        return cls(socket.gethostname(), os.getpid(), psutil.Process().create_time())

    def alive(self) -> bool | None:
        """Whether the process runs; None if it belongs to another host, where this one cannot look."""
        if self.host != socket.gethostname():
            return None
        try:
            process = psutil.Process(self.pid)
            return bool(process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - self.began) < 1)
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True
