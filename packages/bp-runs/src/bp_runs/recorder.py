"""Records a run's events: in its folder, the ledger and the trackers, and passes them on to whoever watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType
from typing import Any

from bp_core.errors import (
    BackpropagateError,
    CheckpointUnusable,
    DiskFull,
    Interrupted,
    LedgerUnusable,
    NotReplayable,
    OutputUnusable,
)
from bp_core.events import Continued, Event, Failed, Finished, Paused, Started, Warned, Watch
from bp_core.redact import redact

from . import history
from .claim import Owner
from .event_log import EventLog
from .run_folder import RunFolder
from .summary import FINISHED, RUNNING
from .tracker_processes import TrackerProcesses
from .wishes import forget_wish

_SECONDS_BETWEEN_HEARTBEATS = 10.0
_KEPT_AT_ONCE = (Started, Paused, Continued, Finished, Failed)


class Recording:
    """Entered for the time of a run, from when its folder is made. However the run ends is written down here.

    An error that leaves it is recorded with the run, and gets the run's id. Ctrl-C leaves it as Interrupted; that says
    how to go on with the run, for which the command is `resume`. What cannot be recorded never stops the training: it
    is told once, as a warning. `report` writes the run's report at the end; it may raise our errors and OSError.
    """

    def __init__(
        self, run: RunFolder, trackers: Sequence[str], watch: Watch, report: Callable[[RunFolder], object], resume: str
    ) -> None:
        self.run = run
        self._report = report
        self._resume = resume
        self._watch = watch
        self._trackers = trackers
        self._tracker_processes = TrackerProcesses((), run.path)
        self._log = EventLog(run.path)
        self._summary, _ = history.summed(run)
        self._written = 0.0
        self._unwritable = False

    def __enter__(self) -> Recording:
        return self

    def begin(self) -> None:
        """Tell the ledger and the trackers. The run has its run.lock by now."""
        known = self.run.read()
        forget_wish(self.run.path)
        self.run.write(owner=asdict(Owner.this()), started=known.get("started", round(time.time(), 3)))
        self._tracker_processes = TrackerProcesses(self._trackers, self.run.path)
        with suppress(OSError):  # the ledger, in the same folder, will say so
            history.remember_output(self.run.path.parent.parent)
        self._keep(RUNNING)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        finished = self._is_finished()
        told = self._with_next_step(error, finished)
        if told is not None and not finished:
            with suppress(OSError, BackpropagateError):  # a full disk must not hide what went wrong
                self._failed(told)
        for message in self._tracker_processes.close(patient=error is None):
            self._warn(message)
        self._keep(FINISHED if finished else self._summary.status)
        try:
            self._report(self.run)
        except (BackpropagateError, OSError) as problem:
            self._warn(f"there is no report: {problem}")
        if told is not None and told is not error:
            raise told from None

    def watch(self, event: Event) -> None:
        """Record an event, then pass it on."""
        self._log.watch(event)
        if isinstance(event, Started):  # steps after the checkpoint that a resumed run begins with do not count
            self._summary, _ = history.summed(self.run)
        else:
            self._summary.add(event.as_dict())
        self._watch(event)
        for message in self._tracker_processes.failures():
            self._warn(message)
        due = time.monotonic() - self._written > _SECONDS_BETWEEN_HEARTBEATS
        if due or isinstance(event, _KEPT_AT_ONCE):
            self._keep(self._summary.status)

    def finished(self, **result: Any) -> None:
        """Write down the result, and tell the ledger at once: what follows may take a while or be killed."""
        self.run.write(status=FINISHED, **result)
        self._keep(FINISHED)

    def _with_next_step(self, error: BaseException | None, finished: bool) -> BaseException | None:
        """The error to raise: one that the user caused says how to go on."""
        fix = f"Go on with: {self._resume}"
        if isinstance(error, KeyboardInterrupt) and finished:
            return Interrupted(f"left at once; run {self.run.id} is finished.", fix="Nothing is left to do.")
        if isinstance(error, KeyboardInterrupt):
            return Interrupted(f"left at once; run {self.run.id} is as its last checkpoint has it.", fix=fix)
        if isinstance(error, Interrupted) and error.fix == Interrupted.fix:
            return Interrupted(error.message, fix=fix)
        if isinstance(error, DiskFull | OutputUnusable) and error.fix == type(error).fix and not finished:
            error.fix = f"{error.fix.rstrip('.')}; then: {self._resume}"
        return error

    def _is_finished(self) -> bool:
        """Whether the record says so; a folder that was taken away says nothing."""
        try:
            return bool(self.run.read()["status"] == FINISHED)
        except CheckpointUnusable:
            return False

    def _failed(self, error: BaseException) -> None:
        step = self._summary.step
        if isinstance(error, BackpropagateError):
            error.run = self.run.id
            event = Failed(step, error.code, str(error), error.fix)
        else:
            event = Failed(step, type(error).__name__, redact(str(error)), None)
        self._summary.add(event.as_dict())
        record = error.as_dict() if isinstance(error, BackpropagateError) else event.as_dict()
        with suppress(OSError, BackpropagateError):
            self.run.write(status=self._summary.status, error=record)
        with suppress(OSError, BackpropagateError):
            self._log.watch(event)
        self._watch(event)

    def _warn(self, message: str) -> None:
        event = Warned(self._summary.step, message)
        with suppress(OSError, BackpropagateError):
            self._log.watch(event)
        self._watch(event)

    def _keep(self, status: str) -> None:
        """Update the ledger."""
        self._written = time.monotonic()
        try:
            history.ledger().record(history.entry_of(self.run, self._summary, status, time.time()))
        except (LedgerUnusable, NotReplayable, CheckpointUnusable, OSError) as error:
            if not self._unwritable:
                self._warn(f"this run is not in the ledger: {error} Its folder holds everything.")
            self._unwritable = True
