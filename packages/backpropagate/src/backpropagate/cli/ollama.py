"""The verbs of `backprop ollama`: register, list, rm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bp_core.units import gigabytes
from bp_export.config import ExportConfig
from bp_export.ollama import Ollama, register

from ..progress import Screen
from . import tables


def register_file(settings: Mapping[str, Any], file: str, name: str, *, json: bool) -> None:
    config = ExportConfig(ollama_name=name, **settings)
    with Screen() as screen:
        done = register(Path(file), config, notify=screen.notify)
    tables.print_json(done.as_dict()) if json else tables.show_registered(done)


def list_models(*, json: bool) -> None:
    with Ollama() as server:
        models = server.models()
    if json:
        tables.print_json({"server": server.url, "models": models})
        return
    table = Table("model", "size", "changed", box=None, pad_edge=False)
    for model in models:
        name, changed = (tables.visible(str(model.get(key, ""))) for key in ("name", "modified_at"))
        table.add_row(name, gigabytes(int(model.get("size") or 0)), changed[:16].replace("T", " "))
    Console().print(table if models else f"Ollama at {server.url} has no models.")


def remove(name: str, *, json: bool) -> None:
    with Ollama() as server:
        server.remove(name)
    tables.print_json({"server": server.url, "removed": name}) if json else print(f"removed {name}")
