"""What a person, a notebook or a log collector sees while something runs, on stderr."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from bp_core import events
from bp_core.errors import BadValue
from bp_core.redact import redact, redact_all
from bp_core.units import counted, duration, gigabytes

_SECONDS_BETWEEN_LINES = 10.0
LOG_FORMAT = "BACKPROPAGATE_LOG_FORMAT"
LOG_FORMATS = ("text", "json")


def log_format() -> str:
    """How progress is told where there is no terminal. Raises BadValue."""
    chosen = os.environ.get(LOG_FORMAT) or LOG_FORMATS[0]
    if chosen not in LOG_FORMATS:
        raise BadValue(f"{LOG_FORMAT} is {chosen!r}, but must be one of {', '.join(LOG_FORMATS)}.")
    return chosen


@contextmanager
def logging_as(format: str) -> Iterator[None]:
    """Tell progress in this format, for the time of a command."""
    before = os.environ.get(LOG_FORMAT)
    os.environ[LOG_FORMAT] = format
    try:
        yield
    finally:
        if before is None:
            del os.environ[LOG_FORMAT]
        else:
            os.environ[LOG_FORMAT] = before


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, whose shell has one of these names."""
    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive else None
    return type(shell).__name__ in ("ZMQInteractiveShell", "Shell")


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


def progress_line(progress: events.Progress) -> dict[str, Any]:
    """Progress as a JSON line has it."""
    line = {"event": "Progress", "stage": progress.stage, "done": progress.done, "total": progress.total}
    return line | ({"unit": progress.unit} if progress.unit else {})


def _count(progress: events.Progress) -> str:
    if not progress.total:
        return ""
    if progress.unit == "B":
        return f"{gigabytes(progress.done)} of {gigabytes(progress.total)}"
    return f"{progress.done} of {progress.total}"


class Screen:
    """One bar a stage on a terminal and in a notebook. Elsewhere (nohup, CI) plain lines, steps only now and then.

    With the log format json: JSON lines, which name the run as soon as it has an id.
    """

    def __init__(self) -> None:
        # In a notebook stderr is shown in red, as if all of it were errors; bars need the widgets that it may have.
        self._notebook = _in_notebook()
        bars = self._notebook and find_spec("ipywidgets") is not None
        self.console = Console(stderr=not self._notebook, force_jupyter=bars, highlight=False)
        self._json = log_format() == "json"
        self._live = not self._json and (self.console.is_terminal or bars)
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self._live,
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
        count = _count(progress)
        if self._live:
            self._show(progress.stage, progress.done, progress.total, count)
            return
        begins = progress.stage != self._stage
        self._stage = progress.stage
        if self._json:
            value = progress_line(progress)
            self._line(json.dumps(redact_all(self._head() | value)), always=begins)
        else:
            self._line(
                f"{progress.stage}: {count}" if progress.done and count else f"{progress.stage} …", always=begins
            )

    def watch(self, event: events.Event) -> None:
        """Show a training event."""
        if isinstance(event, events.Started):
            self._steps = event.steps
        if isinstance(event, events.Stepped):
            self._recent.append(event.seconds)
        if self._json:
            pace = self._pace(event) if isinstance(event, events.Stepped) else {}
            value = self._head() | event.as_dict() | pace
            self._line(json.dumps(redact_all(value)), always=not isinstance(event, events.Stepped))
        elif not self._live:
            self._plain(event)
        elif isinstance(event, events.Started):
            self._show("train", event.step, event.steps, f"{event.step}/{event.steps}")
        elif isinstance(event, events.Stepped):
            self._show("train", event.step, self._steps, self._step_line(event))
        elif event.describe() and not isinstance(event, events.Failed):  # errors have a printer of their own
            loud = not isinstance(event, events.Planned | events.Opened | events.Evaluated | events.Continued)
            self.console.print(event.describe(), style="yellow" if loud else "", markup=False, soft_wrap=True)

    def _plain(self, event: events.Event) -> None:
        """A line for people who read a log; the last step is always in it."""
        if isinstance(event, events.Started):
            self._line(
                f"training: {counted(event.steps, 'step')}" + (f", from step {event.step}" if event.step else "")
            )
        elif isinstance(event, events.Stepped):
            self._line(f"step {self._step_line(event)}", always=event.step in (1, self._steps))
        elif isinstance(event, events.Checkpointed):
            self._line(f"checkpoint after step {event.step}", always=False)
        elif event.describe() and not isinstance(event, events.Failed):
            self._line(event.describe())

    def _pace(self, event: events.Stepped) -> dict[str, float]:
        """Tokens a second of this step, and the seconds left at the pace of the last ones."""
        mean = sum(self._recent) / len(self._recent)
        left = round(mean * (self._steps - event.step), 1)
        return {"tokens_per_second": round(event.tokens / event.seconds, 1), "seconds_left": left}

    def _step_line(self, event: events.Stepped) -> str:
        """A step in one line, with the time left."""
        pace = self._pace(event)
        heat = "" if event.temperature is None else f" · {event.temperature:.0f} °C"
        return (
            f"{event.step}/{self._steps} · loss {event.loss:.3f} · {pace['tokens_per_second']:.0f} tokens/s"
            f" · {event.memory.used / 2**30:.1f} GiB{heat} · {duration(pace['seconds_left'])} left"
        )

    def _head(self) -> dict[str, Any]:
        return {"time": round(time.time(), 3)} | ({"run": self._run} if self._run else {})

    def _line(self, text: str, *, always: bool = True) -> None:
        due = time.monotonic() - self._line_at > _SECONDS_BETWEEN_LINES
        if always or due:
            self._line_at = self._line_at if always else time.monotonic()
            print(redact(text), file=sys.stdout if self._notebook else sys.stderr, flush=True)

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
