"""Parsing text that a chat template has already rendered, back into turns."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Markup:
    """Regular expressions for the markup of a template family: before the turns, one or more turns, after them.

    The groups of `turn` are `role` and `content`, or named after roles. `markers` are strings of the markup; a text
    that begins with the first of them is meant as a conversation.
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
        r"\s*",
        r"\s*(?:<s>)?\s*\[INST\] ?(?:<<SYS>>\n(?P<system>.*?)\n<</SYS>>\n\n)?(?P<user>.*?) ?\[/INST\] ?"
        r"(?P<assistant>.*?) ?</s>",
        r"\s*",
        ("[INST]", "[/INST]", "<s>", "</s>", "<<SYS>>", "<</SYS>>", "[AVAILABLE_TOOLS]", "[TOOL_CALLS]"),
    ),
    Markup(
        r"(?:<bos>)?\s*",
        r"<start_of_turn>(?P<role>\w+)\n(?P<content>.*?)<end_of_turn>\n?",
        r"\s*(?:<eos>)?\s*",
        ("<start_of_turn>", "<end_of_turn>"),
    ),
    Markup(
        r"\s*",
        r"<\|(?P<role>system|user|assistant)\|>\n(?P<content>.*?)(?:</s>|<\|end\|>|<\|endoftext\|>)\n?",
        r"\s*(?:<\|endoftext\|>)?\s*",
        ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
    ),
)
MARKERS = tuple(markup.markers[0] for markup in MARKUPS)  # by which a conversation is known
# Transcripts: the names of the speakers at the beginning of paragraphs or lines.
_SPEAKERS = (
    (re.compile(r"(?:\A|\n)\s*### (Human|Assistant|User|System|Instruction|Input|Response):[ \t]*\n?"), "###"),
    (re.compile(r"(?:\A|\n\n)\s*(Human|Assistant):[ \t]*"), "Human:"),
)
_INSTRUCTION, _INPUT = "instruction", "input"
_PREAMBLE = "Below is an instruction"  # Alpaca's
_BOS = re.compile(r"\s*(?:<s>|<bos>|<\|begin_of_text\|>|<\|endoftext\|>)?\s*")


def parse(text: str) -> list[tuple[str, str]] | None:
    """Roles and contents if the whole text is turns of one template family, or a transcript; else None."""
    for markup in MARKUPS:
        if markup.markers[0] in text and (turns := _turns(text, markup)):
            return turns
    for speaker, sign in _SPEAKERS:
        if sign in text and (turns := _transcript(text, speaker)):
            return turns
    return None


def begins_with_markup(text: str) -> bool:
    """Whether the text begins like one that a chat template has rendered."""
    begun = _BOS.match(text)
    rest = text[begun.end() :] if begun else text
    return rest.startswith(MARKERS) or rest.startswith("<|system|>\n")


def _turns(text: str, markup: Markup) -> list[tuple[str, str]]:
    """The turns; an empty list if there is other text between them, or a marker inside one."""
    begun = re.match(markup.before, text)
    position = begun.end() if begun else 0
    turn = re.compile(markup.turn, re.DOTALL)
    turns: list[tuple[str, str]] = []
    while match := turn.match(text, position):
        position = match.end()
        named = match.groupdict()
        spoken = [(role, content) for role, content in named.items() if content is not None]
        turns += [(named["role"], named["content"])] if "role" in named else spoken
    broken = any(marker in content for _, content in turns for marker in markup.markers)
    return turns if not broken and re.compile(markup.after).fullmatch(text, position) else []


def _transcript(text: str, speaker: re.Pattern[str]) -> list[tuple[str, str]]:
    """The turns of a transcript; an empty list if it does not begin with a speaker, or has no answer."""
    matches = list(speaker.finditer(text))
    preamble = text[: matches[0].start()].strip() if matches else ""
    if not matches or (preamble and not preamble.startswith(_PREAMBLE)):
        return []
    turns: list[tuple[str, str]] = [("system", preamble)] if preamble else []
    for match, following in zip(matches, [*matches[1:], None], strict=True):
        role = match[1].lower()
        content = text[match.end() : following.start() if following else len(text)].rstrip()
        if role == _INPUT and turns and turns[-1][0] == "user":
            turns[-1] = ("user", f"{turns[-1][1]}\n\n{content}")
        else:
            turns.append(("user" if role == _INSTRUCTION else role, content))
    answered = any(role in ("assistant", "response") for role, _ in turns)
    return turns if answered and all(role != _INPUT for role, _ in turns) else []
