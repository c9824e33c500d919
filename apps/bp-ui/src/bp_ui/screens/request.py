"""What the screens have in common: the parts of a running page, and the JSON that a request brings."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request

from bp_core.errors import BadValue, TargetNotFound
from bp_runs import RunFolder

from ..feed import Runs
from ..helpers import Helpers
from ..jobs import Job
from ..site import Site

_LARGEST = 1 << 20  # bytes of a JSON body
RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")


def site_of(request: Request) -> Site:
    site: Site = request.app.state.site
    return site


def runs_of(request: Request) -> Runs:
    runs: Runs = request.app.state.runs
    return runs


def helpers_of(request: Request) -> Helpers:
    helpers: Helpers = request.app.state.helpers
    return helpers


async def body_of(request: Request) -> dict[str, Any]:
    """The JSON object of a request. Raises HTTPException for a large one, BadValue for anything else."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > _LARGEST:
            raise HTTPException(413, "The request is too large")
        parts.append(part)
    try:
        value = json.loads(b"".join(parts) or b"{}")
    except (ValueError, RecursionError) as error:
        raise BadValue("the request is no JSON.") from error
    if not isinstance(value, dict):
        raise BadValue("the request is no JSON object.")
    return value


def run_of(request: Request) -> RunFolder:
    """The run that the address names. Raises TargetNotFound."""
    name = request.path_params["run"]
    run = runs_of(request).find(name) if RUN_ID.fullmatch(name) else None
    if run is None:
        raise TargetNotFound("there is no such run.", fix="The list of runs shows what there is.")
    return run


def started(job: Job, place: str = "", then: str = "") -> dict[str, Any]:
    """The answer to whoever started a job: where it is watched, and where to go when it is done."""
    after = f"?then={quote(then)}" if then else ""
    return {"job": job.id, "location": place or f"/jobs/{job.id}{after}"}


def text(value: Any, name: str, longest: int = 500) -> str:
    """A text of a request, without line breaks and control characters. Raises BadValue."""
    if not isinstance(value, str) or len(value) > longest or any(ord(sign) < 32 for sign in value):
        raise BadValue(f"{name} must be one line of text.")
    return value.strip()
