"""What was trained, an adapter or a whole model: putting it in its place, and what it says of its making."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bp_core.choices import PLAIN_MODE, Mode, ModeSetting
from bp_core.contract import CONTRACT_FILE, Contract
from bp_core.errors import DiskFull, OutputUnusable
from bp_core.folders import MANIFEST, damage, digest, move, move_if_free, new_folder, write_json
from bp_core.rail import Rail
from bp_export.model_folder import complete
from bp_export.trained_tokenizer import copy_tokenizer
from bp_runs.run_folder import RunFolder

from ..hints import multi_run_command, near, resume_command
from ..multi_run import MULTI_RUN
from . import locate

_ORIGIN = "run.json"
WEIGHTS = "adapter_model.safetensors"
FINGERPRINT = "base_fingerprint"
KINDS = _ADAPTER, _MODEL = "lora", "model"  # under the output folder
_TRIES = 20  # to publish while other runs do so at the same place


def place(output: Path, mode: ModeSetting) -> Path:
    """Where what was trained lies."""
    return output / (_MODEL if mode == "full" else _ADAPTER)


def publish(rail: Rail, run: RunFolder, base: Path, contract: Contract, step: int, mode: Mode = PLAIN_MODE) -> Path:
    """Write what was trained to `step` to its place. What is there already is moved, never removed.

    Done again after a crash, it ends as if there had been none. Raises OutputUnusable and DiskFull, which say where
    what was trained lies, and how to go on.
    """
    output = run.path.parent.parent
    target = place(output, mode)
    origin = {"run": run.id, "base": locate.lasting_name(base), "step": step, "mode": mode}
    origin[FINGERPRINT] = locate.fingerprint(base)
    if damage(target) is None and origin_of(target) == origin:
        return target
    ready = run.path / f"{target.name}.ready"  # whole, and about to get its place
    with _told_where(target, ready, run.checkpoints, resume_command(run.id, output)):
        if damage(ready) is not None or origin_of(ready) != origin:
            shutil.rmtree(ready, ignore_errors=True)
            with new_folder(ready) as draft:
                (rail.write_model if mode == "full" else rail.write_adapter)(draft)
                copy_tokenizer(base, draft)
                complete(draft, contract)
                write_json(draft / CONTRACT_FILE, contract.as_dict())
                write_json(draft / _ORIGIN, origin)
        _retire(run.path / target.name, run.id)  # of this run, before it was extended
        _give_place(ready, target, run.id)
    return target


def publish_merged(merged: Path, output: Path) -> None:
    """Give the adapter that a session of many stages merged its place. One merged earlier makes way; others are moved.

    Done again after a crash, it ends as if there had been none. Raises OutputUnusable and DiskFull, which say where
    the adapter lies, and how to go on.
    """
    target, session = output / _ADAPTER, output / MULTI_RUN
    old, ready = session / "replaced", session / "ready"
    shutil.rmtree(old, ignore_errors=True)
    with _told_where(target, ready, merged, multi_run_command(output)):
        origin = origin_of(merged) | {MULTI_RUN: {"merged": digest(merged / WEIGHTS)}}
        if damage(target) is None and origin_of(target) == origin:
            return
        shutil.rmtree(ready, ignore_errors=True)
        with new_folder(ready) as draft:
            for path in merged.iterdir():
                if path.name != MANIFEST:
                    shutil.copyfile(path, draft / path.name)
            write_json(draft / _ORIGIN, origin)
        if MULTI_RUN in origin_of(target) and damage(target) is None:
            move(target, old)
        try:
            _give_place(ready, target, str(origin.get("run")))
        except (OutputUnusable, DiskFull):
            with contextlib.suppress(OutputUnusable, DiskFull):  # then it stays where it is, and is not lost
                move(old, target)
            raise
    shutil.rmtree(old, ignore_errors=True)


def _give_place(ready: Path, target: Path, successor: str) -> None:
    """Move a whole folder to the place where what was trained is looked for. What is there makes room."""
    for _ in range(_TRIES):
        _retire(target, successor)
        if move_if_free(ready, target):
            return
    raise OutputUnusable("other runs keep putting their adapters here.", where=str(target))


@contextlib.contextmanager
def _told_where(target: Path, ready: Path, source: Path, command_to_go_on: str) -> Iterator[None]:
    """Let an error of writing say where what was trained lies: in `ready`, or if that is not whole in `source`.

    A folder that is read from, and is gone in mid-work, is such an error, too.
    """
    try:
        yield
    except (OutputUnusable, DiskFull, FileNotFoundError) as failure:
        error = failure if isinstance(failure, OutputUnusable | DiskFull) else _gone(failure)
        kept = ready if damage(ready) is None else source
        known = os.path.isdir(kept)  # which says no, and does not raise, where nothing may be read any more
        where = f"What was trained lies whole in {kept}." if known else f"What was trained was to lie in {kept}."
        needed = "Free some space" if isinstance(error, DiskFull) else f"Make {near(target.parent)} writable"
        fix = f"{needed}; then: {command_to_go_on}"
        raise type(error)(f"{error.message} {where}", where=error.where, fix=fix) from failure


def _gone(error: FileNotFoundError) -> OutputUnusable:
    return OutputUnusable("this is gone; it was moved or removed.", where=str(error.filename))


def weights_in(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of weights in a published folder, as its manifest has it."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return {name: entry["sha256"] for name, entry in manifest.items() if name.endswith(".safetensors")}


def _retire(adapter: Path, successor: str) -> None:
    """Move an adapter, if there is one, to where it can stay: with its own run, or beside under a dated name.

    `successor` is the run that publishes now; an older adapter of the same run gets a name with its step.
    """
    with contextlib.suppress(FileNotFoundError):  # another run did so in this very moment
        if adapter.exists():
            move(adapter, _place_for_old(adapter, successor))


def _place_for_old(adapter: Path, successor: str) -> Path:
    origin = origin_of(adapter)
    output = adapter.parent.parent.parent if adapter.parent.name == successor else adapter.parent
    run = output / "runs" / str(origin.get("run"))
    kind = adapter.name
    places = [run / f"{kind}-step-{origin.get('step', 0):06d}"] if "run" in origin and run.is_dir() else []
    places[:0] = [run / kind] if places and run.name != successor else []
    dated = output / time.strftime(f"{kind}-until-%Y%m%d-%H%M%S")
    places += [dated, *(dated.with_name(f"{dated.name}-{number}") for number in range(2, 1000))]
    free = next((place for place in places if not place.exists()), None)
    if free is None:
        raise OutputUnusable("there is no name left for the adapter that is here.", where=str(adapter))
    return free


def origin_of(adapter: Path) -> dict[str, Any]:
    """Which run made an adapter, and at which step; empty for one from elsewhere."""
    path = adapter / _ORIGIN
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
