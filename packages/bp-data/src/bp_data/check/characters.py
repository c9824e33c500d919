"""Unwanted characters: removing those that can be removed safely, and finding text that was decoded wrongly."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from .secrets import Spot

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
# Not the joiners U+200C and U+200D, which Persian, Indic scripts and emoji need; nor U+200B after a letter of a script
# that writes no spaces (Thai, Lao, Burmese, Khmer).
_INVISIBLE = re.compile(
    r"[\u00ad\u2060\ufeff\u202a-\u202e\u2066-\u2069]|(?<![\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff])\u200b"
)
_CLEANED = (("control-character", _CONTROL), ("invisible-character", _INVISIBLE))
# The first byte of a UTF-8 character, read as Windows-1252, and what its other bytes become.
_REST = "\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122"
_MOJIBAKE = re.compile(f"[\u00c2-\u00df][{_REST}]|[\u00e0-\u00ef][{_REST}]{{2}}|\u00f0[{_REST}]{{3}}")
_MIXED = re.compile(r"[A-Za-z][\u0400-\u04ff]|[\u0400-\u04ff][A-Za-z]")
_WORD, _ENDS_IN_WORD = re.compile(r"\w*"), re.compile(r"\w+$")
_AROUND = 20  # characters shown on either side
_DEEP = 50  # levels of lists and objects in a row; what lies deeper stays as it is
# Under these keys white space is learned as it stands: raw text, and code in the arguments of calls.
_AS_IS = {"text", "tool_calls", "function_call", "function", "arguments", "tools", "functions", "parameters"}


Removed = dict[str, list[str]]  # what was removed, by the kind of finding that it is


def clean(value: Mapping[str, object]) -> tuple[Mapping[str, object], Removed]:
    """The row without control characters, invisible characters and white space at the end, and what was removed.

    White space at the beginning, and that of texts with several lines, is kept: it may be indentation. So is all of it
    in raw text and in tool calls. If nothing was removed the same object is returned.
    """
    removed: Removed = {}
    cleaned = {key: _clean(item, key not in _AS_IS, removed, _DEEP) for key, item in value.items()}
    return (cleaned if removed else value), removed


def named(characters: Iterable[str]) -> str:
    """Invisible characters by their code points: U+0007."""
    return ", ".join(dict.fromkeys(f"U+{ord(sign):04X}" for text in characters for sign in text))


def _clean(value: object, strip: bool, removed: Removed, levels: int) -> object:
    if isinstance(value, str):
        return _clean_text(value, strip, removed)
    if isinstance(value, dict) and levels:
        return {name: _clean(item, strip and name not in _AS_IS, removed, levels - 1) for name, item in value.items()}
    if isinstance(value, list) and levels:
        return [_clean(item, strip, removed, levels - 1) for item in value]
    return value


def _clean_text(text: str, strip: bool, removed: Removed) -> str:
    if not text.isprintable():  # line feeds are not printable either
        for kind, pattern in _CLEANED[: 1 if text.isascii() else 2]:
            if found := pattern.findall(text):
                removed.setdefault(kind, []).extend(found)
                text = pattern.sub("", text)
    stripped = text.rstrip()
    if strip and text != stripped and "\n" not in stripped:
        removed.setdefault("outer-space", []).append(text[len(stripped) :])
        return stripped
    return text


def oddities(text: str) -> Iterator[Spot]:
    """Signs of text that was decoded wrongly, or that mixes scripts in a word."""
    if text.isascii():
        return
    if (at := text.find("\ufffd")) >= 0:
        yield "lost-character", f"{text.count(chr(0xFFFD))} × U+FFFD", at
    for match in _MOJIBAKE.finditer(text):
        if right := _decoded(match[0]):
            yield "mojibake", f"{match[0]!r} was {right!r}", match.start()
            break
    if mixed := _MIXED.search(text):
        word = _ENDS_IN_WORD.search(text, max(0, mixed.start() - _AROUND), mixed.end())
        rest = _WORD.match(text, mixed.end(), mixed.end() + _AROUND)
        shown = (word[0] if word else "") + (rest[0] if rest else "")
        yield "mixed-scripts", f"{shown!r} mixes Latin and Cyrillic letters", mixed.start()


def _decoded(text: str) -> str:
    """The original of UTF-8 text that was decoded as Windows-1252; "" if it was not."""
    try:
        single = b"".join(sign.encode("latin-1" if "\x80" <= sign <= "\x9f" else "cp1252") for sign in text)
        return single.decode("utf-8")
    except UnicodeError:
        return ""
