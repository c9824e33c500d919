"""SIGTERM ends a `backprop` process in the end, also one that hangs in compiled code, where no handler ever runs."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

from bp_core.errors import Interrupted

_SECONDS_TO_OBEY = 900.0  # after the first: a long step, a checkpoint and publishing fit in
_SECONDS_WHEN_ASKED_AGAIN = 5.0  # after the third


def end_in_the_end() -> None:
    """Watch for SIGTERM in a thread of its own. Ctrl-C is left to the command: in a chat it only ends an answer."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, writer), daemon=True).start()


def _watch(reader: socket.socket, writer: socket.socket) -> None:
    """`writer`, which Python writes the number of each signal to, must live as long as this."""
    asked = 0
    deadline: float | None = None
    while deadline is None or time.monotonic() < deadline:
        reader.settimeout(None if deadline is None else max(0.01, deadline - time.monotonic()))
        try:
            numbers = reader.recv(64)
        except TimeoutError:
            continue
        asked += numbers.count(signal.SIGTERM)
        wait = _SECONDS_WHEN_ASKED_AGAIN if asked >= 3 else _SECONDS_TO_OBEY
        if asked:
            deadline = min(time.monotonic() + wait, deadline or float("inf"))
    os.write(2, b"\nIt did not stop by itself, and was ended; what was written before is whole.\n")
    os._exit(Interrupted.exit_code)
