"""Rendering conversations with marked turns, to find the texts between the marks."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from bp_core.errors import TemplateUnusable

from ..chat_template import ChatTemplate, Tools, Turns


def mark(name: str) -> str:
    """A text that no template has, between private-use characters, which none treats specially."""
    return f"\ue000{zlib.crc32(name.encode()):010}\ue001"


def between(text: str, *marks: str) -> Sequence[str]:
    """The texts between the marks, which must occur once each, in this order."""
    parts = []
    for item in marks:
        if text.count(item) != 1:
            raise TemplateUnusable("the chat template does not write every turn once, in order.")
        part, text = text.split(item)
        parts.append(part)
    return [*parts, text]


def prompt_or_none(chat: ChatTemplate, turns: Turns, tools: Tools = None) -> str | None:
    """The prompt; None if the template refuses the conversation."""
    try:
        return chat.prompt(turns, tools)
    except TemplateUnusable:
        return None
