"""Models: which presets are here, and fetching one."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from ..jobs import OPEN
from ..render import fragment, page
from .model_names import checked_model
from .request import body_of, helpers_of, runs_of, site_of, started


def show(request: Request) -> Response:
    jobs = [job for job in site_of(request).jobs.all()[:100] if job.verb == "download"]
    lately = [job.as_dict() for job in jobs[:5]]
    return page(request, "models.html", jobs=lately, opens=OPEN)


def part(request: Request) -> Response:
    """The table, for which the hub's cache is looked through."""
    found = helpers_of(request).ask("plan", {"what": "models"})
    return HTMLResponse(fragment("models_list.html", **found))


async def get(request: Request) -> Response:
    site, body = site_of(request), await body_of(request)
    model = checked_model(str(body.get("model", "")), site, runs_of(request))
    job = site.jobs.start("download", f"Fetching {model}", {"model": model}, site.here)
    return JSONResponse(started(job, "/models"))


ROUTES = [Route("/models", show), Route("/models/list", part), Route("/models/get", get, methods=["POST"])]
