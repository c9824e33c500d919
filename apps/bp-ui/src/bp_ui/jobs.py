"""Jobs: what takes time and is started from the page. Each is a process of its own that outlives the server.

A job is a folder. The server writes what to do into it and starts `python -m bp_ui.job FOLDER`; from then on the two
talk through files alone, so either may end at any moment.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from backpropagate.progress import LOG_FORMAT
from bp_core.errors import DeviceBusy, TargetNotFound
from bp_core.folders import write_json
from bp_core.redact import redact_all
from bp_runs.claim import Owner
from bp_runs.event_log import json_lines

JOB, OWNER, BEGUN, RESULT, ERROR, EXIT = (
    "job.json",
    "owner.json",
    "begun.json",
    "result.json",
    "error.json",
    "exit.json",
)
PROGRESS = "progress.jsonl"
WAITING, RUNNING, FINISHED, FAILED, INTERRUPTED = "waiting", "running", "finished", "failed", "interrupted"
OPEN = (WAITING, RUNNING)
TRAINING = frozenset({"train", "resume", "multi-run"})
# What computes on the device, so that two at once would only be slower.
HEAVY = TRAINING | {"export", "evaluate"}
_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")
_STAMP = "%Y%m%d-%H%M%S"
_SECONDS_TO_START = 30.0  # after that a job without a process is taken as killed
_MOST_OPEN = 20
_LINES_OF_LOG = 200
_STAGE = ("stage", "done", "total", "unit")


@dataclass(frozen=True)
class Job:
    """A job on disk."""

    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name

    @cached_property
    def record(self) -> dict[str, Any]:
        """What to do: verb, title, arguments, cwd, time."""
        return self._read(JOB) or {}

    @property
    def verb(self) -> str:
        return str(self.record.get("verb", ""))

    @property
    def is_heavy(self) -> bool:
        return self.verb in HEAVY

    @property
    def result(self) -> dict[str, Any] | None:
        return self._read(RESULT)

    @property
    def error(self) -> dict[str, Any] | None:
        return self._read(ERROR)

    def state(self) -> str:
        ended = self._read(EXIT)
        if ended is not None:
            return {0: FINISHED, 130: INTERRUPTED}.get(ended["code"], FAILED)
        owner = self.owner()
        if owner is None:
            age = time.time() - self.record.get("time", 0.0)
            return WAITING if age < _SECONDS_TO_START else INTERRUPTED
        if owner.alive() is False:
            return INTERRUPTED
        return RUNNING if (self.folder / BEGUN).exists() else WAITING

    def owner(self) -> Owner | None:
        """The process that does it."""
        known = self._read(OWNER)
        return Owner(**known) if known else None

    def progress(self) -> Iterator[dict[str, Any]]:
        """What it told so far, in order."""
        return json_lines(self.folder / PROGRESS)

    def runs(self) -> list[str]:
        """The ids of the runs that it trains, in their order, as soon as there are any; many stages have one each."""
        return list(dict.fromkeys(line["run"] for line in self.progress() if "run" in line))

    def run(self) -> str | None:
        """The id of the run that it trains now, or trained last."""
        return next(reversed(self.runs()), None)

    def log(self) -> str:
        """The end of all that it wrote on stderr."""
        path = self.folder / PROGRESS
        if not path.is_file():
            return ""
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LINES_OF_LOG:])

    def stop(self) -> None:
        """End it as Ctrl-C would; the process ends its own children."""
        owner = self.owner()
        if owner is None or owner.alive() is not True:
            return
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.name == "nt":
                psutil.Process(owner.pid).send_signal(signal.CTRL_BREAK_EVENT)  # type: ignore[attr-defined]
            else:
                os.kill(owner.pid, signal.SIGTERM)

    def as_dict(self) -> dict[str, Any]:
        """For the page: how it stands, and the last that it told of each stage."""
        state = self.state()
        stages = {line["stage"]: line for line in self.progress() if line.get("event") == "Progress"}
        return {
            "id": self.id,
            "verb": self.verb,
            "title": self.record.get("title", self.verb),
            "state": state,
            "run": self.run(),
            "stages": [{name: line.get(name, "") for name in _STAGE} for line in stages.values()],
            "error": self.error if state not in OPEN else None,
        }

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            value: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return value


@dataclass
class Jobs:
    """All jobs, in the folder `place`."""

    place: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def all(self) -> list[Job]:
        """The newest first."""
        if not self.place.is_dir():
            return []
        folders = [path for path in self.place.iterdir() if _ID.fullmatch(path.name) and (path / JOB).is_file()]
        return [Job(path) for path in sorted(folders, key=lambda path: path.name, reverse=True)]

    def find(self, name: str) -> Job:
        """Raises TargetNotFound."""
        job = Job(self.place / name) if _ID.fullmatch(name) else None
        if job is None or not (job.folder / JOB).is_file():
            raise TargetNotFound("there is no such job.", fix="The list of runs shows what there is.")
        return job

    def open_jobs(self) -> list[Job]:
        """Those that wait or run."""
        self._reap()
        return [job for job in self.all()[:200] if job.state() in OPEN]

    def start(self, verb: str, title: str, arguments: Mapping[str, Any], cwd: Path, *, queue: bool = False) -> Job:
        """Start a job; with `queue` behind those that use the device. Raises DeviceBusy."""
        with self._lock:
            busy = self.open_jobs()
            heavy = [job for job in busy if job.is_heavy]
            if len(busy) >= _MOST_OPEN:
                raise DeviceBusy(f"{len(busy)} jobs are open already.", fix="Wait for some of them to end.")
            if verb in HEAVY and heavy and not queue:
                error = DeviceBusy(f"{heavy[-1].record.get('title', 'another job')} uses the device.")
                error.result = {"job": heavy[-1].id}
                raise error
            job = self._create(verb, title, arguments, cwd)
        self._children.append(_launch(job, cwd))
        return job

    def _create(self, verb: str, title: str, arguments: Mapping[str, Any], cwd: Path) -> Job:
        record = {"verb": verb, "title": title, "arguments": arguments, "cwd": str(cwd), "time": time.time()}
        folder = self.place / f"{self._stamp()}-{secrets.token_hex(2)}"
        folder.mkdir(parents=True, mode=0o700)
        write_json(folder / JOB, redact_all(record))
        return Job(folder)

    def _stamp(self) -> str:
        """The time, but later than that of every job: their order is that of their ids."""
        newest = max((job.id[:15] for job in self.all()), default="")
        moment = time.time()
        if newest and time.strftime(_STAMP, time.localtime(moment)) <= newest:
            moment = time.mktime(time.strptime(newest, _STAMP)) + 1
        return time.strftime(_STAMP, time.localtime(moment))

    def _reap(self) -> None:
        """Take note of children that ended, so that they do not stay as zombies."""
        self._children = [child for child in self._children if child.poll() is None]


def _launch(job: Job, cwd: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-P", "-m", "bp_ui.job", str(job.folder)]
    own: dict[str, Any] = {"start_new_session": True}
    if os.name == "nt":
        flags = ("DETACHED_PROCESS", "CREATE_NEW_PROCESS_GROUP", "CREATE_BREAKAWAY_FROM_JOB")
        own = {"creationflags": sum(getattr(subprocess, name) for name in flags)}
    environment = os.environ | {LOG_FORMAT: "json", "PYTHONUNBUFFERED": "1"}
    environment.pop("BACKPROPAGATE_UI_AUTH", None)
    with (job.folder / "stdout.txt").open("ab") as out, (job.folder / PROGRESS).open("ab") as told:
        return subprocess.Popen(
            words, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=told, **own
        )
