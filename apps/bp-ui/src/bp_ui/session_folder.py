"""A session of `backprop multi-run` as its folder shows it: its stages, how each stands, and what it was begun with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backpropagate.multi_run import DATA_FOLDER, MULTI_RUN, SETTINGS_FILE, STAGE_FILE
from bp_core.errors import CheckpointUnusable
from bp_multirun.record import RECORD_FILE, Record
from bp_runs import RunFolder
from bp_runs.claim import holder

from .feed import ACTIVE, Curve, Runs, status_of
from .jobs import WAITING

MERGED, REFUSED, MERGING = "merged", "refused", "merging"


@dataclass(frozen=True)
class StageLine:
    """A stage as a line of a list; `run` is None before it begins."""

    number: int
    name: str
    rows: int
    status: str
    run: str | None = None
    step: int = 0
    steps: int = 0


@dataclass(frozen=True)
class SessionFolder:
    """The folder of a session, below the output."""

    path: Path

    @classmethod
    def of(cls, run: RunFolder) -> SessionFolder | None:
        """The session that a run is a stage of."""
        found = next((folder for folder in run.path.parents if folder.name == MULTI_RUN), None)
        return cls(found) if found else None

    @property
    def is_active(self) -> bool:
        """Whether a process trains, merges or measures here."""
        owner = holder(self.path)
        return owner is not None and owner.alive() is not False

    def begun(self) -> Mapping[str, Any]:
        """What it was begun with: settings, multi_run and data; empty where that is not known."""
        return _read(self.path / SETTINGS_FILE)

    def record(self) -> Record | None:
        """The record of the newest state; its files are not read again to check them, as before merging they are."""
        for path in sorted(self.path.glob(f"state-*/{RECORD_FILE}"), reverse=True):
            try:
                return Record.read(path.parent)
            except (OSError, ValueError, KeyError, TypeError, CheckpointUnusable):
                continue
        return None

    def stages(self, runs: Runs) -> list[StageLine]:
        """All stages in order, those that have not begun too."""
        record, active, lines = self.record(), self.is_active, []
        decided = [entry.accepted for entry in record.entries] if record else []
        for file in sorted(self.path.glob(f"{DATA_FOLDER}/[0-9]*/{STAGE_FILE}")):
            number, told = int(file.parent.name), _read(file)
            line = self._line(number, told, runs)
            if number <= len(decided):
                line = replace(line, status=MERGED if decided[number - 1] else REFUSED)
            elif active and line.run and line.status not in ACTIVE:
                line = replace(line, status=MERGING)  # it is trained, or goes on in a moment
            lines.append(line)
        return lines

    def run_of(self, number: int) -> RunFolder | None:
        """The newest run of a stage."""
        found = sorted((self.path / f"stage-{number:04d}" / "runs").glob("2*"))
        return RunFolder(found[-1]) if found else None

    def _line(self, number: int, told: Mapping[str, Any], runs: Runs) -> StageLine:
        """A stage as its newest run shows it."""
        line = StageLine(number, str(told.get("name", number)), int(told.get("rows", 0)), WAITING)
        run = self.run_of(number)
        if run is None:
            return line
        entry = runs.entry(run.id)
        curve = runs.curve(entry) if entry else Curve()
        return replace(line, status=status_of(run, curve.paused), run=run.id, step=curve.step, steps=curve.steps)


def target_of(run: RunFolder) -> Path:
    """What is evaluated, exported, pushed and talked to for a run: what it trained itself; for the last stage that was
    merged the session's result, as long as it lies in its place."""
    session = SessionFolder.of(run)
    record = session.record() if session else None
    if session is None or record is None or not record.accepted:
        return run.path
    last = session.run_of(record.accepted[-1])
    output = session.path.parent
    published = _read(output / "lora" / "run.json").get("run")
    return output if last and last.id == run.id == published else run.path


def stage_name(data: Path) -> str:
    """What the data of a stage is called whose rows lie in the session's folder; "" for any other file."""
    return str(_read(data.parent / STAGE_FILE).get("name", "")) if MULTI_RUN in data.parts else ""


def _read(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value
