"""The records of runs under an output folder: `runs/<id>/` with run.json, events.jsonl and checkpoints."""

from __future__ import annotations

import dataclasses
import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bp_core.config import Recipe
from bp_core.errors import NothingToResume, ResumeMismatch
from bp_core.events import Event
from bp_core.examples import Sample
from bp_core.folders import write_json
from bp_core.redact import redact_all

RUN_FILE = "run.json"
# What may differ between a run and its continuation: where it lies, and how it is cut to fit memory.
_FREE = {"why", "output", "micro_batch", "checkpoint_every", "keep_checkpoints"}


@dataclass(frozen=True)
class RunFolder:
    """One run on disk."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def read(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.path / RUN_FILE).read_text(encoding="utf-8"))
        return value

    def write(self, **changes: Any) -> None:
        known = self.read() if (self.path / RUN_FILE).exists() else {}
        write_json(self.path / RUN_FILE, known | redact_all(changes))

    def log(self, event: Event) -> None:
        """Append an event to events.jsonl: with the time (seconds since 1970), the run's id, and what it says."""
        says = {"says": event.says()} if event.says() else {}
        line = {"time": round(time.time(), 3), "run": self.id, **redact_all(event.as_dict() | says)}
        with (self.path / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def write_samples(self, samples: list[Sample]) -> None:
        write_json(self.path / "samples.json", [dataclasses.asdict(sample) for sample in samples])

    def samples(self) -> list[Sample]:
        """The rows kept for the proof of an export; none if the file is gone."""
        path = self.path / "samples.json"
        if not path.is_file():
            return []
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [Sample(r["text"], *(tuple(r[key]) for key in ("tokens", "trained", "prompt"))) for r in rows]


def create(output: Path, recipe: Recipe, facts: dict[str, Any]) -> RunFolder:
    """A new run folder; `facts` identify the data, the contract and the base for a later resume."""
    run_id = time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)
    folder = RunFolder(output / "runs" / run_id)
    folder.path.mkdir(parents=True)
    folder.write(id=run_id, status="running", recipe=dataclasses.asdict(recipe), facts=facts)
    return folder


def unfinished(output: Path) -> RunFolder:
    """The newest run under `output` that has not finished. Raises NothingToResume."""
    for path in sorted((output / "runs").glob("*/" + RUN_FILE), reverse=True):
        folder = RunFolder(path.parent)
        if folder.read()["status"] != "finished":
            return folder
    raise NothingToResume("no unfinished run was found.", where=str(output / "runs"))


def continued(output: Path, recipe: Recipe, facts: dict[str, Any]) -> RunFolder:
    """The newest unfinished run, if it is the same work. Raises NothingToResume, ResumeMismatch."""
    folder = unfinished(output)
    check_same(folder, recipe, facts)
    return folder


def check_same(folder: RunFolder, recipe: Recipe, facts: dict[str, Any]) -> None:
    """Raise ResumeMismatch that names everything in which a resumed run would differ."""
    record = folder.read()
    now, then = dataclasses.asdict(recipe), record["recipe"]
    changed = [
        f"{name} was {then.get(name)!r}, is {now[name]!r}" for name in now.keys() - _FREE if now[name] != then.get(name)
    ]
    changed += [f"the {name} changed" for name in facts if facts[name] != record["facts"].get(name)]
    if changed:
        raise ResumeMismatch("; ".join(sorted(changed)) + ".", where=str(folder.path))
