"""Ctrl-C and SIGTERM: once asks the loop to stop at the next step boundary, twice leaves at once."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from bp_core.process_group import launched

_SECONDS_TO_RELAY = 2.0


class Signals:
    """While entered, `asked` tells whether a stop was asked for. Handlers are put back on leaving the outermost `with`.

    The second signal raises KeyboardInterrupt; a third, while a long computation keeps Python from noticing, ends the
    process. With `at_once` the first one raises as well: where there is nothing to finish. It counts all the same, for
    Python drops what is raised while it destroys an object. Only the main thread may set handlers; in any other `asked`
    stays False and the process keeps its own.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self.asked = False
        self.at_once = at_once
        self._depth = 0
        self._asked_at = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        self._depth += 1
        if self._depth == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            for number, handler in self._previous.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        relayed = self._relayed()
        again, self.asked = self.asked and not relayed, True
        if again:
            for other in self._previous:
                signal.signal(other, signal.SIG_DFL)
        if again or self.at_once:
            raise KeyboardInterrupt

    def _relayed(self) -> bool:
        """Whether a signal is the one before again: launchers pass on what the terminal has sent to all by itself."""
        before, self._asked_at = self._asked_at, time.monotonic()
        return launched().size > 1 and self._asked_at - before < _SECONDS_TO_RELAY
