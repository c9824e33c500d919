"""What came of a run: evaluate it, export it with its proof, push it to the hub."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bp_core.environment import parsed
from bp_core.errors import BadValue
from bp_core.settings import settings
from bp_eval.config import EvalConfig
from bp_export.config import ExportConfig, PushConfig
from bp_runs import RunFolder, history

from ..render import page
from ..session_folder import target_of
from .form import Field, field_of
from .request import body_of, run_of, site_of, started, text
from .run import head, open_jobs_of, output_of

_REPO = re.compile(r"[\w][\w.-]{0,95}/[\w][\w.-]{0,95}")
_LONGEST = 2000  # characters of a system message
_EXPORT = ("format", "quantization", "ollama_name", "overwrite", "accept_unproven", "system", "num_ctx", "max_size")
_EVALUATE = ("against", "answers", "gate", "regex", "max_tokens", "samples")
_PUSH = ("private", "gguf", "samples", "base")


def show_evaluate(request: Request) -> Response:
    run = run_of(request)
    return page(
        request,
        "evaluate.html",
        tab="evaluate",
        fields=_fields(EvalConfig, _EVALUATE, {"against": "base"}),
        files=[(file.address, file.bytes) for file in site_of(request).folders.data_files()],
        jobs=open_jobs_of(request, run, "evaluate"),
        **head(request, run),
    )


async def evaluate(request: Request) -> Response:
    site, run, body = site_of(request), run_of(request), await body_of(request)
    chosen = _settings(EvalConfig, _EVALUATE, body)
    EvalConfig(**chosen)
    if chosen.get("against") not in (None, "base"):
        raise BadValue("against must be base, or nothing.", fix="The command `backprop eval` compares with others.")
    data = str(site.folders.find(str(body["data"]))) if body.get("data") else None
    arguments = {"target": str(target_of(run)), "data": data, "settings": chosen}
    job = site.jobs.start("evaluate", f"Evaluating {run.id}", arguments, site.here, queue=bool(body.get("queue")))
    return JSONResponse(started(job, f"/runs/{run.id}/evaluate"))


def show_export(request: Request) -> Response:
    run = run_of(request)
    return page(
        request,
        "export.html",
        tab="export",
        fields=_fields(ExportConfig, _EXPORT, {}),
        exports=_exports(run),
        jobs=open_jobs_of(request, run, "export"),
        **head(request, run),
    )


async def export(request: Request) -> Response:
    site, run, body = site_of(request), run_of(request), await body_of(request)
    chosen = _settings(ExportConfig, _EXPORT, body)
    ExportConfig(**chosen)
    arguments = {"target": str(target_of(run)), "settings": chosen}
    job = site.jobs.start("export", f"Exporting {run.id}", arguments, site.here, queue=bool(body.get("queue")))
    return JSONResponse(started(job, f"/runs/{run.id}/export"))


def show_push(request: Request) -> Response:
    run = run_of(request)
    return page(
        request,
        "push.html",
        tab="push",
        fields=_fields(PushConfig, _PUSH, {}),
        jobs=open_jobs_of(request, run, "push"),
        **head(request, run),
    )


async def push(request: Request) -> Response:
    """Show what would be sent, or send it."""
    site, run, body = site_of(request), run_of(request), await body_of(request)
    repo = text(body.get("repo"), "repo")
    if not _REPO.fullmatch(repo):
        raise BadValue("this is no repository.", fix="Name it owner/name.")
    chosen = _settings(PushConfig, _PUSH, body)
    PushConfig(**chosen)
    dry_run = body.get("send") is not True
    arguments = {"target": str(target_of(run)), "repo": repo, "settings": chosen, "dry_run": dry_run}
    title = f"{'Looking at' if dry_run else 'Sending'} {run.id} for {repo}"
    return JSONResponse(started(site.jobs.start("push", title, arguments, site.here), f"/runs/{run.id}/push"))


def _fields(config: type, names: tuple[str, ...], given: dict[str, Any]) -> list[Field]:
    declared = {setting.name: setting for setting in settings(config)}
    return [field_of(declared[name], given) for name in names]


def _settings(config: type, names: tuple[str, ...], body: dict[str, Any]) -> dict[str, Any]:
    """The settings that a form may set, as values. Raises BadValue for any other."""
    given = body.get("settings", {})
    if not isinstance(given, dict) or not set(given) <= set(names):
        raise BadValue("there is no such setting here.")
    declared = {setting.name: setting for setting in settings(config)}
    chosen = {}
    for name, value in given.items():
        if value not in ("", None):
            is_text = isinstance(value, str)
            chosen[name] = parsed(declared[name], text(value, name, _LONGEST)) if is_text else value
    return chosen


def _exports(run: RunFolder) -> list[dict[str, Any]]:
    """The files made of a run, the newest first, each with its proof."""
    found = []
    for made in reversed(history.exports_of(run)):
        path = Path(made["path"])
        here = path if path.is_file() else output_of(run) / path.name
        found.append({**made, "there": here.exists(), "proof": _proof(made.get("parity"))})
    return found


def _proof(path: str | None) -> dict[str, Any] | None:
    """The checks as the proof's file has them."""
    if path is None:
        return None
    try:
        proof: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return proof


ROUTES = [
    Route("/runs/{run}/evaluate", show_evaluate, methods=["GET"]),
    Route("/runs/{run}/evaluate", evaluate, methods=["POST"]),
    Route("/runs/{run}/export", show_export, methods=["GET"]),
    Route("/runs/{run}/export", export, methods=["POST"]),
    Route("/runs/{run}/push", show_push, methods=["GET"]),
    Route("/runs/{run}/push", push, methods=["POST"]),
]
