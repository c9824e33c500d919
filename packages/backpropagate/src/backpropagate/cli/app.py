"""`backprop`: the names of the commands, and where each is written. A module is loaded when a command of it is used."""

from __future__ import annotations

import ast
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from .. import __version__
from ..hints import command as command_line
from .command import Command
from .encoding import make_printable
from .exit_codes import exit_code_of
from .last_resort import end_in_the_end
from .log_format import with_log_format

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
    "ui": "ui.ui",
    "quickstart": "quickstart.quickstart",
    "info": "info.info",
    "doctor": "doctor.doctor",
    "list-runs": "history.list_runs",
    "pause": "wishes.pause",
    "continue": "wishes.go_on",
    "stop": "wishes.stop",
    "note": "wishes.note",
    "events": "wishes.events",
    "show-run": "runs.show_run",
    "diff-runs": "runs.diff_runs",
    "replay": "runs.replay",
    "export-runs": "history.export_runs",
    "errors": "history.errors",
}
_SHOW_PROGRESS = {"train", "multi-run", "resume", "export", "verify", "eval", "compare", "lm-eval", "replay"}
_DATA = {"show": "data.show", "check": "data.check", "split": "data.split", "convert": "data.convert"}
_OLLAMA = {"register": "ollama.register", "list": "ollama.list_models", "rm": "ollama.rm"}
_FIRST_STEPS = (
    ("See the whole way once:", "quickstart", ""),
    ("Train on your data:    ", "train", "--data my_data.jsonl"),
    ("Talk to the result:    ", "chat", "output"),
)


class LazyCommand(TyperCommand):
    """A command that is not loaded: its name, and the module and function that it is."""

    def __init__(self, name: str, place: str) -> None:
        super().__init__(name=name)
        self.module, _, self.function = place.partition(".")

    def described(self) -> LazyCommand:
        """With its help, which is read from the module's text."""
        self.help = _docstrings(self.module)[self.function]
        return self

    def loaded(self) -> Any:
        _quiet_libraries()
        function = getattr(import_module(f".{self.module}", __package__), self.function)
        if self.name in _SHOW_PROGRESS:
            function = with_log_format(function)
        app = typer.Typer(add_completion=False)
        app.command(self.name, cls=vars(function).get("parsed_by", Command))(function)
        command: Any = typer.main.get_command(app)
        for parameter in command.params:
            parameter.show_envvar = False  # docs/cli.md has the variables
        return command


class Commands(TyperGroup):
    """A group whose commands are loaded when they are used; its own help needs none of them."""

    table: ClassVar[Mapping[str, str]] = {}

    def __init__(self, *, commands: Any = None, **settings: Any) -> None:
        listed = {name: LazyCommand(name, place) for name, place in self.table.items()}
        super().__init__(commands={**listed, **(commands or {})}, **settings)
        self._lists = False

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if not isinstance(command, LazyCommand):
            return command
        return command.described() if self._lists else command.loaded()

    def get_params(self, ctx: Any) -> Any:
        """The options of the group. None may come from the environment: it would replace every command."""
        options: Any = super().get_params(ctx)
        for option in options:
            option.allow_from_autoenv = False
        return options

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """A group by itself shows its help."""
        return super().parse_args(ctx, args or ["--help"])

    def format_help(self, ctx: Any, formatter: Any) -> None:
        with self._listing():
            super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        with self._listing():
            return super().shell_complete(ctx, incomplete)

    @contextmanager
    def _listing(self) -> Iterator[None]:
        """Commands are named with their help, and not loaded."""
        self._lists = True
        yield
        self._lists = False


class Backprop(Commands):
    table = _COMMANDS

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """`backprop` by itself also says how to begin."""
        if not args:
            lines = [f"{what}  {command_line(verb, rest)}" for what, verb, rest in _FIRST_STEPS]
            self.epilog = "\n".join(lines)
        return super().parse_args(ctx, args)


class Data(Commands):
    table = _DATA


class Ollama(Commands):
    table = _OLLAMA


app = typer.Typer(
    name="backprop",
    cls=Backprop,
    help="Fine-tune a language model on your own machine and hand over a file that runs.",
    pretty_exceptions_enable=False,
    context_settings={"auto_envvar_prefix": "BACKPROPAGATE", "help_option_names": ["-h", "--help"]},
)
app.add_typer(
    typer.Typer(cls=Data, help="Check a data file, look at it as the model will, split it, convert it."), name="data"
)
app.add_typer(
    typer.Typer(cls=Ollama, help="Bring a GGUF to a running Ollama, list what it has, remove a model."), name="ollama"
)


def main() -> None:
    """The `backprop` command. Exit codes: 0 done, 1 you can fix it, 2 it failed, 130 interrupted."""
    make_printable()
    end_in_the_end()
    for name in ("SIGTERM", "SIGBREAK"):  # the second is Ctrl-Break, which Windows alone has
        if name in signal.Signals.__members__:
            signal.signal(signal.Signals[name], _end)
    sys.exit(exit_code_of(app, sys.argv[1:]))


def _end(number: int, frame: FrameType | None) -> None:
    """The first SIGTERM ends a command as Ctrl-C does. A second one ends the process, whatever it waits for."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise KeyboardInterrupt


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"backprop {__version__}")
        raise typer.Exit


def _quiet_libraries() -> None:
    """Keep the progress bars and notices of other libraries out of ours."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it warns of each of its tries to reach the hub
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@cache
def _docstrings(module: str) -> dict[str, str]:
    """The docstring of each function of a module beside this one, which is not imported for it."""
    tree = ast.parse(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))
    return {node.name: ast.get_docstring(node) or "" for node in tree.body if isinstance(node, ast.FunctionDef)}
