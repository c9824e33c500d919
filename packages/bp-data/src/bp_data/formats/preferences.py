"""Rows with two answers to compare, or one rated answer, in the formats in which such data is published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import takewhile

from bp_core.errors import BadRow, NoTarget

from .conversations import instruction, openai, rendered, sharegpt, system, texts
from .fields import Value, shown, string
from .records import Preference, Rated, Turn
from .tool_calls import read_tools
from .turns import read_turn, read_turns, turn, without_loss_marks

PREFERENCE, RATED = "preference", "kto"  # names of the formats
_VERDICTS = {"true": True, "1": True, "false": False, "0": False}
_NO_PROMPT = "Give the prompt in a column of its own, named prompt."


def preference(value: Value, where: str) -> Preference:
    """`chosen` and `rejected` after a prompt in any format; without one the prompt is what both begin with."""
    prompt, _ = without_loss_marks(_prompt(value, where))
    chosen, _ = without_loss_marks(_answer(value, "chosen", where))
    rejected, _ = without_loss_marks(_answer(value, "rejected", where))
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        check_answer(turns, repr(name), where)
    if chosen[0]["role"] != "assistant" or not prompt:
        shared = _shared(chosen, rejected)
        _check_copy(prompt, shared, where)
        prompt, chosen, rejected = shared, chosen[len(shared) :], rejected[len(shared) :]
    if not prompt:
        raise BadRow("'chosen' and 'rejected' do not begin with the same prompt.", where=where, fix=_NO_PROMPT)
    if chosen == rejected:
        raise NoTarget("'chosen' and 'rejected' are the same.", where=where, fix="Remove the row.")
    return Preference(PREFERENCE, prompt, chosen, rejected, where, read_tools(value, where))


def _prompt(value: Value, where: str) -> list[Turn]:
    """The turns before the two answers; empty if the row has no separate prompt."""
    if "conversations" in value:
        return sharegpt(value, where)
    if "messages" in value:
        return openai(value, where)
    if "instruction" in value:
        return instruction(value, where)
    key = next((key for key in ("prompt", "question") if key in value), None)
    return system(value, where) + texts(value, key, "user", where) if key else system(value, where)


def _answer(value: Value, key: str, where: str) -> list[Turn]:
    """An answer as text, a turn, a list of turns, or text that a chat template has rendered."""
    item = value[key]
    if isinstance(item, Mapping):
        return [read_turn(item, repr(key), where)]
    if isinstance(item, list | tuple):
        return read_turns(item, repr(key), where)
    text = string(value, key, where)
    return rendered(text) or [turn("assistant", text)]


def _shared(chosen: list[Turn], rejected: list[Turn]) -> list[Turn]:
    """The turns with which both begin, without the last turn of each, the answer."""
    pairs = zip(chosen[:-1], rejected[:-1], strict=False)
    return [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]


def _check_copy(prompt: list[Turn], shared: list[Turn], where: str) -> None:
    """Raises BadRow if there is a separate prompt that differs from the start of the conversations."""
    contents = [item["content"].strip() for item in shared]
    for item in prompt:
        if item["content"].strip() not in contents:
            message = f"the prompt {shown(item['content'])} is not what 'chosen' and 'rejected' begin with."
            raise BadRow(message, where=where, fix="Leave the prompt out, or the turns before the answers.")


def rated(read: Callable[[Value, str], list[Turn] | str], value: Value, where: str) -> Rated:
    """A conversation, which `read` reads, with a rating of its last answer."""
    key = "kto_tag" if "kto_tag" in value else "label"
    verdict = verdict_of(value[key])
    if verdict is None:
        raise BadRow(f"{key!r} must be true or false, not {shown(value[key])}.", where=where)
    content = read(value, where)
    if isinstance(content, str):
        raise BadRow("raw text cannot be rated.", where=where, fix="Give prompt and completion apart.")
    turns, _ = without_loss_marks(content)
    check_answer(turns, "the row", where)
    return Rated(RATED, turns, verdict, where, read_tools(value, where))


def verdict_of(value: object) -> bool | None:
    """A rating in any notation as a bool; None for other values, such as a topic."""
    return _VERDICTS.get(str(value).strip().lower()) if isinstance(value, bool | int | str) else None


def check_answer(turns: list[Turn], name: str, where: str) -> None:
    """Raises NoTarget if the last turn is not an answer, or is empty."""
    if not turns or turns[-1]["role"] != "assistant":
        raise NoTarget(f"{name} does not end with an assistant turn.", where=where)
    if not says_something(turns[-1]):
        raise NoTarget(f"the answer of {name} is empty.", where=where)


def says_something(item: Turn) -> bool:
    return bool(item["content"].strip() or item.get("tool_calls"))
