"""Data: choose or upload a file, check it, and see its rows as they lie and as the model sees them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from bp_core.choices import TrainOn
from bp_core.config import DataConfig, TrainConfig
from bp_core.errors import BadValue, UploadRefused
from bp_core.settings import settings

from ..folders import UPLOADS
from ..jobs import OPEN, Job
from ..render import fragment, page
from ..uploads import checked_name, receive
from .model_names import checked_model
from .request import body_of, helpers_of, runs_of, site_of, started, text

_READING = ("columns", "ignore_columns", "roles", "text_unit")  # what a user changes of it on the page


def show_list(request: Request) -> Response:
    site = site_of(request)
    return page(
        request,
        "data.html",
        files=site.folders.data_files(),
        roots=list(site.folders.roots.values()),
        limit=int(site.config.upload_limit * 2**30),
        endings=".jsonl, .json, .csv, .tsv, .txt, .md, .parquet, also as .gz and .zst",
    )


def show(request: Request) -> Response:
    """One file. Its rows are fetched by the page, for a process of their own reads them."""
    site, address = site_of(request), request.path_params["address"]
    path = site.folders.find(address)
    checks = [job for job in site.jobs.all()[:200] if job.verb == "check" and _is_of(job, path)]
    done = next((job for job in checks if job.result is not None or job.error is not None), None)
    return page(
        request,
        "data_file.html",
        address=address,
        name=path.name,
        bytes=path.stat().st_size,
        row=request.query_params.get("row", "1"),
        model=request.query_params.get("model", TrainConfig.model),
        reading={name: request.query_params.get(name, "") for name in _READING},
        helps={setting.name: setting.help for setting in settings(DataConfig)},
        running=next((job.as_dict() for job in checks if job.state() in OPEN), None),
        result=done.result if done else None,
        error=done.error if done else None,
        uploaded=address.startswith(f"{UPLOADS}/"),
    )


def rows(request: Request) -> Response:
    """Some rows as HTML."""
    site, given = site_of(request), request.query_params
    path = site.folders.find(given.get("address", ""))
    first = int(given["row"]) if given.get("row", "").isdecimal() and len(given["row"]) < 10 else 1
    model = checked_model(given["model"], site, runs_of(request)) if given.get("model") else None
    question = {
        "file": str(path),
        "reading": reading_of(given),
        "model": model,
        "skip": max(0, first - 1),
        "count": 1,
        "train_on": train_on_of(given.get("train_on", TrainConfig.train_on)),
        "tools_template": TrainConfig.tools_template,
        "tool_schema": TrainConfig.tool_schema,
    }
    found = helpers_of(request).ask("rows", question)
    return HTMLResponse(fragment("row.html", **found, first=first))


async def upload(request: Request) -> Response:
    """Take a file: the body is its bytes, so there are no parts of forms to be taken apart."""
    site, name = site_of(request), request.query_params.get("name", "")
    checked_name(name)
    if request.app.state.uploading:
        raise UploadRefused("another upload is on its way.", where=name, fix="Wait for it to end.")
    length = request.headers.get("content-length", "")
    request.app.state.uploading = True
    try:
        folder = site.folders.roots[UPLOADS]
        limit = int(site.config.upload_limit * 2**30)
        stream = request.stream()
        kept = await receive(stream, folder, name, limit, int(length) if length.isdecimal() else None)
    finally:
        request.app.state.uploading = False
    return JSONResponse({"location": f"/data/{UPLOADS}/{kept.name}"})


async def check(request: Request) -> Response:
    site, body = site_of(request), await body_of(request)
    path = site.folders.find(str(body.get("address", "")))
    model = checked_model(str(body["model"]), site, runs_of(request)) if body.get("model") else None
    config = {"model": model}
    arguments = {"file": str(path), "settings": config, "reading": reading_of(body)}
    job = site.jobs.start("check", f"Checking {path.name}", arguments, site.here)
    return JSONResponse(started(job, then=f"/data/{body['address']}"))


async def repair(request: Request) -> Response:
    """Write a copy without what training would refuse. The file itself stays as it is."""
    site, body = site_of(request), await body_of(request)
    path = site.folders.find(str(body.get("address", "")))
    target = site.folders.roots[UPLOADS] / f"{path.name.partition('.')[0]}.repaired.jsonl"
    settings = {"fix": str(target)}
    arguments = {"file": str(path), "settings": settings, "reading": reading_of(body)}
    job = site.jobs.start("check", f"Repairing {path.name}", arguments, site.here)
    return JSONResponse(started(job, then=f"/data/{UPLOADS}/{target.name}"))


async def split(request: Request) -> Response:
    """Write two files: rows to train on, and rows held out."""
    site, body = site_of(request), await body_of(request)
    path = site.folders.find(str(body.get("address", "")))
    share = body.get("held_out")
    if not isinstance(share, int | float) or not 0 < share < 1:
        raise BadValue("the share that is held out must be between 0 and 1.", fix="0.1 holds out one row in ten.")
    arguments = {"file": str(path), "held_out": float(share), "reading": reading_of(body)}
    return JSONResponse(started(site.jobs.start("split", f"Splitting {path.name}", arguments, site.here), then="/data"))


def reading_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """How to read a file, of what a request brings. Raises BadValue."""
    chosen = {name: text(str(given[name]), name) for name in _READING if given.get(name)}
    return dataclasses.asdict(DataConfig(**chosen))  # type: ignore[arg-type]


def train_on_of(wanted: str) -> TrainOn:
    """Raises BadValue."""
    return TrainConfig(train_on=wanted).train_on  # type: ignore[arg-type]


def _is_of(job: Job, path: Path) -> bool:
    return bool(job.record.get("arguments", {}).get("file") == str(path))


ROUTES = [
    Route("/data", show_list),
    Route("/data-rows", rows),
    Route("/data-check", check, methods=["POST"]),
    Route("/data-repair", repair, methods=["POST"]),
    Route("/data-split", split, methods=["POST"]),
    Route("/upload", upload, methods=["POST"]),
    Route("/data/{address:path}", show),
]
