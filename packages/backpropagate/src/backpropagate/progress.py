"""What a person, or a log collector, sees while something runs, on stderr."""

from __future__ import annotations

import json
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from bp_core import events
from bp_core.redact import redact_all
from bp_core.units import duration

_SECONDS_BETWEEN_LINES = 10.0


def silent(_: events.Event | events.Progress) -> None:
    """Show nothing."""


@contextmanager
def shown(notify: events.Notify | None) -> Iterator[events.Notify]:
    """`notify`, or where there is none the screen."""
    if notify:
        yield notify
    else:
        with Screen() as screen:
            yield screen.notify


class Screen:
    """One bar a stage on a terminal. Elsewhere (a log file, CI) JSON lines: events, with steps only now and then.

    Lines name the run as soon as it has an id.
    """

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._stage = ""
        self._task: TaskID | None = None
        self._line_at = -math.inf
        self._run: str | None = None
        self._steps = 0
        self._recent: deque[float] = deque(maxlen=50)  # seconds of the last steps, for the time left

    def __enter__(self) -> Screen:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        self._bars.stop()

    def showing(self, run: str) -> Callable[[events.Event], None]:
        """`watch` for the run with this id."""
        self._run = run
        return self.watch

    def notify(self, progress: events.Progress) -> None:
        """Show how far a long job is."""
        if not self.console.is_terminal:
            value = {"event": "Progress", "stage": progress.stage, "done": progress.done, "total": progress.total}
            self._line(value, always=progress.stage != self._stage)
            self._stage = progress.stage
            return
        count = f"{progress.done}/{progress.total}" if progress.total else ""
        self._show(progress.stage, progress.done, progress.total, count)

    def watch(self, event: events.Event) -> None:
        """Show a training event."""
        if isinstance(event, events.Started):
            self._steps = event.steps
        if isinstance(event, events.Stepped):
            self._recent.append(event.seconds)
        if not self.console.is_terminal:
            pace = self._pace(event) if isinstance(event, events.Stepped) else {}
            self._line(event.as_dict() | pace, always=not isinstance(event, events.Stepped))
        elif isinstance(event, events.Started):
            self._show("train", event.step, event.steps, f"{event.step}/{event.steps}")
        elif isinstance(event, events.Stepped):
            self._stepped(event)
        elif event.describe() and not isinstance(event, events.Failed):  # errors have a printer of their own
            loud = not isinstance(event, events.Planned | events.Evaluated | events.Continued)
            self.console.print(event.describe(), style="yellow" if loud else "", markup=False)

    def _pace(self, event: events.Stepped) -> dict[str, float]:
        """Tokens a second of this step, and the seconds left at the pace of the last ones."""
        mean = sum(self._recent) / len(self._recent)
        left = round(mean * (self._steps - event.step), 1)
        return {"tokens_per_second": round(event.tokens / event.seconds, 1), "seconds_left": left}

    def _stepped(self, event: events.Stepped) -> None:
        pace = self._pace(event)
        heat = "" if event.temperature is None else f" · {event.temperature:.0f} °C"
        note = (
            f"{event.step}/{self._steps} · loss {event.loss:.3f} · {pace['tokens_per_second']:.0f} tokens/s"
            f" · {event.memory.used / 2**30:.1f} GiB{heat} · {duration(pace['seconds_left'])} left"
        )
        self._show("train", event.step, self._steps, note)

    def _line(self, value: dict[str, Any], *, always: bool) -> None:
        due = time.monotonic() - self._line_at > _SECONDS_BETWEEN_LINES
        if always or due:
            self._line_at = self._line_at if always else time.monotonic()
            head = {"time": round(time.time(), 3)} | ({"run": self._run} if self._run else {})
            print(json.dumps(redact_all(head | value)), file=sys.stderr, flush=True)

    def _show(self, stage: str, done: int, total: int, note: str) -> None:
        if stage != self._stage:
            self._finish()
            self._stage = stage
            self._task = self._bars.add_task(stage, total=total or None, note=note)
        assert self._task is not None
        self._bars.update(self._task, completed=done, total=total or None, note=note)

    def _finish(self) -> None:
        """Show the stage before as done."""
        if self._task is not None:
            self._bars.update(self._task, total=1, completed=1, note="")
        self._task, self._stage = None, ""
