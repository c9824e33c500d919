"""A call of a tool, and whether calls are the expected ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Call:
    """The name of a tool, and its arguments: a JSON object, or None for what is none."""

    name: str
    arguments: Mapping[str, Any] | None

    @property
    def key(self) -> tuple[str, str]:
        """The same for calls that are equal as JSON."""
        return self.name, json.dumps(_plain(self.arguments), sort_keys=True)

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "arguments": self.arguments}


def same_names(first: Iterable[Call], second: Iterable[Call]) -> bool:
    """Whether both call the same tools, in any order."""
    return sorted(call.name for call in first) == sorted(call.name for call in second)


def same_calls(first: Iterable[Call], second: Iterable[Call]) -> bool:
    """Whether both call the same tools with arguments that are equal as JSON, in any order."""
    return sorted(call.key for call in first) == sorted(call.key for call in second)


def _plain(value: Any) -> Any:
    """A JSON value in which numbers that are equal are written alike."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
