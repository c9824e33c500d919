"""Train: a form out of the settings, what would happen, and the start."""

from __future__ import annotations

import dataclasses
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from backpropagate.example import EXAMPLE_DATA
from backpropagate.hints import command, near, options_of
from bp_core.backends import rails
from bp_core.config import DataConfig, TrainConfig
from bp_core.environment import parsed
from bp_core.errors import BadValue, FileMissing
from bp_core.settings import Panel, Setting, known, settings
from bp_plan.presets import PRESETS

from ..feed import Runs
from ..folders import is_data
from ..jobs import HEAVY, OPEN
from ..render import fragment, page
from ..site import Site
from .model_names import checked_model
from .request import body_of, helpers_of, run_of, runs_of, site_of, started, text

EXAMPLE = "example"  # in place of an address: the rows of the quickstart
# What most people set; everything else is folded. The order is that of the page.
_MAIN = ("model", "method", "mode", "epochs", "steps", "learning_rate", "rank", "held_out", "name")
_HUB_DATA = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}(:[\w.-]{1,96}){0,2}")


@dataclass(frozen=True)
class Field:
    """A setting as a control: its kind is choice, switch, number or text."""

    setting: Setting
    kind: str
    choices: tuple[str, ...]
    value: str  # as it stands in the control; "" for the default

    @property
    def label(self) -> str:
        return self.setting.name.replace("_", " ").capitalize()

    @property
    def default(self) -> str:
        """The default as words; "" for one that is computed or empty."""
        return "" if self.setting.default is None else _shown(self.setting.default)

    @property
    def step(self) -> str:
        return "1" if int in get_args(self.setting.type) or self.setting.type is int else "any"


def field_of(setting: Setting, given: dict[str, Any]) -> Field:
    value = given.get(setting.name, setting.default)
    shown = "" if value == setting.default else _shown(value)
    kinds = get_args(setting.type) or (setting.type,)
    choices = _choices(setting)
    if choices:
        return Field(setting, "choice", choices, shown)
    if bool in kinds:
        return Field(setting, "switch", ("true", "false"), shown)
    if int in kinds or float in kinds:
        return Field(setting, "number", (), shown)
    return Field(setting, "text", (), shown)


def _choices(setting: Setting) -> tuple[str, ...]:
    if setting.name == "backend":
        return ("auto", *rails())
    found: list[str] = []
    for kind in (setting.type, *get_args(setting.type)):
        if get_origin(kind) is not None:
            found += [value for value in get_args(kind) if isinstance(value, str)]
    return tuple(dict.fromkeys(found))


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def show(request: Request) -> Response:
    site, query = site_of(request), request.query_params
    given, data = _begun(request) if query.get("from") else ({}, "")
    for name in ("model", "columns", "roles", "ignore_columns"):
        if query.get(name):
            given[name] = query[name]
    fields = {setting.name: field_of(setting, given) for setting in settings(TrainConfig)}
    folded = [field for name, field in fields.items() if name not in _MAIN]
    panels = [(panel, [field for field in folded if field.setting.panel == panel]) for panel in Panel]
    files = [(file.address, file.bytes) for file in site.folders.data_files()]
    return page(
        request,
        "train.html",
        main=[fields[name] for name in _MAIN if name != "model"],
        model=fields["model"],
        presets=list(PRESETS),
        panels=[(panel, members) for panel, members in panels if members],
        count=len(fields),
        files=files,
        example=EXAMPLE,
        data=query.get("data") or data or _newest(files),
        busy=next((job for job in site.jobs.open_jobs() if job.verb in HEAVY), None),
        opens=OPEN,
    )


def _newest(files: list[tuple[str, int]]) -> str:
    """The newest file of rows; texts are often notes beside them."""
    rows = [address for address, _ in files if not address.lower().endswith((".txt", ".md"))]
    return rows[0] if rows else EXAMPLE


def _begun(request: Request) -> tuple[dict[str, Any], str]:
    """The settings and the data of an earlier run."""
    request.path_params["run"] = request.query_params["from"]
    record = run_of(request).read()
    names = {setting.name for setting in settings(TrainConfig)}
    given = {name: value for name, value in record.get("settings", {}).items() if name in names}
    data = record.get("data")
    first = data[0] if isinstance(data, list) and data else data
    address = site_of(request).folders.address_of(Path(first)) if isinstance(first, str) else None
    return given, address or (EXAMPLE if first == str(EXAMPLE_DATA) else "")


async def same_command(request: Request) -> Response:
    """The same as a command line; what is wrong with the settings is told with it, before a plan is made."""
    config, data = _chosen(site_of(request), runs_of(request), await body_of(request))
    return JSONResponse({"command": command_line(config, data)})


async def plan(request: Request) -> Response:
    """What would happen: every value with its reason, and what it needs."""
    config, data = _chosen(site_of(request), runs_of(request), await body_of(request))
    question = {"settings": _set(config), "data": [str(path) for path in data]}
    return JSONResponse(await anyio.to_thread.run_sync(_planned, request, config, question))


def _planned(request: Request, config: TrainConfig, question: dict[str, Any]) -> dict[str, Any]:
    helpers = helpers_of(request)
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
    words = " ".join(f"--data {shlex.quote(near(Path(path)))}" for path in data)
    return command("train", f"{words} {options_of(config)}".strip())


async def start(request: Request) -> Response:
    site, body = site_of(request), await body_of(request)
    config, data = _chosen(site, runs_of(request), body)
    title = config.name or f"Training on {Path(data[0]).name}"
    arguments = {"settings": _set(config), "data": [str(path) for path in data]}
    job = site.jobs.start("train", title, arguments, site.here, queue=bool(body.get("queue")))
    return JSONResponse(started(job))


def _chosen(site: Site, runs: Runs, body: dict[str, Any]) -> tuple[TrainConfig, list[str]]:
    """Settings and data of a request, checked as the command line does, and below the page's folders."""
    given = body.get("settings", {})
    if not isinstance(given, dict):
        raise BadValue("settings must be an object.")
    known(given, TrainConfig)
    declared = {setting.name: setting for setting in settings(TrainConfig)}
    chosen = {
        name: parsed(declared[name], text(value, name)) if isinstance(value, str) else value
        for name, value in given.items()
        if value not in ("", None)
    }
    config = TrainConfig(**chosen)
    checked_model(config.model, site, runs)
    if config.backend not in ("auto", *rails()):
        raise BadValue(f"backend is {config.backend!r}, but must be one of auto, {', '.join(rails())}.")
    output = (site.here / config.output).resolve()
    if not site.folders.shows(output):
        raise BadValue("output must lie below one of the page's folders.", fix="Leave it at output, or add --root.")
    if config.eval_data:
        path = _data_path(site, config.eval_data)
        config = dataclasses.replace(config, eval_data=path)
    return config, [_data_path(site, name) for name in _names(body.get("data"))]


def _names(value: Any) -> list[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise BadValue("no data is chosen.", fix="Choose a file of examples.")
    return names


def _data_path(site: Site, name: str) -> str:
    """The file at an address, or a data set of the hub. Raises FileMissing."""
    if name == EXAMPLE:
        return str(EXAMPLE_DATA)
    try:
        return str(site.folders.find(name))
    except FileMissing:
        of_hub = _HUB_DATA.fullmatch(name) and name.partition("/")[0] not in site.folders.roots
        if of_hub and not is_data(name):
            return name
        raise


def _set(config: TrainConfig) -> dict[str, Any]:
    """What is not at its default."""
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != field.default
    }


ROUTES = [
    Route("/train", show, methods=["GET"]),
    Route("/train", start, methods=["POST"]),
    Route("/train/command", same_command, methods=["POST"]),
    Route("/train/plan", plan, methods=["POST"]),
]
