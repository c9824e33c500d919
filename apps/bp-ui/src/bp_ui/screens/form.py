"""A form out of the settings: a control for each, and what it sends, read and checked as on the command line."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from backpropagate.example import EXAMPLE_DATA
from bp_core.backends import rails
from bp_core.config import TrainConfig
from bp_core.environment import parsed
from bp_core.errors import BadValue, FileMissing
from bp_core.settings import Panel, Setting, known, settings

from ..feed import Runs
from ..folders import is_data
from ..site import Site
from .model_names import checked_model
from .request import text

T = TypeVar("T")
EXAMPLE = "example"  # in place of an address: the rows of the quickstart
_HUB_DATA = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}(:[\w.-]{1,96}){0,2}")


@dataclass(frozen=True)
class Field:
    """A setting as a control: its kind is choice, switch, number or text."""

    setting: Setting
    kind: str
    choices: tuple[str, ...]
    value: str  # as it stands in the control; "" for the default

    @property
    def label(self) -> str:
        return self.setting.name.replace("_", " ").capitalize()

    @property
    def default(self) -> str:
        """The default as words; "" for one that is computed or empty."""
        return "" if self.setting.default is None else _shown(self.setting.default)


def field_of(setting: Setting, given: dict[str, Any]) -> Field:
    value = given.get(setting.name, setting.default)
    shown = "" if value == setting.default else _shown(value)
    kinds = get_args(setting.type) or (setting.type,)
    choices = _choices(setting)
    if choices:
        return Field(setting, "choice", choices, shown)
    if bool in kinds:
        return Field(setting, "switch", ("true", "false"), shown)
    if int in kinds or float in kinds:
        return Field(setting, "number", (), shown)
    return Field(setting, "text", (), shown)


def _choices(setting: Setting) -> tuple[str, ...]:
    if setting.name == "backend":
        return ("auto", *rails())
    found: list[str] = []
    for kind in (setting.type, *get_args(setting.type)):
        if get_origin(kind) is not None:
            found += [value for value in get_args(kind) if isinstance(value, str)]
    return tuple(dict.fromkeys(found))


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def panels_of(fields: Sequence[Field]) -> list[tuple[Panel, list[Field]]]:
    """The controls by the groups of their settings, in their order; groups without any are left out."""
    members = [(panel, [field for field in fields if field.setting.panel == panel]) for panel in Panel]
    return [(panel, found) for panel, found in members if found]


def read_settings(given: Any, kind: type[T]) -> T:
    """An object of settings out of what a form sent: texts, as they would be typed. Raises BadValue."""
    if not isinstance(given, dict):
        raise BadValue("settings must be an object.")
    known(given, kind)
    declared = {setting.name: setting for setting in settings(kind)}
    chosen = {
        name: parsed(declared[name], text(value, name)) if isinstance(value, str) else value
        for name, value in given.items()
        if value not in ("", None)
    }
    return kind(**chosen)


def checked(config: TrainConfig, site: Site, runs: Runs) -> TrainConfig:
    """Settings whose model, backend and paths are such as the page may use. Raises BadValue, FileMissing."""
    checked_model(config.model, site, runs)
    if config.backend not in ("auto", *rails()):
        raise BadValue(f"backend is {config.backend!r}, but must be one of auto, {', '.join(rails())}.")
    output = (site.here / config.output).resolve()
    if not site.folders.shows(output):
        raise BadValue("output must lie below one of the page's folders.", fix="Leave it at output, or add --root.")
    if config.eval_data:
        return dataclasses.replace(config, eval_data=_data_path(site, config.eval_data))
    return config


def data_paths(site: Site, value: Any) -> list[str]:
    """The files, or data sets of the hub, that a form names: one address, or a list. Raises BadValue, FileMissing."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise BadValue("no data is chosen.", fix="Choose a file of examples.")
    return [_data_path(site, name) for name in names]


def _data_path(site: Site, name: str) -> str:
    """The file at an address, or a data set of the hub. Raises FileMissing."""
    if name == EXAMPLE:
        return str(EXAMPLE_DATA)
    try:
        return str(site.folders.find(name))
    except FileMissing:
        of_hub = _HUB_DATA.fullmatch(name) and name.partition("/")[0] not in site.folders.roots
        if of_hub and not is_data(name):
            return name
        raise


def address_of(site: Site, path: str) -> str:
    """What a form calls a file of an earlier run; "" for one that the page does not show."""
    return EXAMPLE if path == str(EXAMPLE_DATA) else site.folders.address_of(Path(path)) or ""


def newest(files: Sequence[tuple[str, int]]) -> str:
    """The newest file of rows; texts are often notes beside them."""
    rows = [address for address, _ in files if not address.lower().endswith((".txt", ".md"))]
    return rows[0] if rows else EXAMPLE


def changed(config: Any) -> dict[str, Any]:
    """What is not at its default."""
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != field.default
    }
