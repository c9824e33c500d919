"""Parsing text that a chat template has already rendered, back into turns."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Markup:
    """Regular expressions for the markup of a template family: before the turns, one or more turns, after them.

    The groups of `turn` are `role` and `content`, or named after roles.
    """

    before: str
    turn: str
    after: str
    markers: tuple[str, ...]


MARKUPS = (
    Markup(
        r"(?:<s>|<\|endoftext\|>)?\s*",
        r"<\|im_start\|>(?P<role>\w+)\n(?P<content>.*?)<\|im_end\|>\n?",
        r"\s*(?:</s>|<\|endoftext\|>)?\s*",
        ("<|im_start|>", "<|im_end|>"),
    ),
    Markup(
        r"(?:<\|begin_of_text\|>)?\s*",
        r"<\|start_header_id\|>(?P<role>\w+)<\|end_header_id\|>\n\n(?P<content>.*?)<\|eot_id\|>",
        r"\s*(?:<\|end_of_text\|>)?\s*",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|begin_of_text|>", "<|end_of_text|>"),
    ),
    Markup(
        r"(?:<s>)?\s*",
        r" ?\[INST\] ?(?P<user>.*?) ?\[/INST\] ?(?P<assistant>.*?) ?</s>",
        r"\s*",
        ("[INST]", "[/INST]", "<s>", "</s>", "<<SYS>>", "<</SYS>>", "[AVAILABLE_TOOLS]", "[TOOL_CALLS]"),
    ),
)


def parse(text: str) -> list[tuple[str, str]] | None:
    """Roles and contents if the whole text is turns of one template family; else None."""
    for markup in MARKUPS:
        if markup.markers[0] in text and (turns := _turns(text, markup)):
            return turns
    return None


def _turns(text: str, markup: Markup) -> list[tuple[str, str]]:
    """The turns; an empty list if there is other text between them, or a marker inside one."""
    begun = re.match(markup.before, text)
    position = begun.end() if begun else 0
    turn = re.compile(markup.turn, re.DOTALL)
    turns: list[tuple[str, str]] = []
    while match := turn.match(text, position):
        position = match.end()
        named = match.groupdict()
        turns += [(named["role"], named["content"])] if "role" in named else list(named.items())
    broken = any(marker in content for _, content in turns for marker in markup.markers)
    return turns if not broken and re.compile(markup.after).fullmatch(text, position) else []
