"""The verbs of the command line: each calls the package and shows what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bp_core.config import TrainConfig
from bp_core.errors import NotProven
from bp_core.process_group import launched
from bp_export.config import ExportConfig, ServeConfig
from bp_runs import run_folder

from ..export import chat as conversation
from ..export.export import export_adapter, verify_file
from ..models.published import adapter_in
from ..progress import Screen
from ..trainer import Trainer
from ..training.planning import outlook
from ..training.run import Run
from . import chat as chat_
from . import info as environment
from . import serve as serving
from . import tables
from .quickstart import demonstrate
from .quiet import quiet_libraries


def train(
    settings: Mapping[str, Any], data: str, *, resume: str, allow_changes: bool, dry_run: bool, json: bool
) -> None:
    quiet_libraries()
    trainer = Trainer(**settings)
    if dry_run and _leads():
        plan = trainer.plan(data)
        tables.print_json(plan.as_dict()) if json else tables.show_plan(plan)
    if not dry_run:
        _show(trainer.train(data, resume=resume or False, allow_changes=allow_changes), json)


def resume(run_id: str, output: str, steps: int | None, *, allow_changes: bool, json: bool) -> None:
    quiet_libraries()
    found = run_folder.find(Path(output).resolve(), run_id)
    settings, data = run_folder.settings_of(found)
    trainer = Trainer(**settings | {"output": output})
    _show(trainer.train(data, steps=steps, resume=found.id, allow_changes=allow_changes), json)


def export(settings: Mapping[str, Any], adapter: str, *, json: bool) -> None:
    quiet_libraries()
    config = ExportConfig(**settings)
    with Screen() as screen:
        done = export_adapter(adapter_in(adapter), config, screen.notify)
    if json:
        parity = done.parity.as_dict() if done.parity else None
        told = {"path": done.path, "format": done.format, "bytes": done.bytes, "parity": parity}
        registered = done.ollama.as_dict() if done.ollama else None
        tables.print_json(told | {"modelfile": done.modelfile, "ollama": registered})
    else:
        tables.show_export(done)


def verify(file: str, adapter: str | None, base: str | None, *, json: bool) -> None:
    quiet_libraries()
    with Screen() as screen:
        parity = verify_file(Path(file), adapter, base, screen.notify)
    tables.print_json({"file": file, **parity.as_dict()}) if json else tables.show_proof(parity)
    if not parity.proven:
        failed = ", ".join(check.name for check in parity.failures)
        raise NotProven(f"these checks failed: {failed}.", where=file, fix="Export the model again from its adapter.")


def chat(target: str, prompt: str | None, system: str | None, max_tokens: int) -> None:
    quiet_libraries()
    with conversation.speaker(target) as speaker:
        chat_.converse(speaker, prompt, system, max_tokens)


def serve(settings: Mapping[str, Any], target: str, *, json: bool) -> None:
    quiet_libraries()
    serving.serve(target, ServeConfig(**settings), json=json)


def estimate(settings: Mapping[str, Any], model: str, memory: float | None, *, json: bool) -> None:
    quiet_libraries()
    found = outlook(TrainConfig(model=model, **settings), memory)
    tables.print_json(found.as_dict()) if json else tables.show_outlook(found)


def quickstart(output: Path, steps: int, backend: str) -> None:
    quiet_libraries()
    demonstrate(output, steps, backend)


def info(*, json: bool) -> None:
    found = environment.describe()
    tables.print_json(found) if json else environment.show(found)


def _show(run: Run, json: bool) -> None:
    if _leads():
        tables.print_json(run.as_dict()) if json else tables.show_run(run)


def _leads() -> bool:
    """Of several processes that a launcher started one talks."""
    return launched().rank == 0
