"""The commands export and verify."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bp_core.errors import NotProven
from bp_export.config import ANSWERS, ExportConfig

from ..export.export import export as write_export
from ..export.export import verify_file
from ..progress import Screen
from . import tables
from .options import NAME, Json, with_options

_VERIFY_FIX = (
    "Export the model again from its adapter. To report a file that is right, send what `backprop verify --json` and "
    "`backprop info` print; look through its notes first, they may quote your data."
)


@with_options(ExportConfig)
def export(
    settings: dict[str, Any],
    adapter: Annotated[str, typer.Argument(help=NAME)],
    json: Json = False,
) -> None:
    """Turn what was trained into a file to run, and prove that it behaves the same."""
    config = ExportConfig(**settings)
    with Screen() as screen:
        done = write_export(adapter, config, screen.notify)
    if json:
        parity = done.parity.as_dict() if done.parity else None
        told = {"path": done.path, "format": done.format, "bytes": done.bytes, "parity": parity}
        registered = done.ollama.as_dict() if done.ollama else None
        tables.print_json(
            told
            | {"placed": done.placed.as_dict() if done.placed else None}
            | {"importance": done.importance_path, "modelfile": done.modelfile, "ollama": registered}
            | {"origins": dict(done.origins)}
        )
    else:
        tables.show_export(done)


def verify(
    file: Annotated[str, typer.Argument(help="The GGUF file, whoever made it, or a run, whose newest file is proven.")],
    adapter: Annotated[str | None, typer.Option(help=f"What it should be. {NAME} Default: what the run has.")] = None,
    base: Annotated[
        str | None, typer.Option(help="The model it should be, or that --adapter was trained on. Default: as it says.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Rows with tools or thoughts, best such as it was not trained on: asked through llama-server, and "
            "compared with what comes back."
        ),
    ] = None,
    answers: Annotated[int, typer.Option(min=1, help="How many of these rows are asked.")] = ANSWERS,
    ollama_name: Annotated[
        str | None, typer.Option(help="What Ollama calls the file: the same rows are asked there, too.")
    ] = None,
    json: Json = False,
) -> None:
    """Prove that a GGUF is the model that was trained; exits with 2 if it is not."""
    with Screen() as screen:
        parity = verify_file(file, adapter, base, screen.notify, data=data, ollama_name=ollama_name, answers=answers)
    if not json:
        tables.show_proof(parity)
    with tables.result({"file": file, **parity.as_dict()}, json):
        if not parity.proven:
            rows = [check.as_row() for check in parity.failures]
            raise NotProven(f"{parity.verdict}.", where=file, fix=_VERIFY_FIX, checks=rows)
