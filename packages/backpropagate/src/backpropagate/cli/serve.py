"""The command serve: which file is meant, and a server for it until the user stops it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bp_export.config import ServeConfig
from bp_export.llama_cpp.server import LlamaServer, is_local

from ..models.targets import Artifact
from . import tables
from .options import NAME, Json, run_ids, with_options
from .quiet import quiet_libraries


@with_options(ServeConfig)
def serve(
    settings: dict[str, Any],
    target: Annotated[str, typer.Argument(help=NAME, autocompletion=run_ids)],
    json: Json = False,
) -> None:
    """Serve a GGUF over HTTP as OpenAI does, to this machine only, until Ctrl-C."""
    quiet_libraries()
    config = ServeConfig(**settings)
    file = Artifact.find(target).require_gguf()
    if config.open_to_network and not is_local(config.host):
        _warn(config)
    with LlamaServer(file, config) as server:
        try:
            _announce(server, file, json)
            server.wait()
        except KeyboardInterrupt:
            print("Stopped.", file=sys.stderr)


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
