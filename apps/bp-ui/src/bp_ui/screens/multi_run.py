"""Train in stages: the form of a session of many stages, what would happen, and the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from backpropagate.hints import command, options_of
from bp_core.config import TrainConfig
from bp_core.settings import names, settings
from bp_multirun.config import MultiRunConfig

from ..feed import Runs
from ..session_folder import SessionFolder
from ..site import Site
from .form import address_of, changed, checked, data_paths, read_settings
from .request import body_of, helpers_of, run_of, runs_of, site_of, started
from .train import data_options, form, planned

Chosen = tuple[TrainConfig, MultiRunConfig, list[str]]


def show(request: Request) -> Response:
    given, data = _begun(request) if request.query_params.get("from") else ({}, [])
    return form(request, (*settings(MultiRunConfig), *settings(TrainConfig)), given, data, stages=True)


def _begun(request: Request) -> tuple[dict[str, Any], list[str]]:
    """The settings and the data of a session, one of whose runs is named."""
    request.path_params["run"] = request.query_params["from"]
    session = SessionFolder.of(run_of(request))
    begun = session.begun() if session else {}
    site = site_of(request)
    given = {**begun.get("settings", {}), **begun.get("multi_run", {})}
    if "output" in given and Path(given["output"]).is_relative_to(site.here):
        given["output"] = str(Path(given["output"]).relative_to(site.here))
    data = [path for path in begun.get("data", []) if path]
    # A file that the page does not show is named all the same: left out, the stages would be others.
    return given, [address_of(site, path) or path for path in data]


async def same_command(request: Request) -> Response:
    """The same as a command line; what is wrong with the settings is told with it, before a plan is made."""
    config, multi, data = await _chosen(request)
    return JSONResponse({"command": command_line(config, multi, data)})


def command_line(config: TrainConfig, multi: MultiRunConfig, data: list[str]) -> str:
    """What to type for the same session."""
    words = [data_options(data), options_of(multi), options_of(config)]
    return command("multi-run", " ".join(filter(None, words)))


async def plan(request: Request) -> Response:
    """What would happen: the stages, every value with its reason, and what they need."""
    config, multi, data = await _chosen(request)
    question = {"settings": changed(config), "merging": changed(multi), "data": data}
    return JSONResponse(await anyio.to_thread.run_sync(planned, helpers_of(request), config, question))


async def start(request: Request) -> Response:
    site, body = site_of(request), await body_of(request)
    config, multi, data = read_form(site, runs_of(request), body)
    title = config.name or f"Stages on {', '.join(Path(path).name for path in data)}"
    arguments = {"settings": changed(config), "merging": changed(multi), "data": data}
    job = site.jobs.start("multi-run", title, arguments, site.here, queue=bool(body.get("queue")))
    return JSONResponse(started(job))


async def _chosen(request: Request) -> Chosen:
    return read_form(site_of(request), runs_of(request), await body_of(request))


def read_form(site: Site, runs: Runs, body: dict[str, Any]) -> Chosen:
    """Settings and data of a request, checked as the command line does, and below the page's folders."""
    given = body.get("settings")
    of_stages = {}
    if isinstance(given, dict):
        own = names(MultiRunConfig)
        of_stages = {name: value for name, value in given.items() if name in own}
        given = {name: value for name, value in given.items() if name not in own}
    config = checked(read_settings(given, TrainConfig), site, runs)
    return config, read_settings(of_stages, MultiRunConfig), data_paths(site, body.get("data"))


ROUTES = [
    Route("/train/stages", show, methods=["GET"]),
    Route("/train/stages", start, methods=["POST"]),
    Route("/train/stages/command", same_command, methods=["POST"]),
    Route("/train/stages/plan", plan, methods=["POST"]),
]
