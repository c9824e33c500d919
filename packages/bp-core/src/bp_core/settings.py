"""Settings classes: frozen dataclasses whose fields have help, a default, and what else is true of them beside it.

Values are checked when one is made. Command line, environment, docs, lock and model card derive from the fields.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Flag, StrEnum, auto
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from .errors import BadValue
from .other_names import OTHER_NAMES

T = TypeVar("T")


class Panel(StrEnum):
    """The groups in which the command line and the docs show settings, in this order.

    One stands beside the first of its settings, and holds for those after it.
    """

    MODEL = "Model"
    DATA = "Data"
    METHOD = "Method"
    STAGES = "Stages"
    ADAPTER = "Adapter"
    OPTIMIZER = "Optimizer"
    SPEED = "Memory and speed"
    UNATTENDED = "Unattended"
    OUTPUT = "Output"


class Trait(Flag):
    """What else is true of a setting. One without any changes what is learned, and may be told to anybody."""

    NONE = 0
    FREE = auto()  # a run may go on with another value: nothing learned depends on it, or only through another setting
    NEEDS = auto()  # memory, disk or time depend on it: estimate-vram asks for it
    LOCAL = auto()  # it names something of this machine or of the user's own: a model card leaves it out
    MERGED = auto()  # adapters are merged, and their losses compared, only where it is the same
    NAMES = auto()  # several names with commas between; in Python also a list of them, or a dict of name=name


@dataclass(frozen=True)
class OptionName:
    """The name of a setting's option on the command line, without dashes, where it is not the setting's own."""

    name: str


@dataclass(frozen=True)
class Setting:
    """One field of a settings class, with all that is declared beside it."""

    name: str
    type: Any
    default: Any
    help: str
    range: Range | None
    panel: Panel | None
    traits: Trait
    option_name: OptionName | None = None

    @property
    def option(self) -> str:
        """Its option on the command line."""
        name = self.option_name.name if self.option_name else self.name
        return "--" + name.replace("_", "-")

    def problem(self, value: object) -> str | None:
        """What is wrong with a value, in words."""
        return _wrong_type(self, value) or (self.range.problem(value) if self.range else None)


@dataclass(frozen=True)
class Range:
    """What a number may be, both ends included. It stands beside the help of a setting."""

    low: float
    high: float = math.inf

    def problem(self, value: object) -> str | None:
        """What is wrong with a value, in words; None for one within, or that is no number."""
        if not isinstance(value, int | float) or (self.low <= value <= self.high and math.isfinite(value)):
            return None
        if not math.isfinite(value):
            return "must be a finite number"
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


def only_where(name: str, values: Collection[object], text: str, *changed: str) -> Iterator[Clash]:
    """The settings `changed` must stay at their default unless setting `name` has one of `values`.

    {} in the text stands for the name of each.
    """
    for setting in changed:
        yield Clash((name,), lambda value: value not in values, text.format(setting), setting)


def settings(config: type) -> tuple[Setting, ...]:
    """The fields of a settings class with type, default and help, those of a panel together."""
    if config not in _KNOWN_CLASSES:
        order = [None, *Panel]
        _KNOWN_CLASSES[config] = tuple(sorted(_declared(config), key=lambda setting: order.index(setting.panel)))
    return _KNOWN_CLASSES[config]


_KNOWN_CLASSES: dict[type, tuple[Setting, ...]] = {}  # reading the hints of a class takes milliseconds


def _declared(config: type) -> Iterator[Setting]:
    hints = get_type_hints(config, include_extras=True)
    panel = None
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        assert get_origin(hint) is Annotated, f"{config.__name__}.{field.name} has no help"
        kind, text, *marks = get_args(hint)
        panel = _first(Panel, marks) or panel
        traits = _first(Trait, marks) or Trait.NONE
        option = _first(OptionName, marks)
        yield Setting(field.name, kind, field.default, text, _first(Range, marks), panel, traits, option)


def names(config: type, traits: Trait = Trait.NONE) -> list[str]:
    """The names of a class's settings that have all of `traits`."""
    return [setting.name for setting in settings(config) if traits in setting.traits]


def idle(values: Mapping[str, Any], clashes: Iterable[Clash]) -> set[str]:
    """The settings that have no effect beside these values, and so must stay at their default."""
    found = set()
    for clash in clashes:
        judged = [values.get(name) for name in clash.names]
        if clash.changed and clash.wrong(*judged):
            found.add(clash.changed)
    return found


def check(config: Any, clashes: Iterable[Clash] = ()) -> None:
    """Raise BadValue that lists every field of the wrong type or out of range, and what does not go together.

    A Path, a list of names and numpy's numbers are first made what the field holds: text and Python's numbers.
    """
    problems = {}
    defaults = {}
    for setting in settings(type(config)):
        defaults[setting.name] = setting.default
        value = _plain(setting, getattr(config, setting.name))
        object.__setattr__(config, setting.name, value)  # it is frozen, and being made
        problem = setting.problem(value)
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


def known(given: Iterable[str], config: type) -> None:
    """Raise BadValue for names that are no field of `config`, suggesting the nearest one."""
    fields = [setting.name for setting in settings(config)]
    problems = []
    for name in given:
        if name not in fields:
            near = meant(name, fields)
            problems.append(f"there is no setting {name!r}" + (f"; did you mean {near!r}?" if near else ""))
    if problems:
        raise BadValue("; ".join(problems))


def meant(name: str, fields: Sequence[str]) -> str | None:
    """The setting that an unknown name probably stands for: by what other trainers call it, or the nearest one."""
    other = OTHER_NAMES.get(name.lower())
    if other in fields:
        return other
    return next(iter(difflib.get_close_matches(name.lower(), fields, 1)), None)


def _quoted(name: str) -> str:
    """A name as it stands in a list of names: one with a comma in double quotes."""
    return f'"{name}"' if "," in name else name


def _plain(setting: Setting, value: Any) -> Any:
    """What Python people give for text and numbers, as text and Python's numbers; anything else as it is."""
    options = get_args(setting.type) or (setting.type,)
    if isinstance(value, os.PathLike) and str in options:
        return os.fspath(value)
    if Trait.NAMES in setting.traits and isinstance(value, Mapping):
        return ",".join(f"{name}={_quoted(str(column))}" for name, column in value.items())
    if Trait.NAMES in setting.traits and isinstance(value, list | tuple | set | frozenset):
        names = sorted(value) if isinstance(value, set | frozenset) else value
        return ",".join(_quoted(str(name)) for name in names)
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if int in options and hasattr(value, "__index__"):
        return operator.index(value)
    return float(value) if float in options and hasattr(value, "__float__") else value


def _first(kind: type[T], marks: Iterable[object]) -> T | None:
    return next((mark for mark in marks if isinstance(mark, kind)), None)


def _wrong_type(setting: Setting, value: object) -> str | None:
    options = list(get_args(setting.type) or (setting.type,))
    words = [word for kind in options for word in get_args(kind)]
    if get_origin(setting.type) is Literal:
        words = options
    if words and value is not None:
        if value in words:
            return None
        near = difflib.get_close_matches(str(value), words, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"must be one of {', '.join(map(str, words))}{hint}"
    if value is None:
        return None if type(None) in options else "must have a value"
    if isinstance(value, bool) and bool not in options:
        return "must be a number"
    if float in options and isinstance(value, int | float):
        return None
    wanted = tuple(kind for kind in options if isinstance(kind, type) and kind is not type(None))
    return None if isinstance(value, wanted) else f"must be of type {wanted[0].__name__}"
