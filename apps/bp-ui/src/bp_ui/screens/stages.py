"""A session of many stages: how each stands, and what its rows cost after each stage, as a heat map with numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from bp_core.errors import FileMissing, RunNotFound
from bp_multirun.record import Record
from bp_runs import RunFolder

from ..jobs import OPEN
from ..render import fragment, number, page
from ..session_folder import MERGED, REFUSED, SessionFolder
from .request import run_of, runs_of, site_of
from .run import head

_REPORT = "report.html"
_LEVELS = 4  # of a colour


@dataclass(frozen=True)
class Cell:
    """A loss, and by how much it is above or below the base's: `level` 1 to 4 of its colour, 0 for about the same."""

    text: str
    change: str
    kind: str
    level: int


def show(request: Request) -> Response:
    run, session = _session(request)
    standing, values = _standing(request, session), head(request, run)
    if standing["failure"]:
        values["error"] = None  # what went wrong with the session says how to go on with it, the stage's does not
    report = (session.path / _REPORT).is_file()
    return page(request, "stages.html", tab="stages", session=session.path, report=report, **standing, **values)


def part(request: Request) -> Response:
    """How the stages stand alone, which the page asks for again and again."""
    _, session = _session(request)
    told = _standing(request, session)
    return JSONResponse({"open": told["open"], "stages": fragment("stages_list.html", **told)})


def _session(request: Request) -> tuple[RunFolder, SessionFolder]:
    """The run that the address names, and its session. Raises RunNotFound where it is none's."""
    run = run_of(request)
    session = SessionFolder.of(run)
    if session is None:
        raise RunNotFound("this run is no stage of a session.", fix="`backprop multi-run` trains stage after stage.")
    return run, session


def _standing(request: Request, session: SessionFolder) -> dict[str, Any]:
    """How a session stands: its stages, the heat map, and the job that is at it."""
    lines, record = session.stages(runs_of(request)), session.record()
    mine = {line.run for line in lines if line.run}
    jobs = [job for job in site_of(request).jobs.all()[:200] if job.verb == "multi-run" and mine & {*job.runs()}]
    job = jobs[0].as_dict() if jobs else None
    at_work = session.is_active or (job is not None and job["state"] in OPEN)
    return {
        "lines": lines,
        "names": [entry.name for entry in record.entries] if record else [],
        "rows": heat_map(record) if record else [],
        "open": at_work,
        "job": job,
        "failure": job["error"] if job and not at_work else None,
        "whole": all(line.status in (MERGED, REFUSED) for line in lines),
    }


def report(request: Request) -> Response:
    """The session's report, as a file to keep, like that of a run."""
    _, session = _session(request)
    path = session.path / _REPORT
    if not path.is_file():
        raise FileMissing("there is no report yet.", fix="It is written when all stages are merged.")
    name = f"report-{session.path.parent.name}.html"
    return FileResponse(path, media_type="application/octet-stream", filename=name)


def heat_map(record: Record) -> list[tuple[str, str, list[Cell | None]]]:
    """For the rows held out of each stage: its name, the base's loss, and a cell after each stage."""
    lines: list[tuple[str, float, list[float | None]]] = []
    for key, entry in enumerate(record.entries, 1):
        base = entry.base.get(str(key))
        scores = [later.merged.get(str(key)) for later in record.entries]
        if base is not None:
            lines.append((entry.name, base.loss, [score.loss if score else None for score in scores]))
    changes = [abs(loss - base) for _, base, after in lines for loss in after if loss is not None]
    largest = max(changes, default=0.0) or 1.0
    return [
        (name, number(base), [None if loss is None else _cell(loss, base, largest) for loss in after])
        for name, base, after in lines
    ]


def _cell(loss: float, base: float, largest: float) -> Cell:
    change = loss - base
    level = min(_LEVELS, round(_LEVELS * abs(change) / largest))
    return Cell(number(loss), f"{change:+.3g}", "risen" if change > 0 else "fallen", level)


ROUTES = [
    Route("/stages/{run}", show),
    Route("/stages/{run}/part", part),
    Route("/stages/{run}/report", report),
]
