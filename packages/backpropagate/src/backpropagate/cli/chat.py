"""The command chat."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from bp_core.errors import BadValue
from bp_data.formats.records import Tools
from bp_eval.config import EvalConfig

from ..export.chat import Talker, read_tools_file, talker, user
from ..export.chat_config import ChatConfig
from ..export.reply import Kind, Reply
from . import tables
from .options import NAME, Json, option, run_ids, with_options

Turn = dict[str, Any]


@with_options(ChatConfig)
def chat(
    settings: dict[str, Any],
    target: Annotated[str, typer.Argument(help=NAME, autocompletion=run_ids)],
    prompt: Annotated[str | None, typer.Option(help="Ask this once and stop.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message to begin with.")] = None,
    base: Annotated[str | None, option(EvalConfig, "base")] = None,
    json: Json = False,
) -> None:
    """Talk to a trained model: the GGUF through llama.cpp, an adapter through its training backend."""
    config = ChatConfig(**settings)
    if config.raw and system is not None:
        raise BadValue("system is set, but --raw goes on with the text alone.")
    if config.raw and base is not None:
        raise BadValue("base is set, but --raw lets a .gguf go on, which needs no base.")
    begun: list[Turn] = [{"role": "system", "content": system}] if system else []
    with talker(target, config, read_tools_file(config.tools), base) as (model, tools):
        talk = Chat(model, config, tools, begun, json)
        talk.say(prompt) if prompt is not None else talk.converse()


class Chat:
    """A conversation in a terminal: answers on stdout, thoughts and the rest on stderr."""

    def __init__(self, model: Talker, config: ChatConfig, tools: Tools, begun: list[Turn], json: bool) -> None:
        self._model, self._config, self._tools, self._begun, self._json = model, config, tools, begun, json
        self._turns = list(begun)
        self._console = Console(stderr=True, highlight=False)

    def converse(self) -> None:
        """Talk until the user leaves."""
        self._console.print("[dim]Write a message; /new starts over, /bye or Ctrl-D leaves.[/]")
        while (line := self._read_line("> ")) not in (None, "/bye"):
            if line == "/new":
                self._turns = list(self._begun)
            elif line and not self._answered(self.say(line)):
                return

    def _answered(self, reply: Reply) -> bool:
        """Ask the user what the called tools return, and the model what it says to that; False to leave."""
        while reply.calls:
            results = []
            for name, _ in reply.calls:
                result = self._read_line(f"result of {name}> ")
                if result in (None, "/bye"):
                    return False
                if result in ("", "/new"):  # without a result there is nothing to go on with
                    self._turns = list(self._begun) if result == "/new" else self._turns
                    return True
                results.append({"role": "tool", "name": name, "content": result})
            self._turns += results
            reply = self._reply()
        return True

    def say(self, text: str) -> Reply:
        """Ask the model, and show what it answers."""
        self._turns.append(user(text))
        return self._reply()

    def _reply(self) -> Reply:
        shown = _Shown(self._console, folded=not self._config.think, quiet=self._json)
        try:
            reply = self._model.reply(self._turns, self._config, self._tools, shown.piece)
        finally:
            shown.end()
        self._turns.append(reply.turn())
        if self._json:
            tables.print_json(reply.as_dict() | {"thought_closed": reply.closed})
            return reply
        for call in reply.as_dict().get("tool_calls", ()):
            print(f"{call['function']['name']}({call['function']['arguments']})")
        if not reply.closed:
            self._console.print("[yellow]The thought did not end: raise --max-tokens, or use --no-think.[/]")
        return reply

    def _read_line(self, asked: str) -> str | None:
        try:
            return self._console.input(f"[bold cyan]{asked}[/]").strip()
        except EOFError:
            return None


class _Shown:
    """Shows an answer as it comes in. A folded thought is told by its length."""

    def __init__(self, console: Console, *, folded: bool, quiet: bool) -> None:
        self._console, self._folded, self._quiet = console, folded, quiet
        self._thought = 0  # characters
        self._has_text = False

    def piece(self, kind: Kind, text: str) -> None:
        if self._quiet:
            return
        if kind == "thought":
            self._thought += len(text)
            if not self._folded:
                self._console.print(f"[dim]{escape(text)}[/]", end="", soft_wrap=True)
            return
        self._end_thought()
        self._has_text = True
        sys.stdout.write(text)
        sys.stdout.flush()

    def end(self) -> None:
        self._end_thought()
        if self._has_text:
            sys.stdout.write("\n")
            sys.stdout.flush()

    def _end_thought(self) -> None:
        if self._thought and not self._has_text:
            told = f"[dim](a thought of {self._thought} characters)[/]" if self._folded else ""
            self._console.print(told)
        self._thought = 0
