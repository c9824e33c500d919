"""The commands for a run that somebody else started: pause, continue, stop, note, events."""

from __future__ import annotations

import json as json_text
from typing import Annotated

import typer

from bp_runs.event_log import events_after
from bp_runs.notes import read_note, write_note
from bp_runs.wishes import Wish, wish

from ..hints import command
from ..models.targets import Artifact
from .options import Json, RunName
from .output import print_json, visible


def pause(run: RunName, json: Json = False) -> None:
    """Let a run wait after the step it is at, whoever started it, until it is continued. It keeps its memory."""
    _wish(run, Wish.PAUSE, "waits after this step; go on with: {}", "continue", json)


def go_on(run: RunName, json: Json = False) -> None:
    """Let a paused run go on."""
    _wish(run, Wish.CONTINUE, "goes on.", "", json)


def stop(run: RunName, json: Json = False) -> None:
    """End a run after the step it is at, with a checkpoint, whoever started it; also on Windows."""
    _wish(run, Wish.STOP, "writes a checkpoint and ends after this step; later: {}", "resume", json)


def note(
    run: RunName,
    text: Annotated[str | None, typer.Argument(help="The note, in place of what it was. Default: show it.")] = None,
    json: Json = False,
) -> None:
    """Write a note on a run, or show the one there is."""
    folder = Artifact.find(run).require_run()
    if text is not None:
        write_note(folder, text)
    if json:
        print_json({"run": folder.id, "note": read_note(folder)})
    else:
        print(visible(read_note(folder)) or f"run {folder.id} has no note.")


def events(
    run: RunName,
    after: Annotated[int, typer.Option(help="Only those from this byte of the log on: the cursor printed last.")] = 0,
    json: Json = False,
) -> None:
    """Print what happened in a run, one JSON object a line; --json adds the cursor to go on from."""
    folder = Artifact.find(run).require_run()
    if json:
        part = events_after(folder.path, after)
        print_json({"cursor": part.cursor, "reset": part.reset, "events": part.events})
        return
    part = events_after(folder.path, after)
    while part.events:
        for event in part.events:
            print(json_text.dumps(event, ensure_ascii=False))
        part = events_after(folder.path, part.cursor)


def _wish(name: str, what: Wish, says: str, next_verb: str, json: bool) -> None:
    run = Artifact.find(name).require_run()
    wish(run, what)
    if json:
        print_json({"run": run.id, "wish": what})
    else:
        print(f"run {run.id} {says.format(command(next_verb, run.id))}")
