"""A run as the page shows it: how it stands, and its events from a place on, small enough to be asked for often."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bp_core.errors import CheckpointUnusable
from bp_core.folders import home
from bp_runs import Entry, RunFolder, history
from bp_runs.event_log import EVENTS_FILE, events_after
from bp_runs.summary import FAILED, FINISHED, INTERRUPTED, PAUSED, RUNNING
from bp_runs.wishes import Wish, is_running, read_wish

STOPPING, PAUSING = "stopping", "pausing"
ACTIVE = (RUNNING, PAUSED, STOPPING, PAUSING)
_ENTRIES_SECONDS = 2.0
_POINTS = 2000  # of a curve that is loaded for the first time
_SPARKLINE = 60  # points
_LONGEST_LOG = 16 << 20  # bytes that are read for a sparkline
Row = list[Any]


def status_of(run: RunFolder, paused: bool) -> str:
    """How a run stands: never finished before its record says so, and stopping while a stop is not yet obeyed.

    `paused`: the last that its events say of a pause.
    """
    try:
        record = run.read()
    except CheckpointUnusable:
        return FAILED
    if record.get("status") == FINISHED:
        return FINISHED
    if not is_running(record):
        status = str(record.get("status", INTERRUPTED))
        return INTERRUPTED if status in (RUNNING, PAUSED) else status
    wished = read_wish(run.path)
    if wished == Wish.STOP:
        return STOPPING
    if paused:
        return PAUSED
    return PAUSING if wished == Wish.PAUSE else RUNNING


def compact(event: Mapping[str, Any]) -> Row | None:
    """An event as a short list: its letter, its step, and numbers or words; None for one that the page leaves out.

    s: step, loss, learning rate, gradient norm, seconds, tokens, memory used and total (bytes), temperature
    e: step, loss, perplexity, best, accuracy      b: step, steps (a sitting begins)
    p: step, reason (a pause)                      c: step (it is over)          n: step, kind, time, words
    """
    kind, step = event["event"], event.get("step", 0)
    if kind == "Stepped":
        memory = event.get("memory") or {}
        numbers = (event.get(name) for name in ("loss", "learning_rate", "grad_norm", "seconds", "tokens"))
        return ["s", step, *numbers, memory.get("used"), memory.get("total"), event.get("temperature")]
    if kind == "Evaluated":
        return ["e", step, event["loss"], event.get("perplexity"), event.get("best"), event.get("accuracy")]
    if kind == "Started":
        return ["b", step, event["steps"]]
    if kind == "Paused":
        return ["p", step, event["reason"]]
    if kind == "Continued":
        return ["c", step]
    return ["n", step, kind, event.get("time"), event["says"]] if event.get("says") else None


def rows_after(folder: Path, cursor: int) -> dict[str, Any]:
    """The events of a run from a place on. Of a long log that is read from its start, the curve is thinned."""
    part = events_after(folder, cursor)
    rows = [row for row in map(compact, part.events) if row is not None]
    path = folder / EVENTS_FILE
    more = part.cursor < (path.stat().st_size if path.is_file() else 0)
    if len(rows) > 2 * _POINTS:
        rows = thinned(rows, _POINTS)
    return {"cursor": part.cursor, "reset": part.reset, "more": more, "rows": rows}


def thinned(rows: Sequence[Row], points: int) -> list[Row]:
    """About `points` of the steps: of each stretch those of lowest and highest loss and the last; all else is kept."""
    steps = [index for index, row in enumerate(rows) if row[0] == "s"]
    size = max(1, math.ceil(len(steps) / (points / 3)))
    kept: set[int] = set()
    for start in range(0, len(steps), size):
        stretch = steps[start : start + size]
        known = [index for index in stretch if rows[index][2] is not None] or stretch
        kept |= {min(known, key=lambda i: rows[i][2] or 0.0), max(known, key=lambda i: rows[i][2] or 0.0), stretch[-1]}
    return [row for index, row in enumerate(rows) if row[0] != "s" or index in kept]


def is_paused(rows: Sequence[Row], before: bool = False) -> bool:
    """Whether the last that these events say of a pause is that there is one."""
    for row in reversed(rows):
        if row[0] in "pcsb":
            return bool(row[0] == "p")
    return before


@dataclass
class Curve:
    """What a list shows of a run's log, read as far as `cursor`."""

    cursor: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    step: int = 0
    steps: int = 0
    paused: bool = False
    seconds: list[float] = field(default_factory=list)  # of the last steps of this sitting

    def add(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if row[0] == "b":
                self.losses = [point for point in self.losses if point[0] <= row[1]]
                self.step, self.steps, self.seconds = row[1], row[2], []
            elif row[0] == "s":
                self.step = row[1]
                self.seconds = [*self.seconds[-49:], row[5] or 0.0]
                if row[2] is not None:
                    self.losses.append((row[1], row[2]))
        if len(self.losses) > 4 * _POINTS:
            self.losses = self.losses[::2]
        self.paused = is_paused(rows, self.paused)

    @property
    def seconds_left(self) -> float | None:
        """At the pace of the last steps of this sitting."""
        if not self.seconds or self.step >= self.steps:
            return None
        return sum(self.seconds) / len(self.seconds) * (self.steps - self.step)

    def sparkline(self) -> str:
        """The loss as points of an SVG polyline, 100 wide and 24 high."""
        if len(self.losses) < 2:
            return ""
        size = max(1, len(self.losses) // _SPARKLINE)
        parts = [self.losses[start : start + size] for start in range(0, len(self.losses), size)]
        means = [sum(loss for _, loss in part) / len(part) for part in parts]
        low, high = min(means), max(means)
        across = 100 / max(1, len(means) - 1)
        height = [22 - 20 * (mean - low) / ((high - low) or 1) for mean in means]
        return " ".join(f"{index * across:.1f},{y:.1f}" for index, y in enumerate(height))


class Runs:
    """All runs of this user, read again when they may have changed."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._read = -math.inf
        self._curves: dict[str, Curve] = {}
        self._lock = threading.Lock()

    def entries(self) -> list[Entry]:
        """The newest first."""
        with self._lock:
            if time.monotonic() - self._read > _ENTRIES_SECONDS:
                self._entries = history.entries() if (home() / "ledger.db").exists() else []
                self._read = time.monotonic()
            return self._entries

    def find(self, name: str) -> RunFolder | None:
        """The run of that id, also one that began this moment."""
        for entry in self.entries():
            if entry.id == name:
                return RunFolder(Path(entry.folder))
        self._read = -math.inf
        found = next((entry for entry in self.entries() if entry.id == name), None)
        return RunFolder(Path(found.folder)) if found else None

    def entry(self, name: str) -> Entry | None:
        return next((entry for entry in self.entries() if entry.id == name), None)

    def curve(self, entry: Entry) -> Curve:
        """What the log of a run says by now; of a very long one nothing."""
        with self._lock:
            curve = self._curves.setdefault(entry.id, Curve())
            folder = Path(entry.folder)
            path = folder / EVENTS_FILE
            size = path.stat().st_size if path.is_file() else 0
            while curve.cursor < size <= _LONGEST_LOG:
                part = rows_after(folder, curve.cursor)
                if part["reset"]:
                    curve = self._curves[entry.id] = Curve()
                curve.add(part["rows"])
                if part["cursor"] <= curve.cursor:
                    break  # the rest of the file is no whole line yet
                curve.cursor = part["cursor"]
            return curve
