"""Type drift: a key that has values of one type in most rows and of another in some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .findings import KEPT, Findings

_NAMES = {str: "a string", int: "a number", float: "a number", bool: "true or false", list: "a list", dict: "an object"}
_MOST = 10_000  # keys with their types; a file has a handful


@dataclass(slots=True)
class _TypePlaces:
    count: int = 0
    places: list[str] = field(default_factory=list)


class TypeDrift:
    """Counts the types of each key's values, at the top of a row and inside its lists of objects."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, str], _TypePlaces] = {}
        self._full = ""

    def add(self, value: Mapping[str, object], place: str) -> None:
        for key, item in value.items():
            self._add(key, "", item, place)
            if isinstance(item, list):
                for inner in item:
                    if isinstance(inner, dict):
                        for name, part in inner.items():
                            self._add(key, name, part, place)

    def _add(self, key: str, name: str, value: object, place: str) -> None:
        if value is None:
            return
        slot = (key, name, _NAMES.get(type(value)) or type(value).__name__)
        found = self._seen.get(slot)
        if found is None:
            if len(self._seen) == _MOST:
                self._full = self._full or place
                return
            found = self._seen[slot] = _TypePlaces()
        found.count += 1
        if found.count <= KEPT:
            found.places.append(place)

    def add_findings(self, findings: Findings) -> None:
        """Add a finding for each value that is not of its key's most frequent type."""
        for key, kinds in self._by_key().items():
            usual = max(kinds, key=lambda kind: kinds[kind].count)
            for kind, found in kinds.items():
                if kind != usual:
                    for place in found.places:
                        findings.add("type-drift", place, f"{key!r} is {kind}, and elsewhere {usual}")
                    findings.more("type-drift", found.count - len(found.places))
        if self._full:
            findings.add("type-drift", self._full, f"from here on, keys beyond {_MOST} are not compared")

    def _by_key(self) -> dict[str, dict[str, _TypePlaces]]:
        keys: dict[str, dict[str, _TypePlaces]] = {}
        for (key, name, kind), found in self._seen.items():
            keys.setdefault(f"{key}[].{name}" if name else key, {})[kind] = found
        return keys
