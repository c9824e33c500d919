"""Adapter folders: putting a trained one in its place, finding one, exporting one with its proof."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

from bp_core.config import ExportConfig
from bp_core.contract import CONTRACT_FILE, Contract
from bp_core.errors import AdapterUnusable, OutputUnusable
from bp_core.events import Notify, Progress
from bp_core.examples import Sample
from bp_core.folders import damage, move, new_folder, write_json
from bp_core.rail import Job, Rail, find, rails
from bp_data import ChatTokenizer
from bp_export import Export, export

from . import models
from .recording import record_export
from .runs import RUN_FILE, RunFolder

_ORIGIN = "run.json"
_READY = "lora.ready"  # in the run's folder: whole, and about to become <output>/lora
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
# For adapters from elsewhere, which bring no rows of their own.
_PROBES = (
    "Why is the sky blue on a clear day?",
    "Write a short note to a neighbour who lent you a ladder.",
    "List three things to check before a long journey by car.",
    "Explain in two sentences what a database index does.",
)


def publish(rail: Rail, run: RunFolder, base: Path, contract: Contract, step: int) -> Path:
    """Write the adapter, trained to `step`, to `<output>/lora`. One that is there already is moved, never removed.

    Done again after a crash, it ends as if there had been none.
    """
    target = run.path.parent.parent / "lora"
    origin = {"run": run.id, "base": models.lasting_name(base), "step": step}
    if damage(target) is None and _origin(target) == origin:
        return target
    ready = run.path / _READY
    shutil.rmtree(ready, ignore_errors=True)
    with new_folder(ready) as draft:
        rail.write_adapter(draft)
        for name in _TOKENIZER_FILES:
            if (base / name).is_file():
                shutil.copyfile(base / name, draft / name)
        write_json(draft / CONTRACT_FILE, contract.as_dict())
        write_json(draft / _ORIGIN, origin)
    _retire(run.path / "lora", run.id)  # of this run, before it was extended
    while ready.exists():
        _retire(target, run.id)
        with contextlib.suppress(OutputUnusable):  # another run published in this very moment: make room again
            move(ready, target)
    return target


def adapter_in(place: str | Path) -> Path:
    """The adapter meant by a path: itself, the `lora` in an output folder, or that of a run's folder.

    Raises AdapterUnusable.
    """
    place = Path(place)
    current = place.parent.parent / "lora"  # seen from a run's folder; it may hold another run's adapter by now
    candidates = [place, place / "lora", *([current] if _run_of(current) == place.name else [])]
    for folder in candidates:
        if (folder / "adapter_config.json").is_file():
            return folder.resolve()
    raise AdapterUnusable("there is no adapter here (adapter_config.json is missing).", where=str(place))


def base_of(adapter: Path, notify: Notify) -> Path:
    """The folder of the base that an adapter was trained on. Raises AdapterUnusable, ModelNotFound."""
    path = adapter / "adapter_config.json"
    try:
        name = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError) as error:
        raise AdapterUnusable("it does not say which base model it belongs to.", where=str(path)) from error
    return models.locate(str(name), notify)


def export_adapter(adapter: Path, config: ExportConfig, notify: Notify) -> Export:
    """Export an adapter and prove the result against the adapter as PyTorch (or another rail) runs it in float32."""
    base = base_of(adapter, notify)
    if config.format == "lora":
        return _recorded(adapter, export(adapter, base, config, notify=notify))
    notify(Progress("open the reference", 0, 0))
    reference = reference_rail(base, adapter)
    try:
        done = export(adapter, base, config, reference=reference, samples=samples_of(adapter, base), notify=notify)
    finally:
        if reference:
            reference.close()
    return _recorded(adapter, done)


def run_of(adapter: Path) -> RunFolder | None:
    """The folder of the run that made an adapter; None for one from elsewhere, or whose run is gone."""
    run_id = _run_of(adapter)
    places = (adapter.parent / "runs" / str(run_id), adapter.parent)
    return next((RunFolder(place) for place in places if run_id == place.name and (place / RUN_FILE).is_file()), None)


def _recorded(adapter: Path, done: Export) -> Export:
    """Note an export with the run that made the adapter, if it is there."""
    if run := run_of(adapter):
        record_export(run, done)
    return done


def reference_rail(base: Path, adapter: Path) -> Rail | None:
    """The adapter on its base in float32, on the host; None where no rail is installed or it does not fit."""
    if "cpu" not in rails():
        return None
    rail = find("cpu")
    weights = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    if 2 * weights > 0.8 * rail.probe().free:  # 16-bit weights double in float32
        return None
    rail.open(Job(base, adapter=adapter, dtype="float32"))
    return rail


def samples_of(adapter: Path, base: Path) -> list[Sample]:
    """Rows to prove an export with: training rows kept by the run, else fixed questions."""
    run = run_of(adapter)
    if run and (kept := run.samples()):
        return kept
    tokenizer = ChatTokenizer.open(base)
    return [_probe(tokenizer, question) for question in _PROBES]


def stop_ids(tokenizer: ChatTokenizer, contract: Contract | None) -> tuple[int, ...]:
    """The tokens that end an answer: the contract's, else the tokenizer's end-of-sequence token."""
    if contract and contract.terminators:
        return contract.terminators
    end = tokenizer.token(tokenizer.eos_token) if tokenizer.eos_token else None
    return () if end is None else (end,)


def _probe(tokenizer: ChatTokenizer, question: str) -> Sample:
    turns = [{"role": "user", "content": question}]
    text, tokens = tokenizer.render(turns, add_generation_prompt=True), tuple(tokenizer.prompt(turns))
    return Sample(text, tokens, (0,) + (1,) * (len(tokens) - 1), tokens)


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
    places = [run / f"lora-step-{origin.get('step', 0):06d}"] if "run" in origin and run.is_dir() else []
    places[:0] = [run / "lora"] if places and run.name != successor else []
    dated = output / time.strftime("lora-until-%Y%m%d-%H%M%S")
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
