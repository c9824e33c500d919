"""Read a Modelfile as Ollama reads it. Its own rules: parser/parser.go.

An instruction is a word at the start of a line, followed by a value: the rest of the line without blanks around it, or
what stands between quotes, or between three quotes; a quoted value may go on over several lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bp_core.errors import BadValue

_THREE = '"""'
_INSTRUCTIONS = (
    "from",
    "parameter",
    "template",
    "system",
    "license",
    "adapter",
    "message",
    "renderer",
    "parser",
    "requires",
)
_ROLES = ("system", "user", "assistant")
_BEGINNING = re.compile(r"(\w+)[ \t]+(.*)", re.S)
_FIX = "Correct that line; https://docs.ollama.com/modelfile says how a Modelfile is written."


@dataclass(frozen=True)
class Instruction:
    """`name` is in lower case; `key` is the parameter's name or the message's role, "" for other instructions."""

    name: str
    value: str
    line: int
    key: str = ""


def parse(text: str, place: Path) -> Iterator[Instruction]:
    """The instructions of a Modelfile. Raises BadValue with the line of what Ollama would refuse."""
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        number, line = at + 1, lines[at].lstrip()
        at += 1
        if not line or line.startswith("#"):
            continue
        name, rest = _split(line, number, place)
        key = ""
        if name in ("parameter", "message"):
            key, rest = _split(rest, number, place, known=_ROLES if name == "message" else None)
        value = _unquoted(rest)
        while value is None and at < len(lines):
            rest += "\n" + lines[at]
            at += 1
            value = _unquoted(rest)
        if value is None:
            raise _wrong("a quote is not closed", number, place)
        yield Instruction(name, value, number, key)


def _split(line: str, number: int, place: Path, known: tuple[str, ...] | None = _INSTRUCTIONS) -> tuple[str, str]:
    """The first word of a line, and the rest."""
    match = _BEGINNING.fullmatch(line.lstrip())
    if match is None:
        raise _wrong(f"{line.strip()!r} has no value", number, place)
    word = match[1].lower() if known else match[1]
    if known and word not in known:
        raise _wrong(f"{match[1]!r} is none of {', '.join(known).upper()}", number, place)
    return word, match[2]


def _unquoted(text: str) -> str | None:
    """A value without its quotes; None while they are not closed."""
    text = text.strip()
    for quotes in (_THREE, '"'):
        if text.startswith(quotes):
            closed = len(text) >= 2 * len(quotes) and text.endswith(quotes)
            return text[len(quotes) : -len(quotes)] if closed else None
    return text


def _wrong(what: str, number: int, place: Path) -> BadValue:
    return BadValue(f"{what}.", where=f"{place}:{number}", fix=_FIX)
