"""Train: a form out of the settings, what would happen, and the start."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from backpropagate.hints import command, near, options_of
from bp_core.config import DataConfig, TrainConfig
from bp_core.settings import Setting, names, settings
from bp_plan.presets import PRESETS

from ..feed import Runs
from ..helpers import Helpers
from ..jobs import HEAVY
from ..render import fragment, page
from ..site import Site
from .form import EXAMPLE, address_of, changed, checked, data_paths, field_of, newest, panels_of, read_settings
from .request import body_of, helpers_of, run_of, runs_of, site_of, started

# What most people set; everything else is folded. The order is that of the page.
_MAIN = ("model", "method", "mode", "epochs", "steps", "learning_rate", "rank", "held_out", "name")
_FROM_DATA = ("model", "columns", "roles", "ignore_columns")  # the page of a data file sends them along


def show(request: Request) -> Response:
    given, data = _begun(request) if request.query_params.get("from") else ({}, "")
    return form(request, settings(TrainConfig), given, [data], stages=False)


def form(
    request: Request, shown: tuple[Setting, ...], given: dict[str, Any], data: list[str], *, stages: bool
) -> Response:
    """The page with the form: `given` is what is set already, `data` the addresses of what is chosen."""
    site, query = site_of(request), request.query_params
    given |= {name: query[name] for name in _FROM_DATA if query.get(name)}
    fields = {setting.name: field_of(setting, given) for setting in shown}
    files = [(file.address, file.bytes) for file in site.folders.data_files()]
    return page(
        request,
        "train.html",
        main=[fields[name] for name in _MAIN if name != "model"],
        model=fields["model"],
        presets=list(PRESETS),
        panels=panels_of([field for name, field in fields.items() if name not in _MAIN]),
        count=len(fields),
        files=files,
        example=EXAMPLE,
        chosen=query.getlist("data") or list(filter(None, data)) or [newest(files)],
        stages=stages,
        busy=next((job for job in site.jobs.open_jobs() if job.verb in HEAVY), None),
    )


def _begun(request: Request) -> tuple[dict[str, Any], str]:
    """The settings and the data of an earlier run."""
    request.path_params["run"] = request.query_params["from"]
    record = run_of(request).read()
    known = names(TrainConfig)
    given = {name: value for name, value in record.get("settings", {}).items() if name in known}
    data = record.get("data")
    first = data[0] if isinstance(data, list) and data else data
    return given, address_of(site_of(request), first) if isinstance(first, str) else ""


async def same_command(request: Request) -> Response:
    """The same as a command line; what is wrong with the settings is told with it, before a plan is made."""
    config, data = await _chosen(request)
    return JSONResponse({"command": command_line(config, data)})


async def plan(request: Request) -> Response:
    """What would happen: every value with its reason, and what it needs."""
    config, data = await _chosen(request)
    question = {"settings": changed(config), "data": data}
    return JSONResponse(await anyio.to_thread.run_sync(planned, helpers_of(request), config, question))


def planned(helpers: Helpers, config: TrainConfig, question: dict[str, Any]) -> dict[str, Any]:
    """What the helper plans, with the parts of the page that show it."""
    found = helpers.ask("plan", question)
    # A row of the data shows best what is learned of it.
    first = {
        "file": question["data"][0],
        "reading": {setting.name: getattr(config, setting.name) for setting in settings(DataConfig)},
        "model": config.model,
        "skip": 0,
        "count": 1,
        "train_on": config.train_on,
        "tools_template": config.tools_template,
        "tool_schema": config.tool_schema,
    }
    row = helpers.ask("rows", first) if Path(first["file"]).is_file() else {"rows": [], "remarks": [], "faults": []}
    found["row"] = fragment("seen.html", rows=row["rows"])
    found["facts"] = fragment("plan.html", plan=found)
    return found


def command_line(config: TrainConfig, data: list[str]) -> str:
    """What to type for the same training."""
    return command("train", f"{data_options(data)} {options_of(config)}".strip())


def data_options(data: list[str]) -> str:
    return " ".join(f"--data {shlex.quote(near(Path(path)))}" for path in data)


async def start(request: Request) -> Response:
    body = await body_of(request)
    config, data = read_form(site_of(request), runs_of(request), body)
    title = config.name or f"Training on {Path(data[0]).name}"
    arguments = {"settings": changed(config), "data": data}
    site = site_of(request)
    job = site.jobs.start("train", title, arguments, site.here, queue=bool(body.get("queue")))
    return JSONResponse(started(job))


async def _chosen(request: Request) -> tuple[TrainConfig, list[str]]:
    return read_form(site_of(request), runs_of(request), await body_of(request))


def read_form(site: Site, runs: Runs, body: dict[str, Any]) -> tuple[TrainConfig, list[str]]:
    """Settings and data of a request, checked as the command line does, and below the page's folders."""
    config = checked(read_settings(body.get("settings", {}), TrainConfig), site, runs)
    return config, data_paths(site, body.get("data"))


ROUTES = [
    Route("/train", show, methods=["GET"]),
    Route("/train", start, methods=["POST"]),
    Route("/train/command", same_command, methods=["POST"]),
    Route("/train/plan", plan, methods=["POST"]),
]
