"""What a person sees while something runs: progress, on stderr."""

from __future__ import annotations

from time import monotonic
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from bp_core import events

_SECONDS_BETWEEN_LINES = 10.0


class Screen:
    """One bar a stage on a terminal; elsewhere (a log file, CI) a plain line when a stage begins and now and then."""

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
        self._line_at = 0.0

    def __enter__(self) -> Screen:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        self._bars.stop()

    def notify(self, progress: events.Progress) -> None:
        """Show how far a long job is."""
        count = f"{progress.done}/{progress.total}" if progress.total else ""
        self._show(progress.stage, progress.done, progress.total, count)

    def watch(self, event: events.Event) -> None:
        """Show a training event."""
        if isinstance(event, events.Started):
            self._show("train", event.step, event.steps, f"{event.step}/{event.steps}")
        elif isinstance(event, events.Stepped):
            self._stepped(event)
        elif said := event.says():
            loud = not isinstance(event, events.Evaluated | events.Continued)
            self.console.print(said, style="yellow" if loud else "", markup=False)

    def _stepped(self, event: events.Stepped) -> None:
        total = self._bars.tasks[-1].total if self._task is not None else None
        note = (
            f"{event.step}/{total or 0:.0f} · loss {event.loss:.3f} · {event.targets / event.seconds:.0f} targets/s"
            f" · {event.memory.used / 2**30:.1f} GiB"
        )
        self._show("train", event.step, int(total or 0), note)

    def _show(self, stage: str, done: int, total: int, note: str) -> None:
        if stage != self._stage:
            self._finish()
            self._stage, self._line_at = stage, 0.0
            self._task = self._bars.add_task(stage, total=total or None, note=note)
        assert self._task is not None
        self._bars.update(self._task, completed=done, total=total or None, note=note)
        if not self.console.is_terminal and monotonic() - self._line_at > _SECONDS_BETWEEN_LINES:
            self.console.print(f"{stage} {note}".rstrip())
            self._line_at = monotonic()

    def _finish(self) -> None:
        """Show the stage before as done."""
        if self._task is not None:
            self._bars.update(self._task, total=1, completed=1, note="")
        self._task, self._stage = None, ""
