"""A session of many stages: what each stage's rows cost after each stage, as a heat map with the numbers in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bp_core.errors import CheckpointUnusable, RunNotFound
from bp_multirun.record import RECORD_FILE, Record
from bp_runs import RunFolder

from ..render import number, page
from .request import run_of
from .run import head

_SESSION = "multi-run"  # the folder of a session, below which its stages have their runs
_LEVELS = 4  # of a colour


@dataclass(frozen=True)
class Cell:
    """A loss, and by how much it is above or below the base's: `level` 1 to 4 of its colour, 0 for about the same."""

    text: str
    change: str
    kind: str
    level: int


def show(request: Request) -> Response:
    run = run_of(request)
    folder = session_of(run)
    record = newest_record(folder) if folder else None
    if folder is None or record is None:
        raise RunNotFound("this run is no stage of a session.", fix="`backprop multi-run` trains stage after stage.")
    accepted = [entry.accepted for entry in record.entries]
    return page(
        request,
        "stages.html",
        tab="stages",
        session=folder,
        names=[entry.name for entry in record.entries],
        rows=heat_map(record),
        refused=[entry.name for entry, kept in zip(record.entries, accepted, strict=True) if not kept],
        **head(request, run),
    )


def session_of(run: RunFolder) -> Path | None:
    """The folder of the session that a run is a stage of."""
    return next((folder for folder in run.path.parents if folder.name == _SESSION), None)


def newest_record(folder: Path) -> Record | None:
    """The record of the newest state; its files are not read again to check them, as before merging they are."""
    for path in sorted(folder.glob(f"state-*/{RECORD_FILE}"), reverse=True):
        try:
            return Record.read(path.parent)
        except (OSError, ValueError, KeyError, TypeError, CheckpointUnusable):
            continue
    return None


def heat_map(record: Record) -> list[tuple[str, str, list[Cell | None]]]:
    """For the rows held out of each stage: its name, the base's loss, and a cell after each stage."""
    lines: list[tuple[str, float, list[float | None]]] = []
    for key, entry in enumerate(record.entries, 1):
        base = entry.base.get(str(key))
        scores = [later.merged.get(str(key)) for later in record.entries]
        if base is not None:
            lines.append((entry.name, base.loss, [score.loss if score else None for score in scores]))
    changes = [abs(loss - base) for _, base, after in lines for loss in after if loss is not None]
    largest = max(changes, default=0.0) or 1.0
    return [
        (name, number(base), [None if loss is None else _cell(loss, base, largest) for loss in after])
        for name, base, after in lines
    ]


def _cell(loss: float, base: float, largest: float) -> Cell:
    change = loss - base
    level = min(_LEVELS, round(_LEVELS * abs(change) / largest))
    return Cell(number(loss), f"{change:+.3g}", "risen" if change > 0 else "fallen", level)


ROUTES: list[Any] = [Route("/stages/{run}", show)]
