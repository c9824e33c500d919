"""A job: how far it is, and what came of it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bp_core.errors import CheckpointUnusable, RunNotRunning
from bp_runs.wishes import Wish, wish

from ..jobs import OPEN
from ..render import page
from .request import body_of, runs_of, site_of


def show(request: Request) -> Response:
    job = site_of(request).jobs.find(request.path_params["job"])
    return page(request, "job.html", job=job.as_dict(), open=job.state() in OPEN, result=job.result, log=job.log())


def state(request: Request) -> Response:
    job = site_of(request).jobs.find(request.path_params["job"])
    return JSONResponse(job.as_dict())


async def stop(request: Request) -> Response:
    """End a job: a training after its step, with a checkpoint; anything else at once."""
    await body_of(request)
    job = site_of(request).jobs.find(request.path_params["job"])
    run = runs_of(request).find(job.run() or "")
    if run is not None:
        try:
            wish(run, Wish.STOP)
            return JSONResponse({"stopping": job.id})
        except (RunNotRunning, CheckpointUnusable):
            pass  # not begun, or over: its process is ended then
    job.stop()
    return JSONResponse({"stopping": job.id})


ROUTES = [
    Route("/jobs/{job}", show),
    Route("/jobs/{job}/state", state),
    Route("/jobs/{job}/stop", stop, methods=["POST"]),
]
