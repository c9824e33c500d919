"""Time as the loop sees it: monotonic, so that a wall clock that jumps changes nothing; and waiting that can end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from bp_core.events import Continued, Paused, Watch

_SLICE = 1.0  # seconds in which a signal is noticed


@dataclass(frozen=True)
class Clock:
    """Seconds that only grow, and sleeping. Tests bring their own."""

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Pause:
    """A pause between steps, told by events. `asked` ends it: whether somebody wants the run to stop."""

    clock: Clock
    watch: Watch
    asked: Callable[[], bool]

    def until(self, over: Callable[[float], bool], step: int, reason: str, every: float) -> None:
        """Wait until `over(seconds waited)`, looked at every so many seconds, or until a stop is asked for."""
        began = self.clock.now()
        self.watch(Paused(step, reason))
        while not self.asked() and not over(self.clock.now() - began):
            self._rest(every)
        self.watch(Continued(step, self.clock.now() - began))

    def _rest(self, seconds: float) -> None:
        until = self.clock.now() + seconds
        while not self.asked() and (left := until - self.clock.now()) > 0:
            self.clock.sleep(min(left, _SLICE))
