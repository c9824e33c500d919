"""The commands that look back on all runs, or need none: list-runs, export-runs, errors.

They are used often and need little, so this module imports nothing that trains, exports or asks the hub.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.style import Style

from bp_core.errors import ERRORS, BadValue, UnknownError
from bp_core.folders import new_file
from bp_core.units import duration
from bp_runs import Entry, history
from bp_runs.ledger import COLUMNS
from bp_runs.summary import STATUSES

from .options import Json
from .output import print_json, visible

_HEADER = ("run", "status", "step", "loss", "time", "model", "name")
_COLOURS = {"finished": "green", "failed": "red", "interrupted": "yellow", "running": "cyan", "paused": "cyan"}


def list_runs(
    status: Annotated[
        str | None, typer.Option(help="Only these: running, paused, finished, failed or interrupted.")
    ] = None,
    json: Json = False,
) -> None:
    """List every run of this user, newest first, wherever its folder is."""
    if status and status not in STATUSES:
        raise BadValue(f"there is no status {status!r}; there are: {', '.join(STATUSES)}.")
    entries = [entry for entry in history.entries() if status in (None, entry.status_now())]
    if json:
        print_json({"runs": [entry.as_dict() for entry in entries]})
        return
    if not entries:
        print("There are no runs.")
        return
    _print_columns([_HEADER, *map(_row, entries)])


def export_runs(
    format: Annotated[str, typer.Option(help="jsonl or csv.")] = "jsonl",
    output: Annotated[str | None, typer.Option(help="The file to write. Default: stdout.")] = None,
) -> None:
    """Write all runs as a table for other tools."""
    if format not in ("jsonl", "csv"):
        raise BadValue(f"there is no format {format!r}; there are: jsonl, csv.")
    rows = [entry.as_dict() for entry in history.entries()]
    lines = [json.dumps(row) + "\n" for row in rows]
    text = _csv(rows) if format == "csv" else "".join(lines)
    if output is None:
        sys.stdout.write(text)
        return
    if Path(output).exists():
        raise BadValue("this file exists already.", where=output, fix="Choose another --output.")
    with new_file(Path(output)) as draft:
        draft.write_text(text, encoding="utf-8", newline="")


def errors(
    code: Annotated[str | None, typer.Argument(help="Only this code.")] = None,
    json: Json = False,
) -> None:
    """Explain error codes and what to do about each."""
    if code and code.upper() not in ERRORS:
        near = difflib.get_close_matches(code.upper(), ERRORS, 1, cutoff=0.5)
        raise UnknownError(f"there is no error {code!r}" + (f"; did you mean {near[0]}?" if near else "."))
    found = {name: kind for name, kind in sorted(ERRORS.items()) if not code or name == code.upper()}
    told = [
        {"code": name, "exit": kind.exit_code, "what": kind.__doc__, "fix": kind.fix} for name, kind in found.items()
    ]
    if json:
        print_json({"errors": told})
        return
    for error in told:
        print(f"{error['code']} (exit {error['exit']})\n  {error['what']}\n  fix: {error['fix']}\n")


def _print_columns(rows: Sequence[tuple[str, ...]]) -> None:
    """Rows under each other, the second column in colours on a terminal. Rich's tables take seconds for thousands."""
    console = Console()
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    coloured = console.is_terminal and not console.no_color
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        line = "  ".join(cells).rstrip()
        if coloured:
            line = line[: console.width].replace(cells[1], _in_colour(cells[1]), 1)
        print(line)


def _in_colour(status: str) -> str:
    return Style.parse(_COLOURS.get(status.strip(), "bold")).render(status)


def _row(entry: Entry) -> tuple[str, ...]:
    """The cells of a run, as under `_HEADER`."""
    losses = "" if entry.last_loss is None else f"{entry.first_loss:.3f} → {entry.last_loss:.3f}"
    step, model = f"{entry.step}/{entry.steps}", visible(Path(entry.model).name)
    name = visible(str(entry.recipe.get("name", "")))
    return entry.id, entry.status_now(), step, losses, duration(entry.seconds), model, name


def _csv(rows: list[dict[str, Any]]) -> str:
    """One line a run; what is nested stays JSON in its cell."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        nested = {name: json.dumps(value) for name, value in row.items() if isinstance(value, dict | list | tuple)}
        writer.writerow(row | nested)
    return out.getvalue()
