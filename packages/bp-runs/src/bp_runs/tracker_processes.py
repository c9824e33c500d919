"""The trackers that a run reports to, and their processes."""

from __future__ import annotations

import difflib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bp_core.errors import TrackerMissing, UnknownTracker
from bp_core.redact import redact

from .event_log import EVENTS_FILE
from .trackers import KINDS, LOCAL

AUTO, NONE = "auto", "none"
_SECONDS_TO_END = {True: 60, False: 5}  # how long to wait for a tracker that is still sending; by `patient`


def chosen(report_to: str) -> list[str]:
    """The trackers for `--report-to`: those that keep their files here (auto, if installed), none, or those named.

    Raises UnknownTracker, TrackerMissing.
    """
    if report_to in (AUTO, NONE):
        return [name for name in LOCAL if report_to == AUTO and _installed(name)]
    names = list(dict.fromkeys(name.strip() for name in report_to.split(",")))
    for name in names:
        if name not in KINDS:
            near = difflib.get_close_matches(name, [*KINDS, AUTO, NONE], 1)
            raise UnknownTracker(f"there is no tracker {name!r}" + (f"; did you mean {near[0]!r}?" if near else "."))
        if not _installed(name):
            raise TrackerMissing(f"{name} is not installed; install it: pip install {KINDS[name].package}.")
    return names


_LEFT: list[subprocess.Popen[bytes]] = []  # kept, or Python warns of a child process that is still running


class TrackerProcesses:
    """The trackers of one run, one process each; what they print goes to `<run>/trackers/<name>.log`."""

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        self._logs = folder / "trackers"
        events = folder / EVENTS_FILE
        offset = events.stat().st_size if events.is_file() else 0
        if names:
            self._logs.mkdir(exist_ok=True)
        self._processes = {name: self._start(name, folder, offset) for name in names}

    def failures(self) -> Iterator[str]:
        """A message for each tracker that has ended by itself since the last call."""
        for name, process in list(self._processes.items()):
            if process.poll() is not None:
                yield f"{name} gets no more of this run: {self._last_line(name)}"
                self._drop(name)

    def close(self, *, patient: bool) -> Iterator[str]:
        """Let the trackers finish, with a message for each that did not. `patient=False` after Ctrl-C."""
        for process in self._processes.values():
            assert process.stdin
            process.stdin.close()
        for name, process in list(self._processes.items()):
            try:
                if process.wait(_SECONDS_TO_END[patient]) != 0:
                    yield f"{name} did not finish: {self._last_line(name)}"
            except subprocess.TimeoutExpired:
                yield f"{name} is still sending; its process {process.pid} goes on by itself."
                _LEFT.append(process)
            self._drop(name)

    def _start(self, name: str, folder: Path, offset: int) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "bp_runs.trackers", name, str(folder), str(offset)]
        # In its own session, so that Ctrl-C in the terminal reaches only the training, which then ends the trackers.
        group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
        with (self._logs / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, creationflags=group
            )

    def _last_line(self, name: str) -> str:
        text = redact((self._logs / f"{name}.log").read_text(encoding="utf-8", errors="replace")).strip()
        return f"{text.splitlines()[-1] if text else 'it ended without a word'} (see {self._logs / name}.log)"

    def _drop(self, name: str) -> None:
        process = self._processes.pop(name)
        if process.stdin:
            process.stdin.close()


def _installed(name: str) -> bool:
    return importlib.util.find_spec(KINDS[name].module) is not None
