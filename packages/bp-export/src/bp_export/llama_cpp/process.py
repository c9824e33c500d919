"""Run one of our modules as a child process, so that a crash in native code becomes an error."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

END_OF_LOG = "-- end of log --"
EXIT_SECONDS = 10
_TAIL_LINES = 12
# What ggml prints when it aborts: the line with the cause, then a backtrace, by gdb where that is installed.
_CAUSE = re.compile(r"GGML_(ASSERT|ABORT)\b|: fatal error\b")
_BACKTRACE = re.compile(
    r"#\d+\s|\s*0x[0-9a-f]+|\S+\.(so|dylib)\S*\(|\S+\([^)]*\) ?\[0x|\[(New LWP|Thread debugging|Inferior)|"
    r"(Using host libthread_db|warning: |ptrace: |No stack|The program is not being run|See: |WARNING: Using native)"
)


class ModuleProcess:
    """`python -m module`: requests go to its stdin, answers come from its stdout. It ends when its stdin is closed.

    `on_log` gets each line of its stderr, in another thread.
    """

    def __init__(self, module: str, on_log: Callable[[str], None] | None = None) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, "-P", "-m", module]
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
        assert self._process.stdin and self._process.stdout
        self.stdin, self.stdout = self._process.stdin, self._process.stdout
        self._log: deque[str] = deque(maxlen=_TAIL_LINES)
        self._cause = ""
        self._on_log = on_log
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log_tail(self) -> str:
        """The line that names the cause if it aborted, else the last lines of its log, in one line."""
        return self._cause or " | ".join(line for line in self._log if line not in ("", END_OF_LOG)) or "none"

    def send(self, request: Mapping[str, Any]) -> None:
        """Send a request as a line of JSON. Raises OSError if the process has ended."""
        self.stdin.write(json.dumps(request).encode() + b"\n")
        self.stdin.flush()

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> int:
        """Wait until it has ended and its log is complete. Returns the exit code."""
        code = self._process.wait()
        self._listener.join()
        return code

    def close(self, *, now: bool = False) -> None:
        """End the process, by closing its stdin or, with `now`, by killing it."""
        if now:
            self.kill()
        with contextlib.suppress(OSError):  # it died with a request still in the pipe
            self.stdin.close()
        try:
            self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self.wait()
        self.stdout.close()

    def _listen(self) -> None:
        assert self._process.stderr
        with self._process.stderr as stream:
            for line in stream:
                text = line.decode("utf-8", "replace").rstrip()
                self._remember(text)
                if self._on_log:
                    self._on_log(text)

    def _remember(self, line: str) -> None:
        if not self._cause and _CAUSE.search(line):
            self._cause = line
        if not _BACKTRACE.match(line):
            self._log.append(line)
