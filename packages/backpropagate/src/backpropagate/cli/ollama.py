"""The commands of `backprop ollama`: register, list, rm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bp_core.settings import names
from bp_core.units import gigabytes
from bp_export.config import ExportConfig
from bp_export.ollama import Ollama
from bp_export.ollama import register as register_file

from ..progress import Screen
from . import tables
from .options import Json, with_options

# What only the making of a file asks for: all but what is said to Ollama.
_OF_EXPORT = set(names(ExportConfig)) - {"ollama_overwrite", "system", "num_ctx"}


@with_options(ExportConfig, *_OF_EXPORT)
def register(
    settings: dict[str, Any],
    file: Annotated[str, typer.Argument(help="The .gguf file. A Modelfile beside it says how it is to run.")],
    name: Annotated[str, typer.Argument(help="What Ollama shall call it.")],
    json: Json = False,
) -> None:
    """Give Ollama a GGUF, and see that it behaves there as in its file."""
    config = ExportConfig(ollama_name=name, **settings)
    with Screen() as screen:
        done = register_file(Path(file), config, notify=screen.notify)
    tables.print_json(done.as_dict()) if json else tables.show_registered(done)


def list_models(json: Json = False) -> None:
    """List the models that Ollama has."""
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


def rm(
    name: Annotated[str, typer.Argument(help="The model's name in Ollama.")],
    json: Json = False,
) -> None:
    """Remove a model from Ollama; the file that it was made of stays."""
    with Ollama() as server:
        server.remove(name)
    tables.print_json({"server": server.url, "removed": name}) if json else print(f"removed {name}")
