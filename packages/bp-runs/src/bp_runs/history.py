"""All known runs: the ledger under the home folder, and the list of output folders to rebuild it from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bp_core.errors import CheckpointUnusable, NotReplayable, RunNotFound
from bp_core.folders import home
from bp_core.redact import redact_all
from bp_core.units import gigabytes

from .claim import Owner
from .event_log import read_events
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


def find(name: str) -> Entry:
    """The run with this id, unique prefix of an id, or run folder. Raises RunNotFound."""
    folder = Path(name)
    if (folder / RUN_FILE).is_file() and (entry := _entry_in(RunFolder(folder.resolve()))):
        return entry
    known = entries()
    found = [e for e in known if e.id == name] or [e for e in known if name and e.id.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise RunNotFound(f"{len(found)} runs begin with {name!r}: {', '.join(e.id for e in found[:5])}.")
    raise RunNotFound(f"there is no run {name!r} among the {len(known)} known.")


def exports_of(run: RunFolder) -> list[dict[str, Any]]:
    """The files exported from a run, the newest at each path."""
    return list({export["path"]: export for export in lines(run.path / EXPORTS_FILE)}.values())


def export_line(export: Mapping[str, Any]) -> str:
    """One exported file in one line."""
    proven = {True: "proven", False: "not proven", None: "not compared"}[export["proven"]]
    return f"{export['path']} ({export['format']}, {gigabytes(export['bytes'])}, {proven})"


def note_export(run: RunFolder, export: Mapping[str, Any]) -> None:
    """Append an exported file to the run's list. Raises OSError."""
    with (run.path / EXPORTS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(redact_all(export)) + "\n")


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl file; broken lines, left by a killed process, are skipped."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def _caught_up(entry: Entry) -> Entry:
    gone = entry.status_now() != entry.status
    return (gone and _entry_in(RunFolder(Path(entry.folder)))) or entry


def _known_entries() -> Iterator[Entry]:
    outputs = {Path("output").resolve(), *(Path(line["output"]) for line in lines(_index()) if "output" in line)}
    for output in sorted(outputs):
        for path in sorted((output / "runs").glob("*/" + RUN_FILE)):
            if entry := _entry_in(RunFolder(path.parent)):
                yield entry


def _entry_in(run: RunFolder) -> Entry | None:
    """The entry of a run from its folder; None if that is damaged, or of a version that recorded too little."""
    try:
        summary, last = summed(run)
        finished = run.read()["status"] == "finished"
        return entry_of(run, summary, "finished" if finished else summary.status, last)
    except (OSError, ValueError, KeyError, TypeError, NotReplayable, CheckpointUnusable):
        return None


def _index() -> Path:
    return home() / "outputs.jsonl"
