"""The command chat."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from bp_core.errors import BadValue
from bp_eval.config import EvalConfig

from ..export.chat import Speaker, Turn, speaker, user
from .options import NAME, option


def chat(
    target: Annotated[str, typer.Argument(help=NAME)],
    prompt: Annotated[str | None, typer.Option(help="Ask this once and stop.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message to begin with.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.", min=1)] = 512,
    raw: Annotated[
        bool, typer.Option("--raw", help="Let a .gguf go on with each text as it is, without a chat template.")
    ] = False,
    base: Annotated[str | None, option(EvalConfig, "base")] = None,
) -> None:
    """Talk to a trained model: the GGUF through llama.cpp, an adapter through its training backend."""
    if raw and system is not None:
        raise BadValue("system is set, but --raw goes on with the text alone.")
    if raw and base is not None:
        raise BadValue("base is set, but --raw lets a .gguf go on, which needs no base.")
    with speaker(target, raw=raw, base=base) as model:
        _converse(model, prompt, system, max_tokens)


def _converse(speaker: Speaker, prompt: str | None, system: str | None, limit: int) -> None:
    """Answer `prompt` once on stdout; without one, talk until the user leaves."""
    turns: list[Turn] = [{"role": "system", "content": system}] if system else []
    if prompt is not None:
        _say(speaker, [*turns, user(prompt)], limit)
        return
    console = Console(stderr=True)
    console.print("[dim]Write a message; /new starts over, /bye or Ctrl-D leaves.[/]")
    talk = list(turns)
    while (line := _read_line(console)) not in (None, "/bye"):
        if line == "/new":
            talk = list(turns)
        elif line:
            talk.append(user(line))
            talk.append({"role": "assistant", "content": _say(speaker, talk, limit)})


def _say(speaker: Speaker, turns: list[Turn], limit: int) -> str:
    def show(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        return speaker.answer(turns, limit, show)
    finally:
        show("\n")


def _read_line(console: Console) -> str | None:
    try:
        return console.input("[bold cyan]> [/]").strip()
    except EOFError:
        return None
