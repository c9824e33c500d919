"""Compare the prompts that Ollama writes with those of the file's own template: with tools and thoughts, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bp_core.errors import OllamaMismatch, OllamaRegistrationFailed, TemplateUnusable

from ..chat_template import ChatTemplate, Tools, Turns, first_difference
from ..dates import other_dates
from ..gguf.metadata import GgufFacts
from ..tool_talk import TOOL_TALKS, UNSORTED, writes_tools
from .client import Ollama
from .go_template import conversations
from .modelfile import OllamaSettings

_ROOM = 1024  # tokens; more than any of the conversations without a system message of their own
_NO_TEMPLATE = "the model has no chat template: Ollama passes it the plain text."
_NOT_SHOWN = "this version of Ollama cannot show its prompts, so they were not compared."
_NO_TOOLS = (
    "tools do not work in this Ollama, although the model's template has them, because no Go template writes them "
    "alike: use Ollama 0.30 or newer."
)
_SORTED = (
    "this Ollama writes the parameters of a tool and the arguments of a call in the order of their names, not in "
    "that of the request: use Ollama 0.30 or newer if the model was trained on another order."
)
_NO_THOUGHTS = "thoughts stay part of the answer in this Ollama, although the model has them: use Ollama 0.30 or newer."


class _CannotShow(Exception):
    """The server does not show its prompts."""


@dataclass
class PromptCheck:
    """What was found. None: not compared, or nothing to compare.

    `tools`: the model gets tools, calls and results as its template writes them. `thinking`: Ollama knows its thoughts.
    """

    server: Ollama
    name: str
    facts: GgufFacts
    settings: OllamaSettings
    rendered: bool | None = None
    tools: bool | None = None
    thinking: bool | None = None
    notes: list[str] = field(default_factory=list)

    def run(self, capabilities: list[str] | None) -> PromptCheck:
        """`capabilities` as /api/show names them; None for a version that does not. Raises OllamaMismatch."""
        if not self.facts.template:
            self.notes.append(_NO_TEMPLATE)
            return self
        chat = ChatTemplate.of(self.facts)
        try:
            self._compare_plain(chat)
            self._compare_tools(chat, capabilities)
            self._compare_thinking(chat, capabilities)
        except _CannotShow:
            self.notes.append(_NOT_SHOWN)
        return self

    def _compare_plain(self, chat: ChatTemplate) -> None:
        for turns in conversations()[-2:] + conversations()[:1]:
            try:
                expected = chat.prompt(self.with_system(turns))
            except TemplateUnusable:
                continue  # this template refuses a system message
            rendered = self._rendered(chat, turns, expected)
            if not self._same(expected, rendered):
                message = f"Ollama writes the prompt {rendered!r}; the model was trained on {expected!r}."
                raise OllamaMismatch(message, where=self.server.url)
        self.rendered = True

    def _compare_tools(self, chat: ChatTemplate, capabilities: list[str] | None) -> None:
        if self.rendered is None:
            return
        try:
            if not writes_tools(chat):
                return
        except TemplateUnusable:
            return
        if capabilities is not None and "tools" not in capabilities:
            self.tools = False
            self.notes.append(_NO_TOOLS)
            return
        for name, (turns, tools) in TOOL_TALKS.items():
            difference = self._difference_with_tools(chat, turns, tools)
            if difference:
                self.tools = False
                self.notes.append(f"with tools Ollama writes another prompt: {name}: {difference}")
                return
        self.tools = True
        if self._difference_with_tools(chat, *UNSORTED):
            self.notes.append(_SORTED)

    def _difference_with_tools(self, chat: ChatTemplate, turns: Turns, tools: Tools) -> str:
        """In what Ollama's prompt differs, in words; empty if in nothing, or if the template refuses these turns."""
        try:
            expected = chat.prompt(self.with_system(turns), tools)
        except TemplateUnusable:
            return ""
        try:
            rendered = self._rendered(chat, turns, expected, tools=tools)
        except OllamaRegistrationFailed as error:
            rendered = f"({error.message})"
        return "" if self._same(expected, rendered) else _difference(expected, rendered)

    def _compare_thinking(self, chat: ChatTemplate, capabilities: list[str] | None) -> None:
        if not chat.thinks or capabilities is None:
            return
        self.thinking = "thinking" in capabilities
        if not self.thinking:
            self.notes.append(_NO_THOUGHTS)
            return
        silent = ChatTemplate.of(self.facts, enable_thinking=False)
        turns = conversations()[0]
        expected = silent.prompt(self.with_system(turns))
        rendered = self._rendered(chat, turns, expected, think=False)
        if not self._same(expected, rendered):
            self.notes.append(f"without thoughts Ollama writes another prompt: {_difference(expected, rendered)}")

    def _same(self, expected: str, rendered: str) -> bool:
        """Whether two prompts are the same but for a date, of which a note is made."""
        if rendered == expected:
            return True
        dates = other_dates(expected, rendered)
        if dates is None:
            return False
        note = f"prompts carry the date: {dates[0]} in the file's own template, {dates[1]} in Ollama."
        if note not in self.notes:
            self.notes.append(note)
        return True

    def _rendered(
        self, chat: ChatTemplate, turns: Turns, expected: str, *, tools: Tools = None, think: bool | None = None
    ) -> str:
        """Ollama's prompt, without a BOS token that the tokenizer adds."""
        # A token is a byte or more. num_predict: a server that does not know _debug_render_only answers, with one.
        context = max(int(self.settings.parameters.get("num_ctx", 0)), _ROOM, len(expected.encode()))
        options = {"num_ctx": min(context, max(self.facts.exact_context, _ROOM)), "num_predict": 1}
        request: dict[str, Any] = {"model": self.name, "messages": list(turns), "options": options}
        request |= {"tools": list(tools)} if tools else {}
        request |= {"think": think} if think is not None else {}
        debug: Mapping[str, Any] | None = self.server.chat({**request, "_debug_render_only": True}).get("_debug_info")
        if not debug:
            raise _CannotShow
        return str(debug["rendered_template"]).removeprefix(chat.added)

    def with_system(self, turns: Turns) -> Turns:
        """The conversation, with the model's system message first if it has none."""
        if turns[0]["role"] == "system" or not self.settings.system:
            return turns
        return [{"role": "system", "content": self.settings.system}, *turns]


def _difference(expected: str, rendered: str) -> str:
    ours, theirs = first_difference(expected, rendered)
    return f"the template …{ours!r}, Ollama …{theirs!r}"
