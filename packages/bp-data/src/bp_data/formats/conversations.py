"""The formats of demonstrations: each is converted to turns, or stays raw text."""

from __future__ import annotations

from bp_core.errors import BadRow

from .fields import Value, shown, string
from .records import Turn
from .rendered_text import parse
from .turns import LOSS_MARK, ROLES, read_turns, turn

PAIRS = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"))


def openai(value: Value, where: str) -> list[Turn]:
    return system(value, where) + read_turns(value["messages"], "'messages'", where)


def sharegpt(value: Value, where: str) -> list[Turn]:
    return system(value, where) + read_turns(value["conversations"], "'conversations'", where)


def alpaca(value: Value, where: str) -> list[Turn]:
    return [*instruction(value, where), turn("assistant", string(value, "output", where))]


def instruction(value: Value, where: str) -> list[Turn]:
    """The turns of an Alpaca row before its answer."""
    question = string(value, "instruction", where)
    if value.get("input"):
        question += "\n\n" + string(value, "input", where)
    return [*system(value, where), *_history(value, where), turn("user", question)]


def _history(value: Value, where: str) -> list[Turn]:
    """Earlier exchanges, given as [user, assistant] pairs."""
    pairs = value.get("history", [])
    if not isinstance(pairs, list | tuple) or any(not isinstance(p, list | tuple) or len(p) != 2 for p in pairs):
        raise BadRow(f"'history' must be a list of [user, assistant] pairs, not {shown(pairs)}.", where=where)
    turns = []
    for number, (asked, answered) in enumerate(pairs, 1):
        pair, name = {"user": asked, "assistant": answered}, f"pair {number} of 'history'"
        turns += [turn(role, string(pair, role, where, name)) for role in pair]
    return turns


def pair(value: Value, where: str) -> list[Turn]:
    """A prompt and its completion, each a text or a list of turns. Answers in the prompt carry no loss."""
    prompt, answer = next(keys for keys in PAIRS if all(key in value for key in keys))
    before = [
        {**item, LOSS_MARK: False} if item["role"] == "assistant" else item
        for item in texts(value, prompt, "user", where)
    ]
    return system(value, where) + before + texts(value, answer, "assistant", where)


def texts(value: Value, key: str, role: str, where: str) -> list[Turn]:
    """The list of turns under `key`, or one turn of `role` with the text there."""
    item = value[key]
    if isinstance(item, list | tuple) and item:
        return read_turns(item, repr(key), where)
    return [turn(role, string(value, key, where))]


def raw(value: Value, where: str) -> list[Turn] | str:
    """Raw text, or the turns of text that a chat template has rendered."""
    text = string(value, "text", where)
    return rendered(text) if is_rendered(text) else text


def is_rendered(text: str) -> bool:
    """Whether the text is a conversation with answers, in some template's markup."""
    answers = [item["content"].strip() for item in rendered(text) if item["role"] == "assistant"]
    return bool(answers) and all(answers)


def rendered(text: str) -> list[Turn]:
    """The turns of a text in a chat template's markup; an empty list for other text."""
    turns = [turn(ROLES.get(role, ""), content) for role, content in parse(text) or []]
    return turns if all(item["role"] for item in turns) else []


def system(value: Value, where: str) -> list[Turn]:
    text = string(value, "system", where) if "system" in value else ""
    return [turn("system", text)] if text else []
