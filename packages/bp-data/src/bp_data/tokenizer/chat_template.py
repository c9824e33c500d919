"""Chat templates, compiled as in transformers and rendered in a sandbox."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import Environment, Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bp_core.chat_template import RENDERING_ERRORS, equip
from bp_core.errors import TemplateUnusable
from bp_core.thought_marks import SWITCH

_ROW_FIX = "Bring the row's turns into the order that the model's chat template asks for, or remove the row."


_REASONING = ("reasoning_content", "thinking")  # keys of the reasoning in templates that write it separately
Message = Mapping[str, Any]
Marks = tuple[tuple[int, int], ...]  # start and end, in characters, of {% generation %} blocks


class _Generation(Extension):
    """The {% generation %} tag, which marks the assistant's text; `note` is called with each block's length."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}
        self.note: Callable[[int], None] | None = None

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_generated"), [], [], body).set_lineno(line)

    def _generated(self, caller: Callable[[], str]) -> str:
        text = caller()
        if self.note:
            self.note(len(text))
        return text


class ChatTemplate:
    """A compiled chat template. `source` is its Jinja text, `variables` the special tokens that it may use."""

    def __init__(self, source: str, variables: Mapping[str, str]) -> None:
        self.source = source
        self.marks_answers = re.search(r"\{%-?\s*generation\s*-?%\}", source) is not None
        self._variables = dict(variables)
        self._compiled = _compile(source)
        self._thinks = any(name in source for name in _REASONING)

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        tools: Sequence[Message] | None = None,
        documents: Sequence[Message] | None = None,
        thinking: bool = True,
    ) -> str:
        """The conversation as text. Raises TemplateUnusable with the template's message.

        Without `thinking` the template's switch for thoughts is off; else it is not set, which is each template's
        default.
        """
        return self.render_marked(messages, add_generation_prompt, tools, documents, thinking)[0]

    def render_marked(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        tools: Sequence[Message] | None = None,
        documents: Sequence[Message] | None = None,
        thinking: bool = True,
    ) -> tuple[str, Marks]:
        """The text, and the spans inside {% generation %} blocks. Raises TemplateUnusable."""
        values = {
            "messages": [self._shown(message) for message in messages],
            "tools": list(tools) if tools else None,
            "documents": list(documents) if documents else None,
            "add_generation_prompt": add_generation_prompt,
            **({} if thinking else {SWITCH: False}),
        }
        try:
            return self._written({**self._variables, **values})
        except (TemplateError, *RENDERING_ERRORS) as error:
            raise TemplateUnusable(f"the chat template refuses the conversation: {error}", fix=_ROW_FIX) from error

    def _written(self, values: Mapping[str, Any]) -> tuple[str, Marks]:
        if not self.marks_answers:
            return self._compiled.render(values), ()
        blocks: list[str] = []
        marks: list[tuple[int, int]] = []

        def note(length: int) -> None:
            start = sum(map(len, blocks))
            marks.append((start, start + length))

        extension = next(e for e in self._compiled.environment.extensions.values() if isinstance(e, _Generation))
        extension.note = note
        try:
            for block in self._compiled.generate(values):  # a block at a time, so that `note` knows where it is
                blocks.append(block)
        finally:
            extension.note = None
        return "".join(blocks), tuple(marks)

    def _shown(self, message: Message) -> dict[str, Any]:
        """A message for the template: without nulls, and with the reasoning where the template reads it."""
        shown = {key: value for key, value in message.items() if value is not None}
        thought = shown.get("reasoning_content")
        if not thought:
            shown.pop("reasoning_content", None)
            return shown
        if self._thinks:
            return {"thinking": thought, **shown}
        del shown["reasoning_content"]  # written into the text, as reasoning models do
        return {**shown, "content": f"<think>\n{thought}\n</think>\n\n{shown.get('content', '')}"}


def chatml(terminator: str) -> str:
    """ChatML, for models without a template. The terminator is a literal, so it needs no variable."""
    end = json.dumps(terminator, ensure_ascii=False)
    return (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + " + end + " + '\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )


def _compile(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(extensions=[_Generation, loopcontrols])
    equip(environment)
    try:
        template = environment.from_string(source)
    except TemplateSyntaxError as error:
        message = f"the chat template does not compile: line {error.lineno}: {error.message}"
        raise TemplateUnusable(message) from error
    template.globals = dict(template.globals)  # copied at each rendering, which takes long from Jinja's ChainMap
    return template
