"""Tool calls and results that turns spell as text: in tags, in XML, after a mark, or as JSON alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Mapping
from functools import partial
from typing import Any

from bp_core.errors import BadRow

from .fields import from_json
from .records import Tools, Turn
from .tool_calls import name_of, read_call, read_tool_list, schemas_of
from .xml_calls import XML_MARK, Schemas, xml_calls

# Hermes, Qwen and others; Phi 4. What is between is a call, or a list of calls.
_TAGS = (("<tool_call>", "</tool_call>"), ("<|tool_call|>", "<|/tool_call|>"))
_HEADS = ("[TOOL_CALLS]", "<|python_tag|>")  # Mistral and Llama: all that follows is calls
MARKS = (*(opening for opening, _ in _TAGS), XML_MARK, *_HEADS)
_RESPONSE = re.compile(r"<tool_response>(.*?)</tool_response>", re.DOTALL)
_TOOLS = re.compile(r"<tools>(.*?)</tools>", re.DOTALL)
_HERMES_SYSTEM = "You are a function calling AI model"  # which begins a system turn that says nothing else
Parse = Callable[[str], object]


def is_marked(text: str) -> bool:
    """Whether a text holds what marks a call in some notation."""
    return any(mark in text for mark in MARKS)


def split_calls(text: str, names: Container[str] = (), parse: Parse = json.loads) -> tuple[str, list[Turn]] | None:
    """The text before the calls, and the calls; None if there are some that cannot be read, or text follows them.

    JSON alone is a call where its names are among `names`. If they are those of schemas of parameters, arguments in XML
    are of the types that these have.
    """
    schemas = names if isinstance(names, Mapping) else {}

    def read(before: str, texts: list[str] | None) -> tuple[str, list[Turn]] | None:
        return _read(before, texts, partial(_one_or_more, schemas=schemas, parse=parse))

    for opening, closing in _TAGS:
        if opening in text:
            before, _, rest = text.partition(opening)
            return read(before, _between(opening + rest, opening, closing))
    if XML_MARK in text:
        before, mark, rest = text.partition(XML_MARK)
        return read(before, [mark + rest])
    for mark in _HEADS:
        if mark in text:
            before, _, rest = text.partition(mark)
            return read(before, [rest])
    found = read("", [text]) if text.lstrip()[:1] in ("[", "{") else None
    if found and found[1] and all(call["function"]["name"] in names for call in found[1]):
        return found
    return text, []


def _one_or_more(text: str, schemas: Schemas, parse: Parse) -> list[object]:
    """The calls in what stands between tags, or after a mark. Raises ValueError, BadRow."""
    if text.startswith(XML_MARK):
        return [*xml_calls(text, schemas)]
    value = parse(text)
    return value if isinstance(value, list) else [value]


def _between(text: str, opening: str, closing: str) -> list[str] | None:
    """What is in the tags; None if anything stands beside them."""
    pattern = re.compile(f"{re.escape(opening)}(.*?){re.escape(closing)}", re.DOTALL)
    return None if pattern.sub("", text).strip() else pattern.findall(text)


def _read(before: str, texts: list[str] | None, parse: Callable[[str], list[object]]) -> tuple[str, list[Turn]] | None:
    if texts is None:
        return None
    try:
        calls = [read_call(call, "", "") for text in texts for call in parse(text.strip())]
    except (ValueError, RecursionError, BadRow):
        return None
    return before.rstrip(), calls


def parse_marked_calls(turns: list[Turn], tools: Tools) -> tuple[list[Turn], Tools]:
    """Convert tool calls and results written as text to tool calls and tool turns, if every one of them can be read.

    A system turn that lists its tools in <tools> becomes the row's tools where it is Hermes' own, which the template
    writes in its way. Under another one all stays text, and the row's tools are dropped, because the template would
    write them a second time.
    """
    turns, tools, is_listed = _listed_tools(turns, tools)
    if is_listed:
        return turns, ()
    if not tools:
        return turns, tools
    names = schemas_of(tools)
    read = [_parsed(turn, names) for turn in turns]
    if any(parts is None for parts in read):
        return turns, tools
    return [part for parts in read for part in parts or []], tools


def _listed_tools(turns: list[Turn], tools: Tools) -> tuple[list[Turn], Tools, bool]:
    """The turns without Hermes' system turn, with its tools; or whether another system turn lists them."""
    first = turns[0] if turns else {}
    if first.get("role") == "system" and first["content"].lstrip().startswith(_HERMES_SYSTEM):
        listed = _in_tags(first["content"])
        if listed:
            return turns[1:], listed, False
    system = "".join(turn["content"] for turn in turns if turn["role"] == "system")
    return turns, tools, "<tools>" in system and all(name_of(tool) in system for tool in tools)


def _in_tags(text: str) -> Tools:
    """The tools in <tools>: a list, or one after another; none where they cannot be read."""
    for inside in reversed(_TOOLS.findall(text)):
        for form in (inside, "[" + ",".join(line for line in inside.splitlines() if line.strip()) + "]"):
            try:
                return read_tool_list(from_json(form.strip(), "", ""), "", "")
            except BadRow:
                continue
    return ()


def _parsed(turn: Turn, names: Container[str]) -> list[Turn] | None:
    """The turn converted to one or more turns; None if a tag in it cannot be parsed."""
    if turn["role"] == "assistant" and "tool_calls" not in turn:
        found = split_calls(turn["content"], names, _json_or_python)
        if found is None:
            return None
        text, calls = found
        return [{**turn, "content": text, "tool_calls": calls}] if calls else [turn]
    if turn["role"] == "assistant" and is_marked(turn["content"]):
        return None
    if turn["role"] == "tool" and "<tool_response>" in turn["content"]:
        rest = _RESPONSE.sub("", turn["content"])
        answers = _RESPONSE.findall(turn["content"])
        return None if rest.strip() else [{**turn, "content": answer.strip("\r\n")} for answer in answers]
    return [turn]


def _json_or_python(text: str) -> Any:
    return from_json(text, "", "")
