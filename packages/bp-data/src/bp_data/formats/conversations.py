"""The formats of demonstrations: each is converted to turns, or stays raw text."""

from __future__ import annotations

from bp_core.errors import BadRow

from ..reading.columns import ROLES
from .content import read_text
from .fields import ROW, Value, from_json, given, given_list, shown, string
from .records import Turn
from .rendered_text import begins_with_markup, parse
from .tool_calls import read_calls
from .turns import LOSS_MARK, read_turns, turn, turns_in_text

PAIRS = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"))
# Columns that add to the prompt, whatever the shape of the row; of each kind the first that is given counts.
SYSTEM = ("system", "system_prompt", "system_message", "system_instruction")
INPUT = ("input", "context")
HISTORY = "history"
_RENDERED_FIX = "Give the turns as messages; or end each turn as the template does, in every row alike."


def openai(value: Value, where: str) -> list[Turn]:
    return with_system(value, read_turns(value["messages"], "'messages'", where), where)


def sharegpt(value: Value, where: str) -> list[Turn]:
    return with_system(value, read_turns(value["conversations"], "'conversations'", where), where)


def alpaca(value: Value, where: str) -> list[Turn]:
    return [*instruction(value, where), turn("assistant", string(value, "output", where))]


def instruction(value: Value, where: str) -> list[Turn]:
    """The turns of an Alpaca row before its answer."""
    return before_answer(value, "instruction", where)


def before_answer(value: Value, key: str, where: str) -> list[Turn]:
    """The turns before an answer: system, history, and the question under `key` with its input."""
    turns = texts(value, key, "user", where)
    added = first_given(value, INPUT)
    if added:
        last = turns[-1]
        if last["role"] != "user":
            raise BadRow(f"{added!r} belongs to a question, and {key!r} ends with none.", where=where)
        turns[-1] = {**last, "content": f"{last['content']}\n\n{string(value, added, where)}"}
    return with_system(value, [*_history(value, where), *turns], where)


def first_given(value: Value, keys: tuple[str, ...]) -> str | None:
    """The first of the columns that has something."""
    for key in keys:
        if given(value.get(key)):
            return key
    return None


def with_system(value: Value, turns: list[Turn], where: str) -> list[Turn]:
    """The turns after the system turn that a column holds, unless they begin with the same."""
    key = first_given(value, SYSTEM)
    if key is None:
        return turns
    first = turn("system", read_text(value, key, where, ROW))
    return turns if turns and turns[0] == first else [first, *turns]


def _history(value: Value, where: str) -> list[Turn]:
    """Earlier exchanges, given as [user, assistant] pairs."""
    pairs = value.get(HISTORY)
    if not given_list(pairs):
        return []
    if isinstance(pairs, str):
        pairs = from_json(pairs, repr(HISTORY), where)
    if not isinstance(pairs, list | tuple) or any(not isinstance(p, list | tuple) or len(p) != 2 for p in pairs):
        raise BadRow(f"'history' must be a list of [user, assistant] pairs, not {shown(pairs)}.", where=where)
    turns = []
    for number, (asked, answered) in enumerate(pairs, 1):
        pair, name = {"user": asked, "assistant": answered}, f"pair {number} of 'history'"
        turns += [turn(role, string(pair, role, where, name)) for role in pair]
    return turns


def xlam(value: Value, where: str) -> list[Turn]:
    """A question, and the calls that answer it."""
    calls = read_calls(value["answers"], "'answers'", where)
    return [*before_answer(value, "query", where), {**turn("assistant", ""), "tool_calls": calls}]


def pair(value: Value, where: str) -> list[Turn]:
    """A prompt and its completion, each a text or a list of turns. Answers in the prompt carry no loss."""
    prompt, answer = pair_keys(value)
    answers = texts(value, answer, "assistant", where)
    before = []
    for item in before_answer(value, prompt, where):
        before.append({**item, LOSS_MARK: False} if item["role"] == "assistant" else item)
    return before + answers


def pair_keys(value: Value) -> tuple[str, str]:
    """The names of the two columns."""
    return next(keys for keys in PAIRS if all(key in value for key in keys))


def texts(value: Value, key: str, role: str, where: str) -> list[Turn]:
    """The list of turns under `key`, or one turn of `role` with the text there."""
    item = value[key]
    if isinstance(item, list | tuple) and item:
        return read_turns(item, repr(key), where)
    text = string(value, key, where)
    turns = turns_in_text(text) if role == "user" else None
    return read_turns(turns, repr(key), where) if turns else [turn(role, text)]


def raw(value: Value, where: str) -> list[Turn] | str:
    """Raw text, or the turns of text that a chat template has rendered.

    Raises BadRow for text that begins like a rendered conversation and is none: learned as raw text, it would teach the
    user's words.
    """
    text = string(value, "text", where)
    turns = rendered(text)
    if turns:
        return turns
    if begins_with_markup(text):
        message = "the text begins like a conversation that a chat template has written, but cannot be read as one."
        raise BadRow(message, where=where, fix=_RENDERED_FIX)
    return text


def is_rendered(text: str) -> bool:
    """Whether the text is a conversation in some template's markup."""
    return bool(rendered(text))


def rendered(text: str) -> list[Turn]:
    """The turns of a text in a chat template's markup; an empty list for other text."""
    turns = [turn(ROLES.get(role.lower(), ""), content) for role, content in parse(text) or []]
    return turns if all(item["role"] for item in turns) else []
