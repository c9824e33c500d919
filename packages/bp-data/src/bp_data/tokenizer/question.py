"""The user's own words in a prompt that a chat template wrote."""

from __future__ import annotations

from bp_core.errors import TemplateUnusable

from .chat_tokenizer import ChatTokenizer

_FIRST, _ANSWER, _SECOND = "\u2402first\u2403", "\u2402answer\u2403", "\u2402second\u2403"  # in no template

_NO_PARAMETERS = {"type": "object", "properties": {}}
_SIGN = 8  # characters before the first tool, which tell a list of tools from other text


def asked(tokenizer: ChatTokenizer, prompt: str) -> str:
    """The last user message of `prompt`, which ends where the answer begins; all of it where that cannot be told."""
    try:
        first = tokenizer.render([_user(_FIRST)], add_generation_prompt=True)
        turns = [_user(_FIRST), {"role": "assistant", "content": _ANSWER}, _user(_SECOND)]
        second = tokenizer.render(turns, add_generation_prompt=True)
    except TemplateUnusable:
        return prompt
    before, found, after = first.partition(_FIRST)
    between = second.partition(_ANSWER)[2].partition(_SECOND)[0]
    opening = _common_end(before, between)  # what every user turn begins with, be there a system message or not
    body = prompt[: len(prompt) - len(after)] if found and after and prompt.endswith(after) else None
    if not body or not opening or opening not in body:
        return prompt
    return body.rpartition(opening)[2].strip()


def tools_sign(tokenizer: ChatTokenizer) -> str:
    """What a prompt holds where, and only where, the template lists tools in it; "" for a template without tools."""
    probe = {"type": "function", "function": {"name": _FIRST, "description": "", "parameters": _NO_PARAMETERS}}
    try:
        plain = tokenizer.render([_user("?")], add_generation_prompt=True)
        listed = tokenizer.render([_user("?")], add_generation_prompt=True, tools=[probe])
    except TemplateUnusable:
        return ""
    before, found, _ = listed.partition(_FIRST)
    if not found:
        return ""
    lines = [line for line in listed.splitlines() if line and line not in plain and _FIRST not in line]
    return max(lines, key=len) if lines else before.rpartition("{")[0].rstrip("{ ")[-_SIGN:]


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _common_end(one: str, other: str) -> str:
    length = 0
    while length < min(len(one), len(other)) and one[-1 - length] == other[-1 - length]:
        length += 1
    return one[len(one) - length :]
