"""Ctrl-C and SIGTERM: once asks the loop to stop at the next step boundary, twice leaves at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Signals:
    """While entered, `asked` tells whether a stop was asked for. Handlers are put back on leaving the outermost `with`.

    The second signal raises KeyboardInterrupt; a third, while a long computation keeps Python from noticing, ends the
    process. Only the main thread may set handlers; in any other `asked` stays False and the process keeps its own.
    """

    def __init__(self) -> None:
        self.asked = False
        self._depth = 0
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
        if self.asked:
            for other in self._previous:
                signal.signal(other, signal.SIG_DFL)
            raise KeyboardInterrupt
        self.asked = True
