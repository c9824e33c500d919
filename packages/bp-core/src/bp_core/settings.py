"""Settings classes: frozen dataclasses whose fields have help, a range and a default; checked when one is made.

Command line, environment and docs derive from them.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from .errors import BadValue


@dataclass(frozen=True)
class Setting:
    """One field of a settings class, as the command line and the docs need it."""

    name: str
    type: Any
    default: Any
    help: str
    range: Range | None = None


@dataclass(frozen=True)
class Range:
    """What a number may be, both ends included. It stands beside the help of a setting."""

    low: float
    high: float = math.inf

    def problem(self, value: object) -> str | None:
        """What is wrong with a value, in words; None for one within, or that is no number."""
        if not isinstance(value, int | float) or self.low <= value <= self.high:
            return None
        if math.isinf(self.high):
            return f"must be at least {self.low:g}"
        return f"must be between {self.low:g} and {self.high:g}"


@dataclass(frozen=True)
class Clash:
    """What does not go together: `wrong` judges the values of `names`, and `text` says why.

    It is not asked while the setting `changed` is at its default.
    """

    names: tuple[str, ...]
    wrong: Callable[..., bool]
    text: str
    changed: str = ""


def settings(config: type) -> Iterator[Setting]:
    """The fields of a settings class with type, default and help."""
    hints = get_type_hints(config, include_extras=True)
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        assert get_origin(hint) is Annotated, f"{config.__name__}.{field.name} has no help"
        kind, text, *rest = get_args(hint)
        yield Setting(field.name, kind, field.default, text, next((r for r in rest if isinstance(r, Range)), None))


def check(config: Any, clashes: Iterable[Clash] = ()) -> None:
    """Raise BadValue that lists every field of the wrong type or out of range, and what does not go together."""
    problems = {}
    defaults = {}
    for setting in settings(type(config)):
        defaults[setting.name] = setting.default
        value = getattr(config, setting.name)
        problem = _wrong_type(setting, value) or (setting.range and setting.range.problem(value))
        if problem:
            problems[setting.name] = f"{setting.name} is {value!r}, but {problem}"
    for clash in clashes:
        changed = clash.changed
        if problems.keys() & {*clash.names, changed}:
            continue
        if changed and getattr(config, changed) == defaults[changed]:
            continue
        if clash.wrong(*(getattr(config, name) for name in clash.names)):
            problems[clash.text] = clash.text
    if problems:
        raise BadValue("; ".join(problems.values()) + ".")


def known(names: Iterable[str], config: type) -> None:
    """Raise BadValue for names that are no field of `config`, suggesting the nearest one."""
    fields = [setting.name for setting in settings(config)]
    problems = []
    for name in names:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, 1)
            problems.append(f"there is no setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    if problems:
        raise BadValue("; ".join(problems))


def _wrong_type(setting: Setting, value: object) -> str | None:
    options = [kind for kind in (get_args(setting.type) or (setting.type,))]
    words = options if get_origin(setting.type) is Literal else [word for kind in options for word in get_args(kind)]
    if words and value is not None:
        near = difflib.get_close_matches(str(value), words, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return None if value in words else f"must be one of {', '.join(map(str, words))}{hint}"
    if value is None:
        return None if type(None) in options else "must have a value"
    if isinstance(value, bool) and bool not in options:
        return "must be a number"
    if float in options and isinstance(value, int | float):
        return None
    wanted = tuple(kind for kind in options if isinstance(kind, type) and kind is not type(None))
    return None if isinstance(value, wanted) else f"must be of type {wanted[0].__name__}"
