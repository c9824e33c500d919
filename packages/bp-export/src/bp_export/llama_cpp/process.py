"""A module of ours in a process of its own, so that a native crash is an error and not the end."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable

END_OF_LOG = "-- end of log --"
GOODBYE_SECONDS = 10
_TAIL_LINES = 12


class ModuleProcess:
    """`python -m module`, asked on its stdin and answering on its stdout. It ends when its stdin is closed.

    `on_log` sees each line of its stderr, from another thread.
    """

    def __init__(self, module: str, on_log: Callable[[str], None] | None = None) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, "-P", "-m", module]
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
        assert self._process.stdin and self._process.stdout
        self.stdin, self.stdout = self._process.stdin, self._process.stdout
        self._log: deque[str] = deque(maxlen=_TAIL_LINES)
        self._on_log = on_log
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def words(self) -> str:
        """The last lines of its log."""
        return " | ".join(line for line in self._log if line not in ("", END_OF_LOG)) or "none"

    def send(self, line: str) -> None:
        """Raises OSError if it is dead."""
        self.stdin.write(line.encode() + b"\n")
        self.stdin.flush()

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> int:
        """Its exit code, once it has ended and its log is complete."""
        code = self._process.wait()
        self._listener.join()
        return code

    def close(self) -> None:
        with contextlib.suppress(OSError):  # it died with a request still in the pipe
            self.stdin.close()
        try:
            self._process.wait(GOODBYE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self.wait()
        self.stdout.close()

    def _listen(self) -> None:
        assert self._process.stderr
        with self._process.stderr as stream:
            for line in stream:
                text = line.decode("utf-8", "replace").rstrip()
                self._log.append(text)
                if self._on_log:
                    self._on_log(text)
