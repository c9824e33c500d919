"""`backprop`: the names of the commands, and where each is written. A module is loaded when a command of it is used."""

from __future__ import annotations

import ast
import signal
import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from .. import __version__
from .exit_codes import exit_code_of

# A command's name, then its module and function.
_COMMANDS = {
    "train": "train.train",
    "multi-run": "multi_run.multi_run",
    "resume": "train.resume",
    "export": "export.export",
    "verify": "export.verify",
    "estimate-vram": "train.estimate_vram",
    "chat": "chat.chat",
    "eval": "evaluate.evaluate",
    "compare": "evaluate.compare",
    "lm-eval": "evaluate.lm_eval",
    "serve": "serve.serve",
    "push": "push.push",
    "quickstart": "quickstart.quickstart",
    "info": "info.info",
    "list-runs": "runs.list_runs",
    "show-run": "runs.show_run",
    "diff-runs": "runs.diff_runs",
    "replay": "runs.replay",
    "export-runs": "runs.export_runs",
    "errors": "runs.errors",
}
_DATA = {"show": "data.show", "check": "data.check", "split": "data.split", "convert": "data.convert"}
_OLLAMA = {"register": "ollama.register", "list": "ollama.list_models", "rm": "ollama.rm"}


class Listed(TyperCommand):
    """A command that is not loaded: its name, and the module and function that it is."""

    def __init__(self, name: str, place: str) -> None:
        super().__init__(name=name)
        self.module, _, self.function = place.partition(".")

    def described(self) -> Listed:
        """With its help, which is read from the module's text."""
        self.help = _docstrings(self.module)[self.function]
        return self

    def loaded(self) -> Any:
        function = getattr(import_module(f".{self.module}", __package__), self.function)
        app = typer.Typer(add_completion=False)
        app.command(self.name, cls=vars(function).get("parsed_by", TyperCommand))(function)
        return typer.main.get_command(app)


class Commands(TyperGroup):
    """A group whose commands are loaded when they are used; its own help needs none of them."""

    table: ClassVar[Mapping[str, str]] = {}

    def __init__(self, *, commands: Any = None, **settings: Any) -> None:
        listed = {name: Listed(name, place) for name, place in self.table.items()}
        super().__init__(commands={**listed, **(commands or {})}, **settings)
        self._lists = False

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if not isinstance(command, Listed):
            return command
        return command.described() if self._lists else command.loaded()

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self._lists = True
        super().format_help(ctx, formatter)
        self._lists = False


class Backprop(Commands):
    table = _COMMANDS


class Data(Commands):
    table = _DATA


class Ollama(Commands):
    table = _OLLAMA


app = typer.Typer(
    name="backprop",
    cls=Backprop,
    help="Fine-tune a language model on your own machine and hand over a file that runs.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"auto_envvar_prefix": "BACKPROPAGATE"},
)
app.add_typer(
    typer.Typer(cls=Data, help="Check a data file, look at it as the model will, split it, convert it."), name="data"
)
app.add_typer(
    typer.Typer(cls=Ollama, help="Bring a GGUF to a running Ollama, list what it has, remove a model."), name="ollama"
)


def main() -> None:
    """The `backprop` command. Exit codes: 0 done, 1 you can fix it, 2 it failed, 130 interrupted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(exit_code_of(app, sys.argv[1:]))


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"backprop {__version__}")
        raise typer.Exit


@cache
def _docstrings(module: str) -> dict[str, str]:
    """The docstring of each function of a module beside this one, which is not imported for it."""
    tree = ast.parse(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))
    return {node.name: ast.get_docstring(node) or "" for node in tree.body if isinstance(node, ast.FunctionDef)}
