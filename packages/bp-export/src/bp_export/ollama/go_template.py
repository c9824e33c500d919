"""Jinja → the Go template that Ollama before 0.30 needs.

Jinja cannot be translated to Go in general, but most chat templates write each turn between fixed texts. These are
found by rendering marked turns. A template that does anything else is refused, never approximated.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from bp_core.errors import TemplateUnusable

from ..chat_template import ChatTemplate, Turns, common_prefix
from ..gguf.metadata import GgufFacts

# Private-use characters, which no template treats specially.
_SYSTEM, _ASKED, _ANSWERED, _ASKED_AGAIN = (f"\ue000{number}\ue001" for number in range(4))
_DAYS = (datetime(2031, 1, 2), datetime(2032, 11, 30))
_CONTENTS = (
    "Hello",
    "Two lines,\n\nand a {{ brace }} {% or %} more",
    'Grüße, 你好 🙂 \\n "quoted" `code` <tag>',
    "7",
)
# Earlier thoughts are not written; this tells Ollama by which tags it knows those of an answer.
_THOUGHT = '{{ if eq .Role "thought" }}<think>{{ .Thinking }}</think>{{ end }}'
Place = Literal["own", "first", "last"]  # a system message: a turn of its own, or inside the first or last user turn


@dataclass(frozen=True)
class TemplateParts:
    """The fixed texts of a chat template, without a BOS token that the tokenizer adds.

    `opening` starts a conversation without a system message. `system`, `user` and `assistant` are the texts before and
    after such a turn; `answer` opens the turn to generate. `silent` opens it where thoughts are not wanted; None: the
    template knows no thoughts.
    """

    opening: str
    system: tuple[str, str]
    place: Place | None  # None: a system message is refused
    user: tuple[str, str]
    assistant: tuple[str, str]
    answer: str
    silent: str | None = None

    def render(self, turns: Turns, *, silent: bool = False) -> str:
        """What the Go template renders, step by step, in Python."""
        system = "\n\n".join(turn["content"] for turn in turns if turn["role"] == "system")
        head = system and self.place in ("own", "first")
        text = f"{self.system[0]}{system}{self.system[1]}" if head else self.opening
        for number, turn in enumerate(turns):
            before, after = {"user": self.user, "assistant": self.assistant}.get(turn["role"], ("", ""))
            if turn["role"] == "system":
                continue
            if turn["role"] == "user" and system and self.place == "first" and number == 1:
                before = ""
            if turn["role"] == "user" and system and self.place == "last" and number == len(turns) - 1:
                before += f"{self.system[0]}{system}{self.system[1]}"
            text += before + turn["content"] + after
        return text + (self.silent if silent and self.silent is not None else self.answer)

    def as_go(self) -> str:
        """The Go template, without extra white space, which would be rendered."""
        system = f"{_literal(self.system[0])}{{{{ $.System }}}}{_literal(self.system[1])}"
        head, asked = _literal(self.opening), _literal(self.user[0])
        if self.place in ("own", "first"):
            head = f"{{{{ if .System }}}}{system}{{{{ else }}}}{head}{{{{ end }}}}"
        if self.place == "first":
            asked = f"{{{{ if not (and $.System (eq $i 1)) }}}}{asked}{{{{ end }}}}"
        if self.place == "last":
            asked += f"{{{{ if and $.System (eq (len (slice $.Messages $i)) 1) }}}}{system}{{{{ end }}}}"
        answer, thought = _literal(self.answer), ""
        if self.silent is not None:
            answer = (
                f"{{{{ if and $.IsThinkSet (not $.Think) }}}}{_literal(self.silent)}{{{{ else }}}}{answer}{{{{ end }}}}"
            )
            thought = _THOUGHT
        return (
            f"{head}{{{{ range $i, $m := .Messages }}}}"
            f'{{{{ if eq $m.Role "user" }}}}{asked}{{{{ $m.Content }}}}{_literal(self.user[1])}'
            f'{{{{ else if eq $m.Role "assistant" }}}}'
            f"{_literal(self.assistant[0])}{{{{ $m.Content }}}}{_literal(self.assistant[1])}"
            f"{{{{ end }}}}{thought}{{{{ end }}}}{answer}"
        )


def go_template(facts: GgufFacts) -> str:
    """The exact Go form of a GGUF's chat template. Raises TemplateUnusable if there is none."""
    chat, later = (ChatTemplate.of(facts, today) for today in _DAYS)
    silent = ChatTemplate.of(facts, _DAYS[0], enable_thinking=False) if chat.thinks else None
    pieces = _take_apart(chat, silent)
    for turns in conversations():
        expected = _prompt_or_none(chat, turns)
        if expected is None:
            continue  # a conversation that the template refuses
        if expected != later.prompt(turns):
            raise TemplateUnusable("the chat template renders today's date, which a Go template cannot.")
        if pieces.render(turns) != expected:
            raise TemplateUnusable("the chat template does more than write turns between fixed texts.")
        if silent and pieces.render(turns, silent=True) != silent.prompt(turns):
            pieces, silent = replace(pieces, silent=None), None
    return pieces.as_go()


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


def _take_apart(chat: ChatTemplate, silent: ChatTemplate | None) -> TemplateParts:
    """Find the fixed texts by rendering conversations with marked turns; `silent` leaves thoughts out."""
    user, assistant = {"role": "user", "content": _ASKED}, {"role": "assistant", "content": _ANSWERED}
    again, system = {"role": "user", "content": _ASKED_AGAIN}, {"role": "system", "content": _SYSTEM}
    head, to_answer, to_user, tail = _between(chat.prompt([user, assistant, again]), _ASKED, _ANSWERED, _ASKED_AGAIN)
    closed = _between(chat.render([user], answer=False), _ASKED)[1]
    ended = _between(chat.render([user, assistant], answer=False), _ANSWERED)[1]
    after_user, after_answer = common_prefix(closed, to_answer, tail), common_prefix(ended, to_user)
    before_user = to_user.removeprefix(after_answer)
    if not head.endswith(before_user):
        raise TemplateUnusable("the chat template begins its first turn unlike the others.")
    pieces = TemplateParts(
        head.removesuffix(before_user),
        ("", ""),
        None,
        (before_user, after_user),
        (to_answer.removeprefix(after_user), after_answer),
        tail.removeprefix(after_user),
    )
    if silent:
        *_, last = _between(silent.prompt([user, assistant, again]), _ASKED, _ANSWERED, _ASKED_AGAIN)
        pieces = replace(pieces, silent=last.removeprefix(after_user))
    written = _prompt_or_none(chat, [system, user, assistant, again])
    return pieces if written is None else _with_system(pieces, written)


def _with_system(pieces: TemplateParts, written: str) -> TemplateParts:
    """Find where a system message stands."""
    if written.find(_SYSTEM) > written.find(_ASKED):
        _, _, before, after, _ = _between(written, _ASKED, _ANSWERED, _SYSTEM, _ASKED_AGAIN)
        around = before.removeprefix(pieces.assistant[1]).removeprefix(pieces.user[0]), after
        return replace(pieces, system=around, place="last")
    before, after, *_ = _between(written, _SYSTEM, _ASKED)
    if after.endswith(pieces.user[0]):
        return replace(pieces, system=(before, after.removesuffix(pieces.user[0])), place="own")
    return replace(pieces, system=(before, after), place="first")


def _between(text: str, *marks: str) -> Sequence[str]:
    """The texts between the marks, which must occur once each, in this order."""
    parts = []
    for mark in marks:
        if text.count(mark) != 1:
            raise TemplateUnusable("the chat template does not write every turn once, in order.")
        part, text = text.split(mark)
        parts.append(part)
    return [*parts, text]


def _prompt_or_none(chat: ChatTemplate, turns: Turns) -> str | None:
    """The prompt; None if the template refuses the conversation."""
    try:
        return chat.prompt(turns)
    except TemplateUnusable:
        return None


def _literal(text: str) -> str:
    """Fixed text for a Go template, quoted if Go could read it as an action."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if "{" in text else text
