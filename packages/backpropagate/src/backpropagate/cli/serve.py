"""The command serve: which file is meant, and a server for it until the user stops it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bp_core.errors import FileMissing
from bp_export.config import ServeConfig
from bp_export.llama_cpp.server import LlamaServer, is_local
from bp_runs import history

from ..hints import command
from . import tables
from .options import Json, run_ids, with_options
from .quiet import quiet_libraries


@with_options(ServeConfig)
def serve(
    settings: dict[str, Any],
    target: Annotated[
        str,
        typer.Argument(help="A .gguf file, an output folder, or a run whose export it was.", autocompletion=run_ids),
    ],
    json: Json = False,
) -> None:
    """Serve a GGUF over HTTP as OpenAI does, to this machine only, until Ctrl-C."""
    quiet_libraries()
    config = ServeConfig(**settings)
    file = model_file(target)
    if config.open_to_network and not is_local(config.host):
        _warn(config)
    with LlamaServer(file, config) as server:
        _announce(server, file, json)
        try:
            server.wait()
        except KeyboardInterrupt:
            print("Stopped.", file=sys.stderr)


def model_file(target: str) -> Path:
    """The GGUF meant by a file, an output folder (the newest in it), or a run (its newest export).

    Raises FileMissing, and RunNotFound for what is neither.
    """
    path = Path(target)
    if path.is_file():
        return path
    if path.is_dir() and (found := sorted(path.glob("*.gguf"), key=lambda file: file.stat().st_mtime)):
        return found[-1]
    if path.is_dir() and not (path / "run.json").is_file():
        raise FileMissing("there is no .gguf file here.", where=target, fix=f"Make one: {command('export', path)}")
    entry = history.find(target)
    exports = [Path(export["path"]) for export in entry.exports]
    files = [file for file in exports if file.suffix == ".gguf" and file.is_file()]
    if not files:
        output = Path(entry.folder).parent.parent
        raise FileMissing(f"run {entry.id} has no .gguf file.", fix=f"Make one: {command('export', output)}")
    return files[-1]


def _warn(config: ServeConfig) -> None:
    lock = (
        "with the key only" if config.api_key else "WITHOUT A KEY: everybody who reaches this machine may use the model"
    )
    print(f"warning: open to the network at {config.host}, {lock}.", file=sys.stderr)


def _announce(server: LlamaServer, file: Path, json: bool) -> None:
    if json:
        tables.print_json({"url": f"{server.url}/v1", "model": server.name, "path": file, "pid": server.pid})
    else:
        print(f"{server.name}: {server.url}/v1, as OpenAI's; Ctrl-C ends it")
    sys.stdout.flush()
