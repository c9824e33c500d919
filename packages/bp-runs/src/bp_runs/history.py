"""All known runs: the ledger under the home folder, and the list of output folders to rebuild it from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bp_core.errors import CheckpointUnusable, LedgerUnusable, NotReplayable, RunNotFound
from bp_core.folders import home
from bp_core.redact import redact_all
from bp_core.units import gigabytes

from .claim import Owner
from .event_log import json_lines, read_events
from .ledger import Entry, Ledger
from .lock_file import Lock
from .run_folder import RUN_FILE, RunFolder
from .summary import Summary

EXPORTS_FILE = "exports.jsonl"
_NOBODY = Owner("", 0, 0.0)


def ledger() -> Ledger:
    """The user's ledger. A new one starts with the runs in every known output folder and in ./output."""
    return Ledger(home() / "ledger.db", _known_entries)


def entries() -> list[Entry]:
    """All runs, newest first. For a run whose process was killed the entry is read from the run's folder."""
    return [_caught_up(entry) for entry in ledger().entries()]


def remember_output(output: Path) -> None:
    """Add an output folder to the list from which a lost ledger is rebuilt. Raises OSError."""
    path, line = _index(), json.dumps({"output": str(output)}) + "\n"
    if not path.is_file() or line not in path.read_text(encoding="utf-8").splitlines(keepends=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(line)


def entry_of(run: RunFolder, summary: Summary, status: str, heartbeat: float) -> Entry:
    """The ledger entry of a run. Raises NotReplayable for a run folder without a run.lock."""
    record, lock = run.read(), Lock.read(run.path)
    owner = Owner(**record["owner"]) if "owner" in record else _NOBODY
    return Entry(
        id=run.id,
        folder=str(run.path),
        model=lock.settings["model"],
        data=lock.data,
        data_sha256=lock.hashes["data"],
        recipe=lock.recipe,
        versions=lock.packages,
        host=owner.host,
        pid=owner.pid,
        pid_began=owner.began,
        started=record.get("started", heartbeat),
        heartbeat=heartbeat,
        exports=tuple(exports_of(run)),
        **summary.as_dict() | {"status": status},
    )


def summed(run: RunFolder) -> tuple[Summary, float]:
    """The summary of events.jsonl, and the time of its last event (seconds since 1970)."""
    summary, last = Summary(), 0.0
    for event in read_events(run.path):
        summary.add(event)
        last = event.get("time", last)
    return summary, last


def folders_of(name: str, output: Path | None = None) -> list[RunFolder]:
    """The run with that id, or those whose id begins so, by age: those under `output`, or else all that are known.

    Known are the runs of the ledger, and those under this folder and ./output. Raises LedgerUnusable, unless a run
    was found without it.
    """
    if output and (inside := _named(name, _runs_under(output))):
        return inside
    here = [*_runs_under(Path()), *_runs_under(Path("output"))]
    try:
        remembered = [RunFolder(Path(entry.folder)) for entry in ledger().entries()]
    except LedgerUnusable:
        if not _named(name, here):
            raise
        remembered = []
    return _named(name, [*remembered, *here])


def entry(run: RunFolder) -> Entry:
    """What is known of a run, from its folder, or from the ledger where that is gone or damaged. Raises RunNotFound."""
    found = _entry_in(run) or next((entry for entry in ledger().entries() if entry.id == run.id), None)
    if found is None:
        raise RunNotFound("its record cannot be read, and the ledger does not know it.", where=str(run.path))
    return found


def exports_of(run: RunFolder) -> list[dict[str, Any]]:
    """The files exported from a run, the newest at each path."""
    return list({export["path"]: export for export in json_lines(run.path / EXPORTS_FILE)}.values())


def export_line(export: Mapping[str, Any]) -> str:
    """One exported file in one line."""
    proven = {True: "proven", False: "not proven", None: "not compared"}[export["proven"]]
    return f"{export['path']} ({export['format']}, {gigabytes(export['bytes'])}, {proven})"


def note_export(run: RunFolder, export: Mapping[str, Any]) -> None:
    """Append an exported file to the run's list. Raises OSError."""
    with (run.path / EXPORTS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(redact_all(export)) + "\n")


def _caught_up(entry: Entry) -> Entry:
    gone = entry.status_now() != entry.status
    return (gone and _entry_in(RunFolder(Path(entry.folder)))) or entry


def _known_entries() -> Iterator[Entry]:
    outputs = {Path("output").resolve(), *(Path(line["output"]) for line in json_lines(_index()) if "output" in line)}
    for output in sorted(outputs):
        for run in _runs_under(output):
            if entry := _entry_in(run):
                yield entry


def _entry_in(run: RunFolder) -> Entry | None:
    """The entry of a run from its folder; None if that is damaged, or of a version that recorded too little."""
    try:
        summary, last = summed(run)
        finished = run.read()["status"] == "finished"
        return entry_of(run, summary, "finished" if finished else summary.status, last)
    except (OSError, ValueError, KeyError, TypeError, NotReplayable, CheckpointUnusable):
        return None


def _runs_under(output: Path) -> list[RunFolder]:
    return [RunFolder(path.parent.resolve()) for path in sorted((output / "runs").glob("*/" + RUN_FILE))]


def _named(name: str, runs: Sequence[RunFolder]) -> list[RunFolder]:
    """Of two folders of one run the later in `runs` counts: the ledger may know a place that it was moved from."""
    by_id = {run.id: run for run in runs if run.id.startswith(name)}
    return [by_id[name]] if name in by_id else [by_id[id] for id in sorted(by_id)]


def _index() -> Path:
    return home() / "outputs.jsonl"
