"""Two runs over each other: their curves, what differs, what came of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bp_core.units import in_words
from bp_runs import Entry

from ..render import number, page
from .request import run_of, runs_of
from .runs import name_of

# What tells where something lies, not what was done.
_LEFT_OUT = ("why", "output", "name")


def show(request: Request) -> Response:
    both = [_entry(request, side) for side in ("a", "b")]
    known = [entry for entry in both if entry is not None]
    a, b = known if len(known) == 2 else (None, None)
    names = [name for name in {**a.recipe, **b.recipe} if name not in _LEFT_OUT] if a and b else []
    rows = [(name, a.recipe.get(name), b.recipe.get(name)) for name in names] if a and b else []
    return page(
        request,
        "compare.html",
        a=a,
        b=b,
        names=[name_of(entry) for entry in known],
        results=_results(a, b) if a and b else [],
        differs=[row for row in _data(a, b) + rows if row[1] != row[2]] if a and b else [],
        same=sum(row[1] == row[2] for row in rows),
        choices=[(entry.id, name_of(entry)) for entry in runs_of(request).entries()[:100]],
    )


def _entry(request: Request, side: str) -> Entry | None:
    wanted = request.query_params.get(side, "")
    if not wanted:
        return None
    request.path_params["run"] = wanted
    return runs_of(request).entry(run_of(request).id)


def _data(a: Entry, b: Entry) -> list[tuple[str, Any, Any]]:
    left, right = (Path(entry.data).name if entry.data else "rows of Python" for entry in (a, b))
    return [("data", left, right), ("data's hash", a.data_sha256[:12], b.data_sha256[:12])]


def _results(a: Entry, b: Entry) -> list[tuple[str, str, str]]:
    left, right = (f"{entry.tokens_per_second:.0f}" if entry.tokens_per_second else "–" for entry in (a, b))
    return [
        ("status", a.status_now(), b.status_now()),
        ("last loss", number(a.last_loss), number(b.last_loss)),
        ("best evaluation", number(a.eval_loss), number(b.eval_loss)),
        ("steps", f"{a.step} of {a.steps}", f"{b.step} of {b.steps}"),
        ("time in steps", in_words(a.seconds), in_words(b.seconds)),
        ("tokens a second", left, right),
    ]


ROUTES = [Route("/compare", show)]
