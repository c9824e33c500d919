"""The command serve: which file is meant, and a server for it until the user stops it."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from bp_export.config import ServeConfig
from bp_export.llama_cpp.server import LlamaServer, is_local

from ..models.targets import Artifact
from . import tables
from .options import NAME, Json, run_ids, with_options


@with_options(ServeConfig)
def serve(
    settings: dict[str, Any],
    target: Annotated[str, typer.Argument(help=NAME, autocompletion=run_ids)],
    json: Json = False,
) -> None:
    """Serve a GGUF over HTTP as OpenAI does, to this machine only, until Ctrl-C."""
    config = ServeConfig(**settings)
    file = Artifact.find(target).require_gguf()
    if config.open_to_network and not is_local(config.host):
        lock = "with the key only"
        if not config.api_key:
            lock = "WITHOUT A KEY: everybody who reaches this machine may use the model"
        print(f"warning: open to the network at {config.host}, {lock}.", file=sys.stderr)
    with LlamaServer(file, config) as server:
        try:
            if json:
                tables.print_json({"url": f"{server.url}/v1", "model": server.name, "path": file, "pid": server.pid})
            else:
                print(f"{server.name}: {server.url}/v1, as OpenAI's; Ctrl-C ends it")
            sys.stdout.flush()
            server.wait()
        except KeyboardInterrupt:
            print("Stopped.", file=sys.stderr)
