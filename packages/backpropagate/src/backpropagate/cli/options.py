"""Command-line options derived from settings classes: a flag is a field, its help is the field's help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from bp_core.config import TrainConfig
from bp_core.settings import settings


def with_options(
    config: type, *left_out: str, also: tuple[type, ...] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for each field of `config`, and of those in `also`; they arrive together as the
    argument `settings`."""
    fields = [setting for kind in (*also, config) for setting in settings(kind) if setting.name not in left_out]
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[field.type, typer.Option(help=field.help)],
        )
        for field in fields
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "settings"]

        def run(**values: Any) -> None:
            chosen = {field.name: values.pop(field.name) for field in fields}
            command(**values, settings=chosen)

        run.__doc__ = command.__doc__
        run.__name__ = command.__name__
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + options
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def option(config: type, name: str, kind: Callable[..., Any] = typer.Option) -> Any:
    """One setting as an option or argument, for a command that does not take all of its class so."""
    return kind(help=next(setting.help for setting in settings(config) if setting.name == name))


def parsed_by(kind: type[TyperCommand]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a class of its own read a command's words."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        command.__dict__["parsed_by"] = kind
        return command

    return decorate


NAME = "A run's id or the beginning of it, a run, output, adapter or model folder, or a .gguf file."
Columns = Annotated[str, option(TrainConfig, "columns")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
