"""The option --log-format, which every command has that shows progress."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Literal

import typer

from bp_core.settings import Panel

from .. import progress

_HELP = "How progress is told away from a terminal: text for people, json for log collectors. With --json: json."
_OPTION = Annotated[Literal["text", "json"] | None, typer.Option(help=_HELP, rich_help_panel=Panel.OUTPUT)]


def with_log_format(command: Callable[..., None]) -> Callable[..., None]:
    """The command with this option; BACKPROPAGATE_LOG_FORMAT says it for all commands."""

    @functools.wraps(command)
    def run(*words: object, log_format: Literal["text", "json"] | None = None, **values: object) -> None:
        chosen = log_format or ("json" if values.get("json") else progress.log_format())
        with progress.logging_as(chosen):
            command(*words, **values)

    signature = inspect.signature(command, eval_str=True)
    own = inspect.Parameter("log_format", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_OPTION)
    parameters = [*signature.parameters.values(), own]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
