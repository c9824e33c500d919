"""Holding a run against what was expected of it: its first peak of memory, and its speed for the next estimate."""

from __future__ import annotations

from contextlib import suppress

from bp_core.errors import BackpropagateError
from bp_core.events import Event, Stepped, Watch
from bp_plan import speed
from bp_plan.plan import Plan
from bp_runs.run_folder import RunFolder

from ..models import locate

_WARM_UP = 1  # steps that are slower than the rest


class Measuring:
    """A `watch` in front of another. What it cannot write down is left out; it never stops the training."""

    def __init__(self, run: RunFolder, plan: Plan, watch: Watch) -> None:
        self._run, self._plan, self._watch = run, plan, watch
        self._speeds: list[float] = []

    def __call__(self, event: Event) -> None:
        self._watch(event)
        if isinstance(event, Stepped):
            if not self._speeds:
                self._note_peak(event.memory.peak)
            self._speeds.append(event.tokens / event.seconds if event.seconds else 0.0)

    def remember(self) -> None:
        """Keep the speed of this run for the next one's estimate of time."""
        speeds = self._speeds[_WARM_UP:]
        with suppress(OSError, BackpropagateError):
            speed.remember(self._plan.device, locate.lasting_name(self._plan.base), self._plan.recipe, speeds)

    def _note_peak(self, peak: int) -> None:
        expected = self._plan.preflight.memory
        with suppress(OSError, BackpropagateError):
            self._run.write(first_step={"peak_memory": peak, "expected": expected.total if expected else None})
