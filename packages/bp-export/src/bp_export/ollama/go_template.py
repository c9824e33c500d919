"""Jinja → the Go template that Ollama before 0.30 needs.

Jinja cannot be translated to Go in general, but most chat templates write each turn between fixed texts. These are
found by rendering marked turns. A template that does anything else is refused, never approximated.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from bp_core.errors import TemplateUnusable

from ..chat_template import ChatTemplate, Tools, Turns, common_prefix
from ..gguf.metadata import GgufFacts
from .go_tools import MARKED_TOOLS, tool_conversations, tool_parts
from .marks import between, mark, prompt_or_none
from .template_parts import PromptForm, TemplateParts

_SYSTEM, _ASKED, _ANSWERED, _ASKED_AGAIN = (mark(name) for name in ("system", "asked", "answered", "again"))
_DAYS = (datetime(2031, 1, 2), datetime(2032, 11, 30))
_CONTENTS = (
    "Hello",
    "Two lines,\n\nand a {{ brace }} {% or %} more",
    'Grüße, 你好 🙂 \\n "quoted" `code` <tag>',
    "7",
)


def go_template(facts: GgufFacts) -> str:
    """The exact Go form of a GGUF's chat template. Raises TemplateUnusable if there is none.

    It has tools where they can be written exactly, too.
    """
    chat, later = (ChatTemplate.of(facts, today) for today in _DAYS)
    silent = ChatTemplate.of(facts, _DAYS[0], enable_thinking=False) if chat.thinks else None
    form = PromptForm(_take_apart(chat, silent))
    for turns in conversations():
        expected = prompt_or_none(chat, turns)
        if expected is None:
            continue  # a conversation that the template refuses
        if expected != later.prompt(turns):
            raise TemplateUnusable("the chat template renders today's date, which a Go template cannot.")
        if form.render(turns) != expected:
            raise TemplateUnusable("the chat template does more than write turns between fixed texts.")
        if silent and form.render(turns, silent=True) != silent.prompt(turns):
            form, silent = PromptForm(replace(form.plain, silent=None)), None
    return _with_tools(form, chat, silent).as_go()


def _with_tools(form: PromptForm, chat: ChatTemplate, silent: ChatTemplate | None) -> PromptForm:
    """The form with tools, or without them if the template has none or writes them in no fixed way."""
    first, *others = tool_conversations()
    if prompt_or_none(chat, *first) in (None, prompt_or_none(chat, first[0])):
        return form
    try:
        parts = _take_apart(chat, silent, MARKED_TOOLS, form.plain.user[0])
        with_tools = PromptForm(form.plain, tool_parts(chat, form.plain, parts))
    except TemplateUnusable:
        return form
    for turns, tools in (first, *others):
        expected = prompt_or_none(chat, turns, tools)
        if expected is not None and with_tools.render(turns, tools) != expected:
            return form
    return with_tools


def conversations() -> list[Turns]:
    """Conversations to check a template on: one to three questions, with and without a system message."""
    roles = ["user", "assistant"] * 3
    talks: list[Turns] = []
    for count in (1, 3, 5):
        for start in range(len(_CONTENTS)):
            texts = [_CONTENTS[(start + place) % len(_CONTENTS)] for place in range(count)]
            turns = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
            talks += [turns, [{"role": "system", "content": _CONTENTS[start]}, *turns]]
    return talks


def _take_apart(
    chat: ChatTemplate, silent: ChatTemplate | None, tools: Tools = None, question: str | None = None
) -> TemplateParts:
    """Find the fixed texts by rendering conversations with marked turns; `silent` leaves thoughts out.

    `question`: the text before a question that is not the last, where that is known.
    """
    user, assistant = {"role": "user", "content": _ASKED}, {"role": "assistant", "content": _ANSWERED}
    again, system = {"role": "user", "content": _ASKED_AGAIN}, {"role": "system", "content": _SYSTEM}
    talk = [user, assistant, again]
    head, to_answer, to_user, tail = between(chat.prompt(talk, tools), _ASKED, _ANSWERED, _ASKED_AGAIN)
    closed = between(chat.render([user], answer=False, tools=tools), _ASKED)[1]
    ended = between(chat.render([user, assistant], answer=False, tools=tools), _ANSWERED)[1]
    after_user, after_answer = common_prefix(closed, to_answer, tail), common_prefix(ended, to_user)
    before_user = to_user.removeprefix(after_answer)
    before_last = ""
    if question is not None and before_user.endswith(question):
        before_last, before_user = before_user.removesuffix(question), question
    joined = not head.endswith(before_user)
    pieces = TemplateParts(
        head if joined else head.removesuffix(before_user),
        ("", ""),
        None,
        (before_user, after_user),
        (to_answer.removeprefix(after_user), after_answer),
        tail.removeprefix(after_user),
        joined=joined,
        before_last=before_last,
    )
    if silent:
        *_, last = between(silent.prompt(talk, tools), _ASKED, _ANSWERED, _ASKED_AGAIN)
        pieces = replace(pieces, silent=last.removeprefix(after_user))
    written = prompt_or_none(chat, [system, *talk], tools)
    return pieces if written is None else _with_system(pieces, written)


def _with_system(pieces: TemplateParts, written: str) -> TemplateParts:
    """Find where a system message stands."""
    if written.find(_SYSTEM) > written.find(_ASKED):
        _, _, before, after, _ = between(written, _ASKED, _ANSWERED, _SYSTEM, _ASKED_AGAIN)
        for start in (pieces.assistant[1], pieces.before_last, pieces.user[0]):
            before = before.removeprefix(start)
        return replace(pieces, system=(before, after), place="last")
    before, after, *_ = between(written, _SYSTEM, _ASKED)
    if after.endswith(pieces.user[0]):
        return replace(pieces, system=(before, after.removesuffix(pieces.user[0])), place="own")
    return replace(pieces, system=(before, after), place="first")
