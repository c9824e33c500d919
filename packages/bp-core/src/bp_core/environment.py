"""Settings from environment variables: BACKPROPAGATE_<COMMAND>_<SETTING>, the same for Python as for `backprop`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import NoneType
from typing import Any, TypeVar, get_args

from .errors import BadValue
from .settings import Setting, known, settings

Config = TypeVar("Config")

_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def variable(command: str, setting: str) -> str:
    """The variable of a command's setting."""
    return "_".join(["backpropagate", command, setting]).replace(" ", "_").replace("-", "_").upper()


def from_environment(command: str, config: type) -> dict[str, Any]:
    """The settings of `config` whose variables are set, as values. Raises BadValue, which names the variable."""
    found = {}
    for setting in settings(config):
        name = variable(command, setting.name)
        text = os.environ.get(name)
        if text:  # an empty one is none, as for the command line
            found[setting.name] = _value(name, setting, text)
    return found


def configured(command: str, config: type[Config], given: Mapping[str, Any], **defaults: Any) -> Config:
    """The settings of a command: `given` ones, those of the environment, then `defaults` and its own.

    Raises BadValue, also for a setting that does not exist.
    """
    known(given, config)
    return config(**{**defaults, **from_environment(command, config), **given})


def variables_of(command: str, config: Any) -> dict[str, str]:
    """The variables that settings came from: those that are set, and say what `config` has."""
    return {
        name: variable(command, name)
        for name, value in from_environment(command, type(config)).items()
        if getattr(config, name) == value
    }


def parsed(setting: Setting, text: str) -> Any:
    """`text` as the setting's type; `none` leaves it open again, where it may be. What is no value stays text."""
    kinds = get_args(setting.type) or (setting.type,)
    if NoneType in kinds and text.lower() == "none":
        return None
    if bool in kinds and text.lower() in (*_TRUE, *_FALSE):
        return text.lower() in _TRUE
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    return text


def _value(name: str, setting: Setting, text: str) -> Any:
    value = parsed(setting, text)
    if problem := setting.problem(value):
        fix = f"Set the environment variable {name} to another value, or remove it."
        raise BadValue(f"the environment variable {name} is {text!r}, but {problem}.", fix=fix)
    return value
