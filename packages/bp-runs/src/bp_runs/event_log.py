"""events.jsonl: the events of a run, one a line; whole lines only, also after a crash or on a full disk."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bp_core.events import Event
from bp_core.folders import writing
from bp_core.redact import redact_all

EVENTS_FILE = "events.jsonl"
PART_BYTES = 4 << 20  # of a log, read at once


class EventLog:
    """Appends events. On a full disk they are kept in memory and written once there is space."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / EVENTS_FILE
        self._waiting = b""
        with writing(self._path):
            self._size = _cut_torn_line(self._path)

    def watch(self, event: Event) -> None:
        """Write an event with its time (seconds since 1970), run id and description. Raises OutputUnusable."""
        description = event.describe()
        says = {"says": description} if description else {}
        head = {"time": round(time.time(), 3), "run": self._path.parent.name}
        self._waiting += json.dumps(redact_all(head | event.as_dict() | says)).encode() + b"\n"
        with writing(self._path):
            try:
                with self._path.open("ab") as file:
                    file.write(self._waiting)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                os.truncate(self._path, self._size)
                return
        self._size += len(self._waiting)
        self._waiting = b""


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """The events of a run, in order. Steps that a resumed run repeated are given once, from the last time."""
    kept: list[dict[str, Any]] = []
    for event in json_lines(folder / EVENTS_FILE):
        if event["event"] == "Started":
            kept = [old for old in kept if old["step"] <= event["step"]]
        kept.append(event)
    yield from kept


@dataclass(frozen=True)
class LogPart:
    """Events from a place in the log on. `cursor` is where the next part begins, in bytes.

    `reset`: the log is shorter than the place that was asked for, so this part begins at its start again.
    """

    events: list[dict[str, Any]]
    cursor: int
    reset: bool


def events_after(folder: Path, cursor: int, limit: int = PART_BYTES) -> LogPart:
    """The events of a run from byte `cursor` on: whole lines, at most `limit` bytes of them unless one line is longer.

    Steps that a resumed run repeated are in it again: at a `Started` a reader drops what it has beyond that step.
    """
    path = folder / EVENTS_FILE
    size = path.stat().st_size if path.is_file() else 0
    reset = not 0 <= cursor <= size
    start = 0 if reset else cursor
    if start == size:
        return LogPart([], start, reset)
    with path.open("rb") as file:
        file.seek(start)
        content = file.read(limit)
        if b"\n" not in content:
            content += file.readline()
    whole = content[: content.rfind(b"\n") + 1]
    return LogPart(list(_objects(whole)), start + len(whole), reset)


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl file; broken lines, left by a killed process, are skipped."""
    if not path.is_file():
        return
    yield from _objects(path.read_bytes())


def _objects(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.decode("utf-8", errors="replace").splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def _cut_torn_line(path: Path) -> int:
    """Cut off a last line that a crash left unfinished; return the size of the file in bytes."""
    if not path.is_file():
        return 0
    content = path.read_bytes()
    size = content.rfind(b"\n") + 1
    if size != len(content):
        os.truncate(path, size)
    return size
