"""How a chat template writes tools, calls and results, found by rendering marked ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from bp_core.errors import TemplateUnusable

from ..chat_template import ChatTemplate, Tools, Turns, common_prefix
from .go_text import LISTED
from .marks import between, mark, prompt_or_none
from .template_parts import Listing, TemplateParts, ToolParts, written

# What may be written of a tool, of a call and of a result. The first forms that are found whole are taken.
_TOOL_FORMS = (("tool",), ("tool, indented",), ("function",), ("name", "description", "parameters"))
_CALL_FORMS = (("name", "arguments", "call id"), ("name", "arguments"))
_RESULT_FORMS = tuple(
    (content, *names)
    for content in ("content, quoted", "content")
    for names in (("tool name", "result id"), ("result id",), ("tool name",), ())
)


def _tool(name: str, description: str, properties: Mapping[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    """A tool as Ollama hands it to a Go template, with the properties in the order of their names."""
    parameters = {"type": "object"} | ({"required": [*required]} if required else {}) | {"properties": properties}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def _call(name: str, arguments: Mapping[str, Any], number: int) -> dict[str, Any]:
    return {"id": f"call{number:05}", "type": "function", "function": {"name": name, "arguments": arguments}}


def _result(content: str, name: str, number: int) -> dict[str, Any]:
    return {"role": "tool", "content": content, "name": name, "tool_name": name, "tool_call_id": f"call{number:05}"}


def _answer(content: str, *calls: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": [*calls]}


# A text with a quote, which is written otherwise inside of JSON.
MARKED_TOOLS = [
    _tool(mark(f"tool {number}"), mark(f"about {number}") + '"', {mark(f"property {number}"): {"type": "string"}})
    for number in range(2)
]
_MARKED_CALLS = [_call(mark(f"called {number}"), {mark(f"argument {number}"): number}, number) for number in range(2)]
_MARKED_RESULTS = [_result(mark(f"result {number}") + '"', mark(f"called {number}"), number) for number in range(2)]
_USER = {"role": "user", "content": mark("asked")}
_SAID = mark("said")


def tool_parts(chat: ChatTemplate, plain: TemplateParts, with_tools: TemplateParts) -> ToolParts:
    """The parts of a template that has tools. Raises TemplateUnusable if they are not written in a fixed way.

    `with_tools`: its texts with MARKED_TOOLS.
    """
    tools = _listing(with_tools.opening + with_tools.before_last, MARKED_TOOLS, _TOOL_FORMS)
    parts = _with_place_for_tools(with_tools, tools.all(MARKED_TOOLS))
    own = replace(parts, opening="", system=("", ""), place=None, joined=False, before_last="")
    if own != replace(plain, opening="", system=("", ""), place=None, joined=False, before_last=""):
        raise TemplateUnusable("the chat template writes turns otherwise where there are tools.")
    calls, results = _calls_and_results(chat, plain)
    bare = common_prefix(calls.opening, plain.answer)
    around = _around(chat, plain, calls)
    if around:
        bare = calls.opening.removesuffix(common_prefix(calls.opening.removeprefix(bare)[::-1], around[1][::-1])[::-1])
    opening = calls.opening.removeprefix(bare)
    around = around and (around[0], around[1].removesuffix(opening))
    return ToolParts(parts, tools, bare, around, replace(calls, opening=opening), results)


def _with_place_for_tools(parts: TemplateParts, listed: str) -> TemplateParts:
    """The texts with LISTED in place of the marked tools."""
    changed: dict[str, Any] = {}
    for field in fields(parts):
        value = getattr(parts, field.name)
        if isinstance(value, str):
            changed[field.name] = value.replace(listed, LISTED)
        elif isinstance(value, tuple):
            changed[field.name] = tuple(text.replace(listed, LISTED) for text in value)
    return replace(parts, **changed)


def _calls_and_results(chat: ChatTemplate, plain: TemplateParts) -> tuple[Listing, Listing]:
    """Calls and their results, two of each; one of each if the template refuses two."""
    for count in (2, 1):
        calls, results = _MARKED_CALLS[:count], _MARKED_RESULTS[:count]
        talk = [_USER, _answer("", *calls)]
        prompt = prompt_or_none(chat, [*talk, *results])
        if prompt is not None:
            break
    else:
        raise TemplateUnusable("the chat template refuses a call and its result.")
    closed = between(chat.render(talk, answer=False), _USER["content"])[1]
    listed = _listing(closed, calls, _CALL_FORMS)
    opening, rest = between(between(prompt, _USER["content"])[1].removesuffix(plain.answer), listed.all(calls))
    closing = common_prefix(listed.closing, rest)
    listed = replace(listed, opening=opening.removeprefix(plain.user[1]), closing=closing)
    return listed, _listing(rest.removeprefix(closing), results, _RESULT_FORMS)


def _around(chat: ChatTemplate, plain: TemplateParts, calls: Listing) -> tuple[str, str] | None:
    """The texts around what is said before a call; None if that is not written."""
    text = chat.prompt([_USER, _answer(_SAID, _MARKED_CALLS[0]), _MARKED_RESULTS[0]])
    if _SAID not in text:
        return None
    _, before, after, _ = between(text, _USER["content"], _SAID, calls.of(_MARKED_CALLS[0]))
    return before.removeprefix(plain.user[1]), after


def _listing(text: str, things: Sequence[Mapping[str, Any]], forms: Sequence[Sequence[str]]) -> Listing:
    """How one or two things are written in a text. Raises TemplateUnusable."""
    for form in forms:
        values = [[(field, written(field, thing)) for field in form] for thing in things]
        if all(text.count(value) == 1 for item in values for _, value in item):
            break
    else:
        raise TemplateUnusable("the chat template does not write tools, calls or results whole and once.")
    found = [_item(text, item) for item in values]
    (start, end), item = found[0]
    (start_of_last, end_of_last), _ = found[-1]
    if any(other != item for _, other in found) or (len(found) > 1 and start_of_last < end):
        raise TemplateUnusable("the chat template does not write tools, calls or results one after another.")
    return Listing(text[:start], item, text[end:start_of_last], text[end_of_last:])


def _item(text: str, values: Sequence[tuple[str, str]]) -> tuple[tuple[int, int], tuple[str, ...]]:
    """Where a thing begins and ends in a text, and its texts and fields in turn."""
    places = sorted((text.index(value), len(value), field) for field, value in values)
    start, at = places[0][0], places[0][0]
    parts: list[str] = []
    for place, length, field in places:
        parts += [text[at:place], field] if place > at else [field]
        at = place + length
    return (start, at), tuple(parts)


_TOOLS = [
    _tool(
        "get_weather",
        'The weather in a "place" <now> & then.',
        {
            "days": {"type": "integer", "description": "How far to look: 1, 2 or 3."},
            "place": {"type": "string", "description": "A town, such as 北京 🙂.", "enum": ["a", "\\b\n"]},
        },
        ["place"],
    ),
    _tool("empty", "", {}),
    _tool(
        "nested",
        "it's",
        {"list": {"type": "array", "items": {"type": "object", "x": [], "y": {}, "z": [1, 2.5, True, None]}}},
    ),
]
_ASKED = {"role": "user", "content": 'What is the weather in "Łódź"?'}
_CALL = _call("get_weather", {"days": 2, "place": 'Łódź "<b>" \\u003c \u2028'}, 1)
_OTHER_CALL = _call("nested", {"list": [{"a": None}, [], {}], "other": True}, 2)
_RESULT = _result('{"sky": "clear",\n"w": [1]} <&> \\', "get_weather", 1)
_OTHER_RESULT = _result("none", "nested", 2)
_SYSTEM = {"role": "system", "content": "Be {{ brief }}."}
_REPLY, _THANKS = {"role": "assistant", "content": "It is clear."}, {"role": "user", "content": "Thanks"}


def tool_conversations() -> list[tuple[Turns, Tools]]:
    """Conversations to check a template on: a question with a tool first, then calls, results, several of each."""
    asked, called = [_ASKED], [_ASKED, _answer("", _CALL), _RESULT]
    both = [_ASKED, _answer("", _CALL, _OTHER_CALL), _RESULT, _OTHER_RESULT]
    three = [_ASKED, _answer("", _CALL, _OTHER_CALL, _CALL), _RESULT, _OTHER_RESULT, _RESULT]
    said = [_ASKED, _answer("Let me see.", _CALL), _RESULT, _REPLY, _THANKS]
    twice = [*called, _answer("", _OTHER_CALL), _OTHER_RESULT]
    answered = [_ASKED, _REPLY, _THANKS]
    talks: list[tuple[Turns, Tools]] = [(asked, _TOOLS[:1])]
    for turns in (asked, called, both, three, said, twice, answered):
        for start in ([], [_SYSTEM]):
            talks += [([*start, *turns], tools) for tools in (_TOOLS, _TOOLS[1:2], None)]
    return talks
