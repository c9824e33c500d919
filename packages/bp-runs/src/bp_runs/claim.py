"""Only one process trains a run, also when several machines share the folder; and whether that process is alive."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from bp_core.errors import RunAlive
from bp_core.folders import writing

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

ALIVE_FILE = "alive.json"
_SECONDS_BETWEEN_BEATS = 10.0
_SECONDS_TILL_DEAD = 60.0
_CLOCKS_APART = 2.0  # seconds: file systems round times, and a beat may come between two looks


@dataclass(frozen=True)
class Owner:
    """A process. `began`, in seconds since 1970 (0: not known), tells it from a later one with the same pid."""

    host: str
    pid: int
    began: float = 0.0

    @classmethod
    def this(cls) -> Owner:
        """The calling process."""
        return cls(socket.gethostname(), os.getpid(), psutil.Process().create_time())

    def alive(self) -> bool | None:
        """Whether the process is running; None if it is on another host."""
        if self.host != socket.gethostname():
            return None
        try:
            process = psutil.Process(self.pid)
            return bool(process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - self.began) < 1)
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True


class Claim:
    """Holds the run in `folder` during a `with` block. Raises RunAlive when another process holds it.

    On one machine the kernel's lock on `alive.json` decides, which always ends with its process. Between machines,
    where file locks may not work, the age of the file decides: its owner touches it every ten seconds.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / ALIVE_FILE
        self._file: IO[str] | None = None
        self._ended = threading.Event()

    def __enter__(self) -> Claim:
        with writing(self._path):
            self._file = self._path.open("a+", encoding="utf-8")
            try:
                self._take(self._file)
            except RunAlive:
                self._file.close()
                raise
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *raised: object) -> None:
        assert self._file
        self._ended.set()
        self._file.truncate(0)
        self._file.close()

    def _take(self, file: IO[str]) -> None:
        free, other = _lock(file), _owner(file)
        elsewhere = other is not None and other.host != socket.gethostname()
        # A time in the future is nobody's beat: a clock was wrong, or the file was copied.
        if not free or (elsewhere and -_CLOCKS_APART <= _age(self._path) < _SECONDS_TILL_DEAD):
            who = f"process {other.pid} on {other.host}" if other else "another process"
            fix = f"{RunAlive.fix} If {who} is gone, wait {_SECONDS_TILL_DEAD:.0f} s, or remove this file."
            message = f"run {self._path.parent.name} is being trained by {who}."
            raise RunAlive(message, where=str(self._path), fix=fix if elsewhere else None)
        file.truncate(0)
        file.write(json.dumps(vars(Owner.this())))
        file.flush()

    def _beat(self) -> None:
        while not self._ended.wait(_SECONDS_BETWEEN_BEATS):
            if self._path.exists():
                os.utime(self._path)


def holder(folder: Path) -> Owner | None:
    """The process that holds the run in `folder`, by its file; it may have ended without giving it back."""
    try:
        with (folder / ALIVE_FILE).open(encoding="utf-8") as file:
            return _owner(file)
    except OSError:
        return None


def _owner(file: IO[str]) -> Owner | None:
    file.seek(0)
    try:
        return Owner(**json.loads(file.read()))
    except (ValueError, TypeError):  # empty: released, or its writer was killed before it wrote
        return None


def _age(path: Path) -> float:
    """Seconds since the file was last touched, by the clock of the file system, not of a machine."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".now.") as file:
        return os.stat(file.name).st_mtime - path.stat().st_mtime


def _lock(file: IO[str]) -> bool:
    """Whether the lock was taken. True on a file system without locks; then the file's age decides alone."""
    try:
        if sys.platform == "win32":
            file.seek(1 << 20)  # beyond the text, which others must be able to read
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except PermissionError:  # on Windows: another process has the lock
        return sys.platform != "win32"
    except OSError:
        return True
    return True
