"""Columns and roles under the user's names: renamed to ours, or left out, before the format of a row is looked for."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from bp_core.config import DataConfig
from bp_core.errors import BadValue, UnknownFormat

from .context import Remark, Tell

Config = TypeVar("Config", bound=DataConfig)
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "response": "assistant",
    "chatbot": "assistant",
    "llm": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
    "ipython": "tool",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool_calls": "assistant",
}
ROLE_KEYS = ("role", "from", "speaker", "author", "sender")
# Columns of ours that a row may have, but need not.
_MAY_BE_MISSING = {"system", "input", "history", "tools", "reasoning_content", "label", "kto_tag"}
_COMPARED = ("chosen", "rejected")


def columns_in(text: str) -> dict[str, str]:
    """The columns of a setting, from our name to the file's: "prompt=question,completion=reply". Raises BadValue."""
    return _pairs(text, "columns", "Write it like prompt=question,completion=reply.")


def ignored_in(text: str) -> tuple[str, ...]:
    """The names in a setting: "summary,label". Raises BadValue."""
    names = tuple(_unquoted(part) for part in _split(text, ",")) if text else ()
    if not all(names):
        message = f"ignore_columns {text!r} must be names with commas between."
        raise BadValue(message, fix="Write it like summary,label.")
    return names


def roles_in(text: str) -> dict[str, str]:
    """The roles of a setting, from the file's name to ours: "user=customer,assistant=agent". Raises BadValue.

    Several of theirs may be one of ours: user=customer,user=guest.
    """
    roles = {}
    for part in _split(text, ",") if text else ():
        ours, _, theirs = part.partition("=")
        if ours.strip().lower() not in ROLES or not theirs.strip():
            fix = "Write it like user=customer,assistant=agent; ours are system, user, assistant and tool."
            raise BadValue(f"roles {text!r} must be pairs of our name and the file's.", fix=fix)
        roles[_unquoted(theirs).lower()] = ROLES[ours.strip().lower()]
    return roles


def written(columns: Mapping[str, str]) -> str:
    """The value of --columns for these columns, quoted for a shell where that is needed."""
    return shlex.quote(",".join(f"{name}={_quoted(column)}" for name, column in columns.items()))


def written_names(names: Iterable[str]) -> str:
    """The value of --ignore-columns for these names."""
    return shlex.quote(",".join(map(_quoted, names)))


def as_it_is(config: Config) -> Config:
    """The same settings without renaming, for what must keep the file's names."""
    return replace(config, columns="", ignore_columns="", roles="")


class Columns:
    """Renames the columns and roles of rows, one row after another, and knows which names never occurred."""

    def __init__(self, config: DataConfig) -> None:
        self._columns = columns_in(config.columns)
        self._ignored = ignored_in(config.ignore_columns)
        self._roles = roles_in(config.roles)
        clash = [name for name in self._ignored if name in self._columns.values()]
        if clash:
            raise BadValue(f"column {clash[0]!r} is both named in columns and ignored.", fix="Leave it out of one.")
        self._taken = {*self._columns, *self._columns.values()}
        if _COMPARED[0] in self._columns.values() and _COMPARED[0] not in self._columns:
            self._taken.add(_COMPARED[1])  # whoever takes the chosen answer alone does not compare
        optional = {self._columns[name] for name in self._columns.keys() & _MAY_BE_MISSING}
        self._unseen = {*optional, *self._ignored}
        self._unseen_roles = set(self._roles)
        self._near: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self._columns or self._ignored or self._roles)

    def rename(self, value: Mapping[str, object], where: str) -> Mapping[str, object]:
        """The row under our names. Raises UnknownFormat for a missing column."""
        value = {str(key): item for key, item in value.items()}
        self._note(value)
        named = {}
        for name, column in self._columns.items():
            if column in value:
                named[name] = value[column]
            elif name not in _MAY_BE_MISSING:
                raise self._missing(name, column, value, where)
        rest = {key: item for key, item in value.items() if key not in self._taken and key not in self._ignored}
        if self._roles:
            return {key: self._with_roles(item) for key, item in (named | rest).items()}
        return named | rest

    def tell_unseen(self, tell: Tell, where: str | None) -> None:
        """At the end of the data, tell which names never occurred."""
        fix = "Correct the name, or leave it out."
        for name in sorted(self._unseen):
            message = f"no row has the column {name!r}.{self._near.get(name, '')}"
            tell(Remark("missing-column", where or "", message, fix))
        for name in sorted(self._unseen_roles):
            message = f"no turn has the role {name!r}, which --roles names"
            tell(Remark("missing-column", where or "", message, fix))

    def _note(self, value: Mapping[str, object]) -> None:
        if self._unseen:
            self._unseen -= value.keys()
            for name in self._unseen:
                self._near.setdefault(name, _hint(name, value))

    def _missing(self, name: str, column: str, value: Mapping[str, object], where: str) -> UnknownFormat:
        listed = ", ".join(map(repr, value))
        message = f"there is no column {column!r} for {name!r}; the columns are {listed}.{_hint(column, value)}"
        return UnknownFormat(message, where=where, fix="Name columns that every row has.")

    def _with_roles(self, item: object) -> object:
        """The value with the roles of its turns under our names."""
        if isinstance(item, list | tuple):
            return [self._with_roles(part) for part in item]
        if not isinstance(item, Mapping):
            return item
        return {key: self._role(part) if key in ROLE_KEYS else part for key, part in item.items()}

    def _role(self, role: Any) -> Any:
        if isinstance(role, list | tuple):
            return [self._role(part) for part in role]
        name = role.strip().lower() if isinstance(role, str) else ""
        self._unseen_roles.discard(name)
        return self._roles.get(name, role)


def _hint(column: str, value: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(column, list(value), 1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _pairs(text: str, setting: str, fix: str) -> dict[str, str]:
    pairs = [_split(pair, "=") for pair in _split(text, ",")] if text else []
    named = {_unquoted(pair[0]): _unquoted(pair[1]) for pair in pairs if len(pair) == 2}
    if len(named) < len(pairs) or not all([*named, *named.values()]):
        message = f"{setting} {text!r} must be pairs of our name and the file's, each of ours once."
        raise BadValue(message, fix=fix)
    return named


def _split(text: str, sign: str) -> list[str]:
    """The parts between the signs that do not stand in double quotes."""
    return re.split(rf'{sign}(?=(?:[^"]*"[^"]*")*[^"]*$)', text)


def _unquoted(text: str) -> str:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1].replace('""', '"')
    return text


def _quoted(name: str) -> str:
    if name != name.strip() or any(sign in name for sign in ',="'):
        return '"' + name.replace('"', '""') + '"'
    return name
