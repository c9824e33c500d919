"""The page put together: its routes, and how errors are answered."""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from bp_core.errors import BackpropagateError, DeviceBusy, FileMissing, RunNotFound, TargetNotFound, UploadRefused
from bp_core.redact import redact_all

from .feed import Runs
from .gate import Gate
from .helpers import HelperError, Helpers
from .render import page
from .screens import chat, compare, data, jobs, models, multi_run, results, run, runs, sign_in, stages, system, train
from .site import Site

_STATUS: tuple[tuple[type[BackpropagateError], int], ...] = (
    (FileMissing, 404),
    (RunNotFound, 404),
    (TargetNotFound, 404),
    (DeviceBusy, 409),
    (UploadRefused, 413),
)


def create_app(site: Site) -> Starlette:
    """The page as an ASGI application."""
    screens = (sign_in, runs, run, results, data, train, multi_run, chat, compare, models, stages, system, jobs)
    routes: list[BaseRoute] = [Route("/", _home)]
    for screen in screens:
        routes += screen.ROUTES
    routes.append(Mount("/static", StaticFiles(directory=Path(__file__).with_name("static"))))
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Gate, site=site)],
        exception_handlers={BackpropagateError: _refused, HelperError: _told, HTTPException: _not_here},
    )
    app.state.site = site
    app.state.runs = Runs()
    app.state.helpers = Helpers(site.here, site.sessions.place)
    app.state.uploading = False
    return app


def _home(request: Request) -> Response:
    return RedirectResponse("/runs", 303)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, BackpropagateError)
    status = next((number for kind, number in _STATUS if isinstance(error, kind)), 400)
    return answer_error(request, {**error.as_dict(), **error.result}, status)


def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, HelperError)
    return answer_error(request, error.told, 400)


def _not_here(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    fix = "The menu leads to all there is."
    return answer_error(
        request, {"code": "", "message": f"{error.detail}.", "where": None, "fix": fix}, error.status_code
    )


def answer_error(request: Request, error: dict[str, object], status: int) -> Response:
    """An error as a page for who reads pages, else as JSON."""
    error = redact_all(error)
    if request.method in ("GET", "HEAD") and "text/html" in request.headers.get("accept", ""):
        return page(request, "error.html", status, error=error)
    return JSONResponse({"error": error}, status)
