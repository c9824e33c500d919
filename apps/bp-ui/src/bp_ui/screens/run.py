"""A run, live: its curve, how it stands, and what the user wishes of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from backpropagate.hints import command, multi_run_command, resume_command
from bp_core.errors import BadValue, FileMissing
from bp_core.recipe import AS_SET, at_default
from bp_core.units import gigabytes
from bp_runs import RunFolder, history
from bp_runs.notes import LONGEST, read_note, write_note
from bp_runs.summary import FINISHED
from bp_runs.wishes import Wish, wish

from ..feed import ACTIVE, rows_after, status_of
from ..jobs import OPEN
from ..render import page
from ..session_folder import SessionFolder, target_of
from .request import body_of, run_of, runs_of, site_of, started
from .runs import name_of

_LOG_LINES = 300


def show(request: Request) -> Response:
    run = run_of(request)
    return page(request, "run.html", tab="curve", **head(request, run))


def head(request: Request, run: RunFolder) -> dict[str, Any]:
    """What stands above every tab of a run."""
    entry, record = runs_of(request).entry(run.id), run.read()
    recipe: Mapping[str, Any] = record.get("recipe", {})
    curve = runs_of(request).curve(entry) if entry else None
    status = status_of(run, bool(curve and curve.paused))
    return {
        "run": run,
        "record": record,
        "recipe": recipe,
        "name": name_of(entry) if entry else run.id,
        "status": status,
        "active": status in ACTIVE,
        "finished": status == FINISHED,
        "error": record.get("error") if status not in (*ACTIVE, FINISHED) else None,
        "resume": _resume_command(run),
        "note": read_note(run),
        "longest_note": LONGEST,
        "device": record.get("opened", {}).get("device", ""),
        "resuming": _resuming(request, run) if status not in ACTIVE else None,
        "from_page": any(run.id in job.runs() for job in site_of(request).jobs.all()[:200]),
        "multi_run": SessionFolder.of(run) is not None,
        "merged": target_of(run) != run.path,
    }


def _resume_command(run: RunFolder) -> str:
    """What goes on with a run; with a stage's run, the session that it is part of."""
    session = SessionFolder.of(run)
    if session:
        return multi_run_command(session.path.parent)
    return resume_command(run.id, run.path.parent.parent)


def _resuming(request: Request, run: RunFolder) -> str | None:
    """The job that is about to go on with a run, but has not begun to train."""
    jobs = site_of(request).jobs.open_jobs()
    mine = [job.id for job in jobs if job.verb == "resume" and job.record["arguments"].get("run") == str(run.path)]
    return mine[0] if mine else None


def events(request: Request) -> Response:
    """The events from a place on, and how the run stands by now."""
    run = run_of(request)
    after = request.query_params.get("after", "0")
    told = rows_after(run.path, int(after) if after.isdecimal() and len(after) < 16 else 0)
    entry = runs_of(request).entry(run.id)
    paused = runs_of(request).curve(entry).paused if entry else False
    told["status"] = status_of(run, paused)
    return JSONResponse(told)


async def wishes(request: Request) -> Response:
    """Pause, continue or stop."""
    run, body = run_of(request), await body_of(request)
    wished = str(body.get("wish", ""))
    if wished not in (Wish.PAUSE, Wish.CONTINUE, Wish.STOP):
        raise BadValue("there is no such wish.")
    wish(run, Wish(wished))
    return JSONResponse({"wish": wished})


async def note(request: Request) -> Response:
    run, body = run_of(request), await body_of(request)
    written = body.get("note")
    if not isinstance(written, str) or len(written) > LONGEST:
        raise BadValue(f"a note has at most {LONGEST} characters.")
    write_note(run, written)
    return JSONResponse({"note": read_note(run)})


async def resume(request: Request) -> Response:
    """Go on with a run that has not finished; where it is a stage of a session, with the session."""
    run, body = run_of(request), await body_of(request)
    entry = runs_of(request).entry(run.id)
    title = f"Going on with {name_of(entry) if entry else run.id}"
    site, queue = site_of(request), bool(body.get("queue"))
    if SessionFolder.of(run):
        job = site.jobs.start("multi-run", title, {"resume": str(run.path)}, site.here, queue=queue)
        return JSONResponse(started(job))
    job = site.jobs.start("resume", title, {"run": str(run.path)}, site.here, queue=queue)
    return JSONResponse(started(job, f"/runs/{run.id}"))


def records(request: Request) -> Response:
    """All that is known of a run: recipe with reasons, files, log, report."""
    run = run_of(request)
    values = head(request, run)
    recipe, why = values["recipe"], values["recipe"].get("why", {})
    rows = [(name, value, why.get(name, AS_SET)) for name, value in recipe.items() if name != "why"]
    exports = [
        (export["path"], history.export_line(export).removeprefix(export["path"]).strip(" ()"))
        for export in history.exports_of(run)
    ]
    jobs = [job for job in site_of(request).jobs.all()[:200] if run.id in job.runs()]
    return page(
        request,
        "records.html",
        tab="records",
        told=[row for row in rows if row[1] is not None and not at_default(row[1], row[2])],
        defaults=[row for row in rows if row[1] is not None and at_default(row[1], row[2])],
        weights=values["record"].get("weights", {}),
        exports=exports,
        log=jobs[0].log() if jobs else "",
        report=(run.path / "report.html").is_file(),
        facts=_facts(values["record"]),
        replay=command("replay", run.id),
        **values,
    )


def _facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    counts = record.get("counts", {})
    facts = [("Folder of the base", str(record.get("base", ""))), ("Data", str(record.get("data", "")))]
    facts += [(f"Data: {name}", str(counts[name])) for name in ("examples", "truncated", "tokens") if name in counts]
    if "first_step" in record:
        facts.append(("Memory after the first step", gigabytes(record["first_step"]["peak_memory"])))
    return [(name, value) for name, value in facts if value]


def report(request: Request) -> Response:
    """The run's report, as a file to keep: it has a style sheet of its own, which the page's policy would forbid."""
    run = run_of(request)
    path = run.path / "report.html"
    if not path.is_file():
        raise FileMissing("there is no report yet.", fix="It is written when the run ends.")
    return FileResponse(path, media_type="application/octet-stream", filename=f"report-{run.id}.html")


def open_jobs_of(request: Request, run: RunFolder, verb: str) -> list[dict[str, Any]]:
    """The jobs of a verb that are about this run, the newest first: those that are open, and the last one."""
    target = str(target_of(run))
    jobs = [job for job in site_of(request).jobs.all()[:200] if job.verb == verb]
    mine = [job for job in jobs if job.record.get("arguments", {}).get("target") == target]
    return [job.as_dict() | {"open": job.state() in OPEN, "result": job.result} for job in mine[:5]]


def output_of(run: RunFolder) -> Path:
    return run.path.parent.parent


ROUTES = [
    Route("/runs/{run}", show),
    Route("/runs/{run}/events", events),
    Route("/runs/{run}/wish", wishes, methods=["POST"]),
    Route("/runs/{run}/note", note, methods=["POST"]),
    Route("/runs/{run}/resume", resume, methods=["POST"]),
    Route("/runs/{run}/records", records),
    Route("/runs/{run}/report", report),
]
