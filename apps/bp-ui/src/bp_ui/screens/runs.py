"""The list of runs: those of the page and those of the command line alike."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from bp_core.units import in_words
from bp_runs import Entry, RunFolder
from bp_runs.summary import STATUSES

from ..feed import ACTIVE, Runs, status_of
from ..jobs import FAILED, OPEN, TRAINING, Job
from ..render import fragment, page
from ..session_folder import stage_name
from .request import runs_of, site_of

_ON_A_PAGE = 30
_LATELY = 24 * 3600.0  # seconds for which a job that failed without a run is shown


@dataclass(frozen=True)
class Line:
    """A run in the list."""

    entry: Entry
    name: str
    status: str
    step: int
    steps: int
    left: str
    sparkline: str
    proven: str
    from_page: bool

    @property
    def is_active(self) -> bool:
        return self.status in ACTIVE

    @property
    def share(self) -> int:
        """Per cent done."""
        return round(100 * self.step / self.steps) if self.steps else 0


def show(request: Request) -> Response:
    return page(request, "runs.html", **_list(request))


def part(request: Request) -> Response:
    """The list alone, which the page asks for again and again."""
    return HTMLResponse(fragment("runs_list.html", **_list(request)))


def _list(request: Request) -> dict[str, Any]:
    runs, wanted = runs_of(request), request.query_params
    status, words = wanted.get("status", ""), wanted.get("text", "").lower().strip()
    first = max(0, int(wanted.get("from", "0"))) if wanted.get("from", "0").isdecimal() else 0
    jobs = site_of(request).jobs.all()[:200]
    of_page = {run for job in jobs if job.verb in TRAINING for run in job.runs()}
    found = [entry for entry in runs.entries() if _matches(entry, status, words)]
    lines = [_line(runs, entry, entry.id in of_page) for entry in found[first : first + _ON_A_PAGE]]
    return {
        "lines": lines,
        "waiting": [] if first or status or words else _without_run(jobs),
        "total": len(found),
        "any": bool(runs.entries()),
        "first": first,
        "next": first + _ON_A_PAGE if first + _ON_A_PAGE < len(found) else None,
        "before": max(0, first - _ON_A_PAGE) if first else None,
        "status": status,
        "text": wanted.get("text", ""),
        "statuses": STATUSES,
    }


def _matches(entry: Entry, status: str, words: str) -> bool:
    if status and entry.status_now() != status:
        return False
    seen = " ".join([entry.id, entry.model, str(entry.data), str(entry.recipe.get("name", ""))]).lower()
    return all(word in seen for word in words.split())


def _line(runs: Runs, entry: Entry, from_page: bool) -> Line:
    curve = runs.curve(entry)
    status = status_of(RunFolder(Path(entry.folder)), curve.paused)
    left = curve.seconds_left if status in ACTIVE else None
    proofs = [str(export["format"]) for export in entry.exports if export.get("proven")]
    return Line(
        entry=entry,
        name=name_of(entry),
        status=status,
        step=curve.step or entry.step,
        steps=curve.steps or entry.steps,
        left=f"about {in_words(left)} left" if left else "",
        sparkline=curve.sparkline(),
        proven=proofs[-1] if proofs else "",
        from_page=from_page,
    )


def name_of(entry: Entry) -> str:
    """What a run is called: its name, or that of its data; that of a session's stage lies beside its rows."""
    if given := str(entry.recipe.get("name") or ""):
        return given
    if not entry.data:
        return entry.id
    return (stage_name(Path(entry.data)) or Path(entry.data).name).partition(".")[0]


def _without_run(jobs: list[Job]) -> list[dict[str, Any]]:
    """Jobs that wait, prepare, or failed lately before there was a run."""
    told = []
    for job in jobs:
        state = job.state()
        lately = time.time() - job.record.get("time", 0.0) < _LATELY
        shown = state in OPEN or (state == FAILED and lately)
        if shown and job.verb in TRAINING and job.run() is None:
            told.append(job.as_dict())
    return told


ROUTES = [Route("/runs", show), Route("/runs/list", part)]
