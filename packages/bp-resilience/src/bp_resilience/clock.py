"""A monotonic clock for the loop, so that changes of the wall clock have no effect; and pauses that can be ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from bp_core.events import Continued, Paused, Watch

_SLICE = 1.0  # seconds between two looks for a signal


@dataclass(frozen=True)
class Clock:
    """`now` returns monotonic seconds, `sleep` waits. Tests replace both."""

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Pause:
    """Waits between two steps, with an event at start and end. It ends at once when `stop_requested()` is true."""

    clock: Clock
    watch: Watch
    stop_requested: Callable[[], bool]

    def until(self, over: Callable[[float], bool], step: int, reason: str, every: float) -> None:
        """Wait until `over(seconds waited)` is true, checked every `every` seconds, or until a stop is requested."""
        began = self.clock.now()
        self.watch(Paused(step, reason))
        while not self.stop_requested() and not over(self.clock.now() - began):
            self._rest(every)
        self.watch(Continued(step, self.clock.now() - began))

    def _rest(self, seconds: float) -> None:
        until = self.clock.now() + seconds
        while not self.stop_requested() and (left := until - self.clock.now()) > 0:
            self.clock.sleep(min(left, _SLICE))
