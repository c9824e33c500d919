"""Ctrl-C, Ctrl-Break and SIGTERM: the first requests a stop at the end of the step, the second stops at once."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

from bp_core.process_group import launch_env

_SECONDS_TO_RELAY = 2.0
_NAMES = ("SIGINT", "SIGTERM", "SIGBREAK")  # the last is Ctrl-Break, which Windows alone has
STOPPING = tuple(signal.Signals[name] for name in _NAMES if name in signal.Signals.__members__)


class Signals:
    """Signal handlers inside a `with` block; `stop_requested` becomes True at the first signal. Blocks may be nested.

    The second signal raises KeyboardInterrupt; a third ends the process, also during a long computation. With `at_once`
    the first one raises as well. `stop_requested` is set all the same, because Python drops an exception raised inside
    a destructor. Only the main thread can set handlers; in any other thread `stop_requested` stays False.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self.stop_requested = False
        self.at_once = at_once
        self._depth = 0
        self._requested_at = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        self._depth += 1
        if self._depth == 1 and threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *raised: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            for number, handler in self._previous.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        relayed = self._relayed()
        again, self.stop_requested = self.stop_requested and not relayed, True
        if again:
            for other in self._previous:
                signal.signal(other, signal.SIG_DFL)
        if again or self.at_once:
            raise KeyboardInterrupt

    def _relayed(self) -> bool:
        """Whether this is the previous signal again: launchers pass on what the terminal has already sent to all."""
        before, self._requested_at = self._requested_at, time.monotonic()
        return launch_env().size > 1 and self._requested_at - before < _SECONDS_TO_RELAY
