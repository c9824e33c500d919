"""Rows with two answers to compare, in the formats in which such data is published."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import takewhile

from bp_core.errors import BadRow, NoTarget

from .conversations import before_answer, instruction, openai, rendered, sharegpt, with_system
from .fields import Value, given, shown, string
from .records import Preference, Turn
from .tool_calls import read_tools
from .turns import read_turn, read_turns, turn, turns_in_text, without_loss_marks

PREFERENCE = "preference"  # the name of the format
COMPARED = ("chosen", "rejected")
# Beside messages: the last answer is the better one, and this column has the other (ms-swift).
BESIDE_MESSAGES = ("rejected_response", "rejected_messages")
_REJECTED = re.compile(
    r"(^|[_ -])(rejects?|rejected|rejection|dispreferred|non_?preferred|unpreferred|worse|worst|loser|losing|lose|"
    r"inferior|negatives?|bad|wrong|incorrect|unchosen|not_chosen)([_ -]|s?\d*$)"
)
_PREFERRED = re.compile(
    r"(^|[_ -])(chosen|preferred|better|best|accepted|winner|winning|win|positives?|good|superior)([_ -]|s?\d*$)"
)
_NOT_TEXT = re.compile(r"(^|_)(score|scores|rating|ratings|reward|logps?|model|id|idx|rank|rationale|reason)(_|$)")
_ANSWER = re.compile(
    r"^(?P<stem>.*(?:response|answer|completion|output|conversation|reply|generation|solution|message|text|summary)s?)"
    r"([ _-][a-z]|[ _-]?\d|[ab])$"
)
_NO_PROMPT = "Give the prompt in a column of its own, named prompt."


def preference(value: Value, where: str) -> Preference:
    """`chosen` and `rejected` after a prompt in any format; without one the prompt is what both begin with."""
    chosen, _ = without_loss_marks(_answer(value, "chosen", where))
    rejected, _ = without_loss_marks(_answer(value, "rejected", where))
    prompt, _ = without_loss_marks(_prompt(value, (chosen, rejected), where))
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        check_answer(turns, repr(name), where)
    if chosen[0]["role"] != "assistant" or not prompt:
        shared = _shared(chosen, rejected)
        _check_copy(prompt, [*chosen, *rejected], where)
        prompt = _with_system_of(prompt, shared)
        chosen, rejected = chosen[len(shared) :], rejected[len(shared) :]
    else:
        chosen, rejected = _without_repeated_prompt(prompt, chosen, rejected)
    if not prompt:
        raise BadRow("'chosen' and 'rejected' do not begin with the same prompt.", where=where, fix=_NO_PROMPT)
    if chosen == rejected:
        raise NoTarget("'chosen' and 'rejected' are the same.", where=where, fix="Remove the row.")
    return Preference(PREFERENCE, prompt, chosen, rejected, where, read_tools(value, where))


def beside_messages(value: Value, where: str) -> Preference:
    """`messages` whose last answer is the better one, and the other in a column of its own."""
    key = next(key for key in BESIDE_MESSAGES if given(value.get(key)))
    turns, _ = without_loss_marks(openai(value, where))
    check_answer(turns, "'messages'", where)
    other, _ = without_loss_marks(_answer(value, key, where))
    prompt = turns[:-1]
    others = {"chosen": turns[-1:], "rejected": other}
    if other[0]["role"] != "assistant":
        others = {"chosen": turns, "rejected": with_system(value, other, where)}
        prompt = []
    tools = {name: value[name] for name in ("tools", "functions") if name in value}
    row = {**others, **tools} if not prompt else {"messages": prompt, **others, **tools}
    return preference(row, where)


def worse_answer(names: tuple[str, ...]) -> str | None:
    """The first of the names that looks like that of the worse of two answers."""
    return next((name for name in names if _REJECTED.search(name.lower()) and not _NOT_TEXT.search(name.lower())), None)


def twins(value: Value) -> tuple[str, str] | None:
    """Two columns with answers whose names differ only in a letter or number at the end."""
    first: dict[str, str] = {}
    for key, item in value.items():
        match = _ANSWER.match(key.lower()) if isinstance(item, str | list | tuple | Mapping) and given(item) else None
        if match and match["stem"] in first:
            return first[match["stem"]], key
        if match:
            first[match["stem"]] = key
    return None


def near_compared(keys: list[str]) -> dict[str, str]:
    """The columns of a comparison under other names, by ours; empty if the two are not there."""
    names = [key for key in keys if not _NOT_TEXT.search(key.lower())]
    chosen = [key for key in names if _PREFERRED.search(key.lower())]
    rejected = [key for key in names if _REJECTED.search(key.lower())]
    return {"chosen": chosen[0], "rejected": rejected[0]} if chosen and rejected else {}


def _prompt(value: Value, answers: tuple[list[Turn], list[Turn]], where: str) -> list[Turn]:
    """The turns before the two answers; empty if the row has no separate prompt."""
    for key, read in (("conversations", sharegpt), ("messages", openai)):
        if key in value:
            turns = _without_answer(read(value, where), answers)
            if turns or "prompt" not in value:
                return turns
    if "instruction" in value:
        return instruction(value, where)
    column = next((name for name in ("prompt", "question") if name in value), None)
    if column is None:
        return with_system(value, [], where)
    text = value[column]
    turns = rendered(text) if isinstance(text, str) else []
    if turns:
        return with_system(value, turns, where)
    return before_answer(value, column, where)


def _without_answer(turns: list[Turn], answers: tuple[list[Turn], list[Turn]]) -> list[Turn]:
    """The turns without a copy of one of the two answers at the end."""
    last = turns[-1]
    copied = last["role"] == "assistant" and any(last["content"].strip() == a[-1]["content"].strip() for a in answers)
    return turns[:-1] if copied else turns


def _answer(value: Value, key: str, where: str) -> list[Turn]:
    """An answer as text, a turn, a list of turns, or text that a chat template has rendered."""
    item = value[key]
    if isinstance(item, Mapping) and ("role" in item or "from" in item) and not isinstance(item.get("role"), list):
        return [read_turn(item, repr(key), where)]
    if isinstance(item, list | tuple | Mapping):
        return read_turns(item, repr(key), where)
    text = string(value, key, where)
    spelled = turns_in_text(text)
    if spelled:
        return read_turns(spelled, repr(key), where)
    return rendered(text) or [turn("assistant", text)]


def _shared(chosen: list[Turn], rejected: list[Turn]) -> list[Turn]:
    """The turns with which both begin, without the last turn of each, the answer."""
    pairs = zip(chosen[:-1], rejected[:-1], strict=False)
    return [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]


def _with_system_of(prompt: list[Turn], shared: list[Turn]) -> list[Turn]:
    """The shared turns, after the system turn of a separate prompt that they do not have."""
    if shared and prompt and prompt[0]["role"] == "system" and prompt[0] not in shared:
        return [prompt[0], *shared]
    return shared


def _without_repeated_prompt(
    prompt: list[Turn], chosen: list[Turn], rejected: list[Turn]
) -> tuple[list[Turn], list[Turn]]:
    """The answers without the prompt's text, if both begin with it: some data sets give whole texts."""
    asked = prompt[-1]["content"].strip()
    first = [turns[0]["content"].lstrip() for turns in (chosen, rejected)]
    rests = [text.removeprefix(asked).lstrip() for text in first if asked and text.startswith(asked)]
    if len(rests) < 2 or not all(rests):
        return chosen, rejected
    return [{**chosen[0], "content": rests[0]}, *chosen[1:]], [{**rejected[0], "content": rests[1]}, *rejected[1:]]


def _check_copy(prompt: list[Turn], turns: list[Turn], where: str) -> None:
    """Raises BadRow if there is a separate prompt with something that the conversations do not have."""
    contents = [item["content"].strip() for item in turns]
    for item in prompt:
        if item["role"] != "system" and item["content"].strip() not in contents:
            message = f"the prompt {shown(item['content'])} is not what 'chosen' and 'rejected' begin with."
            raise BadRow(message, where=where, fix="Leave the prompt out, or the turns before the answers.")


def check_answer(turns: list[Turn], name: str, where: str) -> None:
    """Raises NoTarget if the last turn is not an answer, or is empty."""
    if not turns or turns[-1]["role"] != "assistant":
        raise NoTarget(f"{name} does not end with an assistant turn.", where=where)
    if not says_something(turns[-1]):
        raise NoTarget(f"the answer of {name} is empty.", where=where)


def says_something(item: Turn) -> bool:
    return bool(item["content"].strip() or item.get("tool_calls"))
