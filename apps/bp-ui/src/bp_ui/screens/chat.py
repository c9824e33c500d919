"""Chat: the base, what was trained, and the exported file, asked the same; each answers in a process of its own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import Any

from starlette.concurrency import iterate_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from bp_core.config import TrainConfig
from bp_core.errors import BadValue
from bp_core.redact import redact_all
from bp_data.formats.fields import from_json
from bp_data.formats.records import Turn
from bp_data.formats.tool_calls import read_tool_list
from bp_data.formats.turns import read_turns
from bp_plan.presets import PRESETS
from bp_runs import RunFolder, history
from bp_runs.summary import FINISHED

from ..helpers import Helper, HelperError
from ..render import page
from ..session_folder import target_of
from .model_names import checked_model
from .request import body_of, helpers_of, run_of, runs_of, site_of
from .runs import name_of

COLUMNS = {"base": "Base", "trained": "Trained", "file": "Exported file"}
_LONGEST = 100_000  # characters of a conversation
_LIMITS = range(1, 4097)
_TOKENS = 256
_TOOLS = "tools"  # where in the form an error is


def show(request: Request) -> Response:
    entries = [entry for entry in runs_of(request).entries() if entry.status == FINISHED][:50]
    chosen = request.query_params.get("run", entries[0].id if entries else "")
    run = None
    if chosen:
        request.path_params["run"] = chosen
        run = run_of(request)
    return page(
        request,
        "chat.html",
        runs=[(entry.id, name_of(entry)) for entry in entries],
        chosen=chosen,
        columns=COLUMNS if run else {"base": COLUMNS["base"]},
        file=newest_file(run) if run else None,
        model=run.read().get("recipe", {}).get("model", "") if run else TrainConfig.model,
        presets=list(PRESETS),
        limit=_TOKENS,
    )


async def answer(request: Request) -> Response:
    """The answer of one column, piece by piece: a JSON object a line."""
    body = await body_of(request)
    question = {
        "model": _model(request, body),
        "turns": _turns(body.get("turns")),
        "limit": _limit(body.get("limit")),
        "tools": _tools(body.get("tools")),
        "think": body.get("think") is not False,
    }
    helper = helpers_of(request).get("chat", str(body["column"]))
    return StreamingResponse(_told(helper, question), media_type="application/x-ndjson")


async def _told(helper: Helper, question: dict[str, Any]) -> AsyncIterator[str]:
    """What the helper says; when the browser leaves, the helper is told to stop."""
    answers = _lines(helper, question)
    try:
        async for line in iterate_in_threadpool(answers):
            yield line
    finally:
        answers.close()


def _lines(helper: Helper, question: dict[str, Any]) -> Generator[str, None, None]:
    try:
        for told in helper.ask(question):
            yield json.dumps(told) + "\n"
    except HelperError as error:
        yield json.dumps({"error": redact_all(error.told)}) + "\n"


def _model(request: Request, body: dict[str, Any]) -> dict[str, str]:
    """Which model a column asks: of a run by its folder, or a model as it came."""
    column = body.get("column")
    if column not in COLUMNS:
        raise BadValue("there is no such column.")
    if not body.get("run"):
        return {"name": checked_model(str(body.get("model", "")), site_of(request), runs_of(request))}
    request.path_params["run"] = str(body["run"])
    return {"run": str(target_of(run_of(request))), "column": str(column)}


def _turns(value: Any) -> list[Turn]:
    """The conversation: words, thoughts, calls and their results. Raises BadValue, BadRow."""
    if not isinstance(value, list) or not value:
        raise BadValue("there is no message.")
    if len(json.dumps(value)) > _LONGEST:
        raise BadValue(f"a conversation has at most {_LONGEST} characters.", fix="Begin a new one.")
    return read_turns(value, "the conversation", "chat")


def _tools(value: Any) -> list[Turn]:
    """The tools that the model may call, given as JSON text. Raises BadValue, BadRow."""
    text = str(value or "").strip()
    if len(text) > _LONGEST:
        raise BadValue(f"the tools have at most {_LONGEST} characters.")
    return list(read_tool_list(from_json(text, "this", _TOOLS), "this", _TOOLS)) if text else []


def _limit(value: Any) -> int:
    if not isinstance(value, int) or value not in _LIMITS:
        raise BadValue(f"an answer has 1 to {_LIMITS[-1]} tokens.")
    return value


def newest_file(run: RunFolder) -> str | None:
    """The name of the newest .gguf of a run that is still there."""
    made = [Path(export["path"]) for export in history.exports_of(run) if export["path"].endswith(".gguf")]
    there = [path.name for path in made if path.is_file()]
    return there[-1] if there else None


ROUTES = [Route("/chat", show), Route("/chat/answer", answer, methods=["POST"])]
