"""Render a GGUF's chat template in a sandbox, as transformers and llama.cpp do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Self

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bp_core.chat_template import RENDERING_ERRORS, equip
from bp_core.errors import TemplateUnusable
from bp_core.thought_marks import CLOSE, OPEN

from .gguf.metadata import GgufFacts

Turns = Sequence[Mapping[str, Any]]
_SHOWN = 60  # characters to show of a difference
Tools = Sequence[Mapping[str, Any]] | None  # as OpenAI writes them


class _Generation(Extension):
    """{% generation %} marks what is trained; it changes nothing in rendering."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own form

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A compiled chat template with its special tokens.

    `added`: the BOS token, if the tokenizer will add it. `today`: the date for the template. `variables`: other names
    that the template may use.
    """

    def __init__(
        self,
        template: str,
        bos: str = "",
        eos: str = "",
        *,
        added: str = "",
        today: datetime | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        self.added, self._template = added, template
        environment = ImmutableSandboxedEnvironment(extensions=[_Generation, loopcontrols])
        equip(environment, today)
        self._special = {"bos_token": bos, "eos_token": eos, **(variables or {})}
        try:
            self._compiled = environment.from_string(template)
        except TemplateError as error:
            raise TemplateUnusable(f"the chat template does not compile: {error}") from error

    @classmethod
    def of(cls, facts: GgufFacts, today: datetime | None = None, **variables: Any) -> Self:
        """The chat template of a GGUF; `variables` as for the class. Raises TemplateUnusable."""
        added = facts.bos_token if facts.add_bos else ""
        return cls(facts.template, facts.bos_token, facts.eos_token, added=added, today=today, variables=variables)

    def render(self, turns: Turns, *, answer: bool = True, tools: Tools = None) -> str:
        """The conversation as text; `answer` opens the assistant's turn. Raises TemplateUnusable."""
        try:
            return self._compiled.render(
                messages=list(turns), tools=tools, add_generation_prompt=answer, **self._special
            )
        except (TemplateError, *RENDERING_ERRORS) as error:
            raise TemplateUnusable(f"the chat template refuses the conversation: {error}") from error

    @property
    def thinks(self) -> bool:
        """Whether the template knows thoughts, by the signs that Ollama goes by."""
        return all(tag in self._template for tag in (OPEN, CLOSE))

    def prompt(self, turns: Turns, tools: Tools = None) -> str:
        """The prompt for an answer, without a BOS token that the tokenizer adds."""
        return self.render(turns, tools=tools).removeprefix(self.added)


def first_difference(first: str, second: str) -> tuple[str, str]:
    """What two texts have around the place where they part."""
    start = max(len(common_prefix(first, second)) - _SHOWN // 2, 0)
    return first[start : start + _SHOWN], second[start : start + _SHOWN]


def common_prefix(*texts: str) -> str:
    """What all texts start with."""
    for position, characters in enumerate(zip(*texts, strict=False)):
        if len(set(characters)) > 1:
            return texts[0][:position]
    return min(texts, key=len)
