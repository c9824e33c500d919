"""What of a value does not match a JSON schema, as far as schemas of tools go: a part of JSON Schema, no more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list, tuple),
    "object": (Mapping,),
    "null": (type(None),),
}
_NAMES = ((bool, "boolean"), (str, "string"), (int, "integer"), (float, "number"), (Mapping, "object"), (list, "array"))
_DEEPEST = 32  # levels; a schema may refer to itself


def mismatches(value: Any, schema: Any, name: str, root: Any = None, depth: int = 0) -> Iterator[str]:
    """Each fault of `value` in words; `name` says which value it is, `root` is the schema that $ref points into."""
    root = schema if root is None else root
    schema = _referred(schema, root)
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return
    if "anyOf" in schema or "oneOf" in schema:
        choices = schema.get("anyOf") or schema.get("oneOf")
        if isinstance(choices, list) and not any(_fits(value, each, root, depth) for each in choices):
            yield f"{name} matches none of its {len(choices)} schemas"
        return
    wanted = schema.get("type")
    if wanted is not None and not _is_of(value, wanted):
        yield f"{name} is {_type_name(value)}, not {_words(wanted)}"
        return
    enum = schema.get("enum")
    if isinstance(enum, list) and enum and value not in enum:
        yield f"{name} is {value!r}, not one of {', '.join(map(repr, enum))}"
    if isinstance(value, Mapping):
        yield from _of_object(value, schema, name, root, depth)
    if isinstance(value, list):
        for number, item in enumerate(value, 1):
            yield from mismatches(item, schema.get("items"), f"{name}[{number}]", root, depth + 1)


def _of_object(value: Mapping[str, Any], schema: Mapping[str, Any], name: str, root: Any, depth: int) -> Iterator[str]:
    properties = schema.get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    required = schema.get("required")
    for key in required if isinstance(required, list) else []:
        if isinstance(key, str) and key not in value:
            yield f"{name} lacks {key!r}"
    for key, item in value.items():
        if key in properties:
            yield from mismatches(item, properties[key], f"{name}.{key}", root, depth + 1)
        elif properties and schema.get("additionalProperties") in (None, False):
            yield f"{name} has {key!r}, which the schema does not"


def _fits(value: Any, schema: Any, root: Any, depth: int) -> bool:
    return next(mismatches(value, schema, "", root, depth + 1), None) is None


def _referred(schema: Any, root: Any) -> Any:
    """The schema that a $ref stands for; the schema itself where there is none, or it leads nowhere."""
    for _ in range(_DEEPEST):
        path = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(path, str) or not path.startswith("#/"):
            return schema
        schema = root
        for part in path[2:].split("/"):
            schema = schema.get(part) if isinstance(schema, Mapping) else None
    return None


def _is_of(value: Any, wanted: Any) -> bool:
    names = wanted if isinstance(wanted, list) else [wanted]
    return any(_is_one(value, name) for name in names)


def _is_one(value: Any, name: Any) -> bool:
    kinds = _TYPES.get(name) if isinstance(name, str) else None
    if kinds is None:  # a type that JSON does not have says nothing
        return True
    if isinstance(value, bool):
        return bool(name == "boolean")
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, kinds)


def _type_name(value: Any) -> str:
    return next((name for kind, name in _NAMES if isinstance(value, kind)), "null")


def _words(wanted: Any) -> str:
    return " or ".join(map(str, wanted)) if isinstance(wanted, list) else str(wanted)
