"""Command-line options derived from settings classes: a flag is a field, its help is the field's help."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar, get_args

import typer

from bp_core.backends import rails
from bp_core.settings import Panel, Setting, names, settings
from bp_plan.presets import PRESETS
from bp_runs import history

from .command import Command

Config = TypeVar("Config")


def presets() -> list[str]:
    return list(PRESETS)


def run_ids() -> list[str]:
    """Newest first."""
    return [entry.id for entry in history.entries()]


_GIVEN = ("COMMANDLINE", "ENVIRONMENT")  # where click says that the value of an option is from
# What the shell offers for a setting that names no choices.
_OFFERED: dict[str, Callable[[], list[str]]] = {"model": presets, "backend": lambda: list(rails())}


def with_options(
    config: type, *left_out: str, also: tuple[type, ...] = (), parsed_by: type[Command] = Command
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for each field of `config`, and of those in `also`; they arrive together as the
    argument `settings`. Help shows them by their panel, after the command's own. `parsed_by` reads its words.

    A command with an argument `given` is told the names of those that were not left at their default.
    """
    fields = [setting for kind in (*also, config) for setting in settings(kind) if setting.name not in left_out]
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[field.type, _declared(field, typer.Option, field.panel)],
        )
        for field in fields
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        taken = inspect.signature(command, eval_str=True).parameters
        own = [p for p in taken.values() if p.name not in ("settings", "given")]

        def run(_context: typer.Context | None = None, **values: Any) -> None:
            chosen = {field.name: values.pop(field.name) for field in fields}
            if "given" in taken and _context:
                values["given"] = _given(_context, list(chosen))
            command(**values, settings=chosen)

        run.__doc__ = command.__doc__
        run.__name__ = command.__name__
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + options
        parameters.sort(key=_place)
        context = inspect.Parameter("_context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        parameters.insert(0, context)
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__dict__["parsed_by"] = parsed_by
        return run

    return decorate


def _given(context: typer.Context, names: Iterable[str]) -> frozenset[str]:
    """The options that stand on the command line, or whose variables are set."""
    sources = {name: context.get_parameter_source(name) for name in names}
    return frozenset(name for name, source in sources.items() if source is not None and source.name in _GIVEN)


def taken(config: type[Config], settings: dict[str, Any]) -> Config:
    """The settings of one class, taken out of those that `with_options` gave together."""
    return config(**{name: settings.pop(name) for name in names(config)})


def option(config: type, name: str, kind: Callable[..., Any] = typer.Option) -> Any:
    """One setting as an option or argument, for a command that does not take all of its class so."""
    setting = next(setting for setting in settings(config) if setting.name == name)
    return _declared(setting, kind, None)


def _declared(setting: Setting, kind: Callable[..., Any], panel: Panel | None) -> Any:
    offered = _OFFERED.get(setting.name)
    named = [setting.option] if setting.option_name and kind is typer.Option else []
    return kind(*named, help=setting.help, rich_help_panel=panel, autocompletion=offered, case_sensitive=False)


def _place(parameter: inspect.Parameter) -> int:
    """Where an option stands in the help: what has no panel comes first."""
    panels = [mark.rich_help_panel for mark in get_args(parameter.annotation)[1:]]
    return list(Panel).index(panels[0]) if panels and panels[0] else -1


NAME = "A run's id or the beginning of it, a run, output, adapter or model folder, or a .gguf file."
RunName = Annotated[str, typer.Argument(help=NAME, autocompletion=run_ids)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.", rich_help_panel=Panel.OUTPUT)]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, and stop.", rich_help_panel=Panel.OUTPUT)
]
