"""What was trained, an adapter or a whole model: putting it in its place, and finding it again."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

from bp_core.choices import DType, Mode
from bp_core.config import TrainConfig
from bp_core.contract import CONTRACT_FILE, Contract
from bp_core.errors import (
    AdapterUnusable,
    BadValue,
    HubUnreachable,
    ModelNotFound,
    OutputUnusable,
)
from bp_core.events import Notify
from bp_core.folders import MANIFEST, damage, digest, move, new_folder, write_json
from bp_core.rail import Job, Rail
from bp_export.weights.mlx import comes_from, is_quantized
from bp_plan.plan import Plan
from bp_runs.run_folder import RUN_FILE, RunFolder

from . import locate

_ORIGIN = "run.json"
WEIGHTS = "adapter_model.safetensors"
_FINGERPRINT = "base_fingerprint"
_ADAPTER, _MODEL = "lora", "model"  # under the output folder
MULTI_RUN = "multi-run"  # beside them: the stages of a session, in whose adapter's origin this is a key
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
_OTHER_BASE = "Bring back the weights it was trained on: those here have changed, or are of another revision or size."


def place(output: Path, mode: Mode) -> Path:
    """Where what was trained lies."""
    return output / (_MODEL if mode == "full" else _ADAPTER)


def publish(rail: Rail, run: RunFolder, base: Path, contract: Contract, step: int, mode: Mode = "lora") -> Path:
    """Write what was trained to `step` to its place. What is there already is moved, never removed.

    Done again after a crash, it ends as if there had been none.
    """
    target = place(run.path.parent.parent, mode)
    origin = {"run": run.id, "base": locate.lasting_name(base), "step": step, "mode": mode}
    origin[_FINGERPRINT] = locate.fingerprint(base)
    if damage(target) is None and _origin(target) == origin:
        return target
    ready = run.path / f"{target.name}.ready"  # whole, and about to get its place
    shutil.rmtree(ready, ignore_errors=True)
    with new_folder(ready) as draft:
        (rail.write_model if mode == "full" else rail.write_adapter)(draft)
        for name in TOKENIZER_FILES:
            if (base / name).is_file():
                shutil.copyfile(base / name, draft / name)
        write_json(draft / CONTRACT_FILE, contract.as_dict())
        write_json(draft / _ORIGIN, origin)
    _retire(run.path / target.name, run.id)  # of this run, before it was extended
    while ready.exists():
        _retire(target, run.id)
        with contextlib.suppress(OutputUnusable):  # another run published in this very moment: make room again
            move(ready, target)
    return target


def publish_merged(merged: Path, output: Path) -> None:
    """Give the adapter that a session of many stages merged its place. One merged earlier makes way; others are moved.

    Done again after a crash, it ends as if there had been none.
    """
    target, session = output / _ADAPTER, output / MULTI_RUN
    origin = _origin(merged) | {MULTI_RUN: {"merged": digest(merged / WEIGHTS)}}
    old, ready = session / "replaced", session / "ready"
    shutil.rmtree(old, ignore_errors=True)
    if damage(target) is None and _origin(target) == origin:
        return
    shutil.rmtree(ready, ignore_errors=True)
    with new_folder(ready) as draft:
        for path in merged.iterdir():
            if path.name != MANIFEST:
                shutil.copyfile(path, draft / path.name)
        write_json(draft / _ORIGIN, origin)
    if MULTI_RUN in _origin(target) and damage(target) is None:
        move(target, old)
    while ready.exists():
        _retire(target, str(origin.get("run")))
        with contextlib.suppress(OutputUnusable):
            move(ready, target)
    shutil.rmtree(old, ignore_errors=True)


def merged_in(adapter: Path) -> Path | None:
    """The folder of the session that merged an adapter; None for any other."""
    folder = adapter.parent / MULTI_RUN
    return folder if MULTI_RUN in _origin(adapter) and folder.is_dir() else None


def adapter_in(place: str | Path) -> Path:
    """The adapter or whole model meant by a path: itself, the newest in an output folder, or that of a run's folder.

    Raises AdapterUnusable.
    """
    place = Path(place)
    inside = sorted((place / name for name in (_ADAPTER, _MODEL)), key=lambda path: _run_of(path) or "", reverse=True)
    current = [place.parent.parent / name for name in (_ADAPTER, _MODEL)]  # seen from a run's folder
    for folder in [place, *inside, *(path for path in current if _run_of(path) == place.name)]:
        if (folder / "adapter_config.json").is_file() or is_whole(folder):
            return folder.resolve()
    raise AdapterUnusable("there is no adapter here (adapter_config.json is missing).", where=str(place))


def beginning(start: str | Path | None, plan: Plan) -> Path | None:
    """The adapter to go on from. Raises AdapterUnusable, and BadValue where its settings are not those of the plan."""
    if start is None:
        return None
    folder, recipe = adapter_in(start), plan.recipe
    if recipe.mode == "full" or is_whole(folder):
        raise BadValue("start is an adapter to go on from, which mode full has none of.", where=str(folder))
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    wanted = {"r": recipe.rank, "lora_alpha": recipe.alpha, "use_rslora": recipe.rslora, "use_dora": recipe.dora}
    wrong = [f"{key} {config.get(key)} is not {value}" for key, value in wanted.items() if config.get(key) != value]
    if wrong:
        fix = "Set rank, alpha, rslora and dora as they are in the adapter."
        raise BadValue(f"the adapter to go on from has other settings: {'; '.join(wrong)}.", where=str(folder), fix=fix)
    return folder


def weights_in(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of weights in a published folder, as its manifest has it."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return {name: entry["sha256"] for name, entry in manifest.items() if name.endswith(".safetensors")}


def is_whole(folder: Path) -> bool:
    """Whether a folder holds a whole model, not an adapter."""
    return (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file()


def job_for(folder: Path, notify: Notify, dtype: DType = "auto", base: str | None = None) -> Job:
    """What opens a trained folder: a whole model by itself, an adapter on its base, or on `base` in its place.

    Raises AdapterUnusable, also for another base than it was trained on, and ModelNotFound.
    """
    if is_whole(folder):
        return Job(folder, dtype=dtype)
    path = folder / "adapter_config.json"
    try:
        name = base or json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError) as error:
        raise AdapterUnusable("it does not say which base model it belongs to.", where=str(path)) from error
    model = locate.locate(str(name), notify)
    known = _origin(folder).get(_FINGERPRINT) in (None, locate.fingerprint(model))
    if not known and not (base and _is_source(model, folder, notify)):
        raise AdapterUnusable(f"{name} is not the model it was trained on.", where=str(folder), fix=_OTHER_BASE)
    return Job(model, adapter=folder, dtype=dtype)


def _is_source(model: Path, adapter: Path, notify: Notify) -> bool:
    """Whether `model` has the 16-bit weights of the MLX-quantised base that an adapter was trained on."""
    trained = folder_of(base_of(adapter), notify)
    return trained is not None and is_quantized(locate.description(trained)) and comes_from(trained, model)


def base_of(folder: Path) -> str | None:
    """What the run that made a folder calls its base; None for a folder from elsewhere."""
    return _origin(folder).get("base")


def mode_of(folder: Path) -> Mode:
    """How what lies in a folder was trained; for one from elsewhere the default."""
    mode: Mode = _origin(folder).get("mode", TrainConfig.mode)
    return mode


def folder_of(base: str | None, notify: Notify) -> Path | None:
    """Where a base is, if it still is."""
    try:
        return locate.locate(base, notify) if base else None
    except (ModelNotFound, HubUnreachable):
        return None


def run_of(adapter: Path) -> RunFolder | None:
    """The folder of the run that made an adapter; None for one from elsewhere, or whose run is gone."""
    run_id = _run_of(adapter)
    stages = sorted(adapter.parent.glob(f"{MULTI_RUN}/stage-*/runs/{run_id}")) if run_id else []
    places = (adapter.parent / "runs" / str(run_id), *stages, adapter.parent)
    return next((RunFolder(place) for place in places if run_id == place.name and (place / RUN_FILE).is_file()), None)


def _retire(adapter: Path, successor: str) -> None:
    """Move an adapter, if there is one, to where it can stay: with its own run, or beside under a dated name.

    `successor` is the run that publishes now; an older adapter of the same run gets a name with its step.
    """
    with contextlib.suppress(FileNotFoundError):  # another run did so in this very moment
        if adapter.exists():
            move(adapter, _place_for_old(adapter, successor))


def _place_for_old(adapter: Path, successor: str) -> Path:
    origin = _origin(adapter)
    output = adapter.parent.parent.parent if adapter.parent.name == successor else adapter.parent
    run = output / "runs" / str(origin.get("run"))
    kind = adapter.name
    places = [run / f"{kind}-step-{origin.get('step', 0):06d}"] if "run" in origin and run.is_dir() else []
    places[:0] = [run / kind] if places and run.name != successor else []
    dated = output / time.strftime(f"{kind}-until-%Y%m%d-%H%M%S")
    places += [dated, *(dated.with_name(f"{dated.name}-{number}") for number in range(2, 1000))]
    return next(place for place in places if not place.exists())


def _origin(adapter: Path) -> dict[str, Any]:
    """Which run made an adapter, and at which step; empty for one from elsewhere."""
    path = adapter / _ORIGIN
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value


def _run_of(adapter: Path) -> str | None:
    """The id of the run that made an adapter; None for one from elsewhere."""
    return _origin(adapter).get("run")
