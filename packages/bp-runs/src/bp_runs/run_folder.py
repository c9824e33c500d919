"""The folder of a run: `<output>/runs/<id>/` with run.json, events.jsonl and checkpoints."""

from __future__ import annotations

import dataclasses
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bp_core.config import TrainConfig
from bp_core.errors import CheckpointUnusable, NothingToResume, ResumeMismatch
from bp_core.examples import Conversation, Sample
from bp_core.folders import write_json, writing
from bp_core.recipe import Recipe
from bp_core.redact import redact_all
from bp_core.settings import Trait, names

RUN_FILE = "run.json"
HELD_OUT_FILE = "held-out-conversations.json"
NEWEST = "newest"  # in place of an id: the newest run that has not finished
_STAMP = "%Y%m%d-%H%M%S"


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
        """The contents of run.json. Raises CheckpointUnusable."""
        try:
            value: dict[str, Any] = json.loads((self.path / RUN_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointUnusable(f"{RUN_FILE} cannot be read.", where=str(self.path)) from error
        return value

    def write(self, **changes: Any) -> None:
        known = self.read() if (self.path / RUN_FILE).exists() else {}
        write_json(self.path / RUN_FILE, known | redact_all(changes))

    def write_samples(self, samples: list[Sample]) -> None:
        write_json(self.path / "samples.json", [dataclasses.asdict(sample) for sample in samples])

    def write_training_rows(self, rows: list[list[int]]) -> None:
        """Token ids of rows that were trained on, for the importance matrix of an export."""
        write_json(self.path / "training-rows.json", rows)

    def training_rows(self) -> list[list[int]]:
        """Some rows that were trained on, as token ids; none if the file is missing."""
        path = self.path / "training-rows.json"
        rows: list[list[int]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        return rows

    def write_held_out(self, conversations: list[Conversation]) -> None:
        """Held-out rows with tools or thoughts, which an export asks."""
        write_json(self.path / HELD_OUT_FILE, [dataclasses.asdict(one) for one in conversations])

    def held_out(self) -> list[Conversation] | None:
        """The held-out rows with tools or thoughts; None if the run kept no such file."""
        path = self.path / HELD_OUT_FILE
        if not path.is_file():
            return None
        return [Conversation.from_dict(row) for row in json.loads(path.read_text(encoding="utf-8"))]

    def samples(self) -> list[Sample]:
        """The rows kept to prove an export with; none if the file is missing."""
        path = self.path / "samples.json"
        if not path.is_file():
            return []
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [Sample(r["text"], *(tuple(r[key]) for key in ("tokens", "trained", "prompt"))) for r in rows]


def create(output: Path, **record: Any) -> RunFolder:
    """Create a run folder. Ids sort by age, also when the clock is set back."""
    path = output / "runs" / f"{_stamp(output)}-{secrets.token_hex(2)}"
    with writing(path):
        path.mkdir(parents=True)
    folder = RunFolder(path)
    folder.write(id=folder.id, status="running", **record)
    return folder


def newest_unfinished(output: Path, *, or_finished: bool = False) -> RunFolder:
    """The newest unfinished run, or where there is none and a finished one will do, the newest of all.

    Raises NothingToResume.
    """
    runs = [RunFolder(path.parent) for path in sorted((output / "runs").glob("*/" + RUN_FILE), reverse=True)]
    for run in runs:
        if run.read().get("status") != "finished":
            return run
    if runs and or_finished:
        return runs[0]
    raise NothingToResume("no unfinished run was found.", where=str(output / "runs"))


def continued(
    folder: RunFolder, recipe: Recipe, facts: Mapping[str, Any], allow_changes: bool
) -> tuple[Recipe, list[str]]:
    """The recipe to continue with, and the changes since the run began, in words. More steps extend a run.

    Raises ResumeMismatch for changes, unless they are allowed, and NothingToResume for a finished run that is not
    extended.
    """
    record = folder.read()
    before = record["recipe"]
    extended = recipe.steps > before["steps"]
    if record["status"] == "finished" and not extended:
        fix = f"Extend it with --steps larger than {before['steps']}, or start a new run."
        raise NothingToResume(f"run {folder.id} is finished.", where=str(folder.path), fix=fix)
    if extended:
        recipe = dataclasses.replace(recipe, warmup_steps=before["warmup_steps"])
    if facts["base"] == record["facts"].get("base"):
        recipe = dataclasses.replace(recipe, model=before["model"])
    free = {"why", *names(TrainConfig, Trait.FREE), *(["steps"] if extended else [])}
    changed = _changes(record, recipe, facts, free)
    if changed and not allow_changes:
        fix = f"Go on as it was begun: `backprop resume {folder.id}`. Or in spite of it: with --allow-changes."
        raise ResumeMismatch("; ".join(changed) + ".", where=str(folder.path), fix=fix)
    return recipe, changed


def settings_of(folder: RunFolder) -> tuple[dict[str, Any], str | list[str]]:
    """The settings with which a run was started, and the path or paths of its data. Raises NothingToResume."""
    record = folder.read()
    data = record.get("data")
    if data is None:
        message = f"run {folder.id} was given its rows in Python, which are not kept."
        raise NothingToResume(message, fix=f"Give them again: Trainer(…).train(rows, resume={folder.id!r}).")
    return begun_settings(folder), data


def begun_settings(folder: RunFolder) -> dict[str, Any]:
    """The settings to go on with a run: those it was begun with, on the base that it found.

    Mode and optimizer that were left open stay what they became: with other free memory they might be others today.
    """
    record = folder.read()
    settings = dict(record["settings"])
    if Path(record.get("base", "")).is_dir():
        settings["model"] = record["base"]
    if settings.get("mode") == "auto":
        settings["mode"] = record["recipe"]["mode"]
    if settings.get("optimizer") is None:
        settings["optimizer"] = record["recipe"].get("optimizer")
    return settings


def _changes(record: Mapping[str, Any], recipe: Recipe, facts: Mapping[str, Any], free: set[str]) -> list[str]:
    now = dataclasses.asdict(recipe)
    # A setting that the run was begun without, in an older version, was as its default is.
    then = {name: getattr(Recipe, name, None) for name in now} | record["recipe"]
    other = sorted(name for name in now.keys() - free if now[name] != then.get(name))
    changed = [f"{name} was {then.get(name)!r}, is {now[name]!r}" for name in other]
    return changed + [f"the {name} changed" for name in facts if facts[name] != record["facts"].get(name)]


def _stamp(output: Path) -> str:
    """The current time, but later than the newest run."""
    newest = max((path.name[: len("yyyymmdd-hhmmss")] for path in (output / "runs").glob("*/")), default="")
    stamp = time.strftime(_STAMP)
    if stamp > newest:
        return stamp
    try:
        return time.strftime(_STAMP, time.localtime(time.mktime(time.strptime(newest, _STAMP)) + 1))
    except ValueError:  # not a folder of ours
        return stamp
