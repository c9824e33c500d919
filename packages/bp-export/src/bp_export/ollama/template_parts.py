"""The fixed texts of a chat template, and what a Go template makes of them: once in Python, to compare, once in Go."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..chat_template import Tools, Turns
from .go_text import LISTED, definitions, literal, when

Place = Literal["own", "first", "last"]  # a system message: a turn of its own, or inside the first or last user turn
# Earlier thoughts are not written; this tells Ollama by which tags it knows those of an answer.
_THOUGHT = when('eq .Role "thought"', "<think>{{ .Thinking }}</think>")


@dataclass(frozen=True)
class TemplateParts:
    """The fixed texts around the turns of a conversation, without a BOS token that the tokenizer adds.

    `opening` starts a conversation without a system message; `joined`: it has the beginning of the first user turn.
    `system`, `user` and `assistant` are the texts before and after such a turn; `before_last` stands before the last
    user turn. `answer` opens the turn to generate. `silent` opens it where thoughts are not wanted; None: the template
    knows no thoughts.
    """

    opening: str
    system: tuple[str, str]
    place: Place | None  # None: a system message is refused
    user: tuple[str, str]
    assistant: tuple[str, str]
    answer: str
    silent: str | None = None
    joined: bool = False
    before_last: str = ""

    def head(self, system: str) -> str:
        """What starts a conversation with this system message, or none."""
        if system and self.place in ("own", "first"):
            return f"{self.system[0]}{system}{self.system[1]}"
        return self.opening

    def before_question(self, number: int, turns: Turns, system: str) -> str:
        """The text before the content of a user turn."""
        begun = number == 1 and self.place == "first" if system else number == 0 and self.joined
        text = "" if begun else self.user[0]
        if system and self.place == "last" and number == len(turns) - 1:
            text += f"{self.system[0]}{system}{self.system[1]}"
        is_last = all(turn["role"] != "user" for turn in turns[number + 1 :])
        return self.before_last + text if is_last else text

    def go_head(self) -> str:
        """`head` in Go."""
        opening = literal(self.opening)
        return when(".System", self._go_system(), opening) if self.place in ("own", "first") else opening

    def go_before_question(self) -> str:
        """`before_question` in Go."""
        begun = ["(and $.System (eq $i 1))"] if self.place == "first" else []
        begun += ["(and (not $.System) (eq $i 0))"] if self.joined else []
        text = literal(self.user[0])
        if begun:
            text = when(f"not (or {' '.join(begun)})", text)
        if self.place == "last":
            text += when("and $.System (eq (len (slice $.Messages $i)) 1)", self._go_system())
        if self.before_last:
            text = when("eq $i $asked", literal(self.before_last)) + text
        return text

    def _go_system(self) -> str:
        return literal(self.system[0]) + "{{ $.System }}" + literal(self.system[1])


# What a template writes of a tool, a call or a result, in Go; the dot is the thing itself.
FIELDS: Mapping[str, str] = {
    "tool": '{{ template "json" (json .) }}',
    "tool, indented": '{{ template "indented" (printf "%c%s" 0 (json .)) }}',
    "function": '{{ template "json" (json .Function) }}',
    "name": "{{ .Function.Name }}",
    "description": "{{ .Function.Description }}",
    "parameters": '{{ template "json" (json .Function.Parameters) }}',
    "arguments": '{{ template "json" (json .Function.Arguments) }}',
    "call id": "{{ .ID }}",
    "content": "{{ .Content }}",
    "content, quoted": '{{ template "json" (json .Content) }}',
    "tool name": "{{ .ToolName }}",
    "result id": "{{ .ToolCallID }}",
}


def written(field: str, thing: Mapping[str, Any]) -> str:
    """What a template writes of a tool, a call or a result."""
    function = thing.get("function", {})
    if field in ("name", "description"):
        return str(function.get(field, ""))
    if field in ("parameters", "arguments"):
        return dumped(function.get(field))
    if field in ("tool", "function", "content, quoted"):
        return dumped({"tool": thing, "function": function, "content, quoted": thing.get("content")}[field])
    if field == "tool, indented":
        return dumped(thing, indent=4)
    keys = {"call id": "id", "content": "content", "tool name": "tool_name", "result id": "tool_call_id"}
    return str(thing.get(keys[field], ""))


def dumped(value: object, indent: int | None = None) -> str:
    """JSON as chat templates write it."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


@dataclass(frozen=True)
class Listing:
    """Things written one after another: opening, the first, between, the second, …, closing.

    `item`: the texts and fields of one; a field is a name in FIELDS.
    """

    opening: str
    item: tuple[str, ...]
    between: str
    closing: str

    def of(self, thing: Mapping[str, Any]) -> str:
        return "".join(written(part, thing) if part in FIELDS else part for part in self.item)

    def all(self, things: Sequence[Mapping[str, Any]]) -> str:
        """All things, without opening and closing."""
        return self.between.join(self.of(thing) for thing in things)

    def go_item(self) -> str:
        """`of` in Go, for the dot."""
        return "".join(FIELDS.get(part) or literal(part) for part in self.item)

    def go_all(self, things: str) -> str:
        """`all` in Go."""
        between = when("$n", literal(self.between))
        return f"{{{{ range $n, $t := {things} }}}}{between}{self.go_item()}{{{{ end }}}}"


@dataclass(frozen=True)
class ToolParts:
    """How a template writes tools, calls and results.

    `parts`: the texts of conversations with tools, in which LISTED stands for `tools`. `bare` begins an answer that
    only calls; `around` are the texts before and after what is said before a call, None: that is not written.
    """

    parts: TemplateParts
    tools: Listing
    bare: str
    around: tuple[str, str] | None
    calls: Listing
    results: Listing

    def answer(self, turn: Mapping[str, Any]) -> str:
        """An answer with calls."""
        said = turn.get("content") and self.around
        start = f"{said[0]}{turn['content']}{said[1]}" if said else self.bare
        return start + self.calls.opening + self.calls.all(turn["tool_calls"]) + self.calls.closing

    def go_answer(self, otherwise: str) -> str:
        """`answer` in Go; `otherwise` is one without calls."""
        start = literal(self.bare)
        if self.around:
            said = literal(self.around[0]) + "{{ .Content }}" + literal(self.around[1])
            start = when(".Content", said, start)
        calls = literal(self.calls.opening) + self.calls.go_all(".ToolCalls") + literal(self.calls.closing)
        # Ollama takes the first text after "if .ToolCalls" for the mark of a call.
        return when("$m.ToolCalls", start) + when(".ToolCalls", calls, otherwise)


@dataclass(frozen=True)
class PromptForm:
    """How a chat template writes a prompt, with or without tools."""

    plain: TemplateParts
    tool: ToolParts | None = None

    def render(self, turns: Turns, tools: Tools = None, *, silent: bool = False) -> str:
        """What the Go template renders, step by step, in Python."""
        parts = self.tool.parts if tools and self.tool else self.plain
        system = "\n\n".join(turn["content"] for turn in turns if turn["role"] == "system")
        text, last = parts.head(system), ""
        for number, turn in enumerate(turns):
            text += self._closing(last, turn["role"])
            if turn["role"] == "user":
                text += parts.before_question(number, turns, system) + turn["content"] + parts.user[1]
            elif turn["role"] == "assistant":
                text += self._answer(turn)
            elif turn["role"] == "tool":
                text += self._result(turn, last)
            last = turn["role"]
        text += self._closing(last, "") + (parts.answer if parts.silent is None or not silent else parts.silent)
        return text.replace(LISTED, self.tool.tools.all(tools)) if tools and self.tool else text

    def _answer(self, turn: Mapping[str, Any]) -> str:
        if turn.get("tool_calls") and self.tool:
            return self.tool.answer(turn)
        return f"{self.plain.assistant[0]}{turn['content']}{self.plain.assistant[1]}"

    def _result(self, turn: Mapping[str, Any], last: str) -> str:
        """A result, which may follow another."""
        if not self.tool:
            return ""
        results = self.tool.results
        return (results.between if last == "tool" else results.opening) + results.of(turn)

    def _closing(self, last: str, role: str) -> str:
        """What ends results, where this role follows."""
        return self.tool.results.closing if self.tool and last == "tool" != role else ""

    def as_go(self) -> str:
        """The Go template, without extra white space, which would be rendered."""
        turn = f'{{{{ if eq .Role "user" }}}}{self._go_question()}'
        turn += f'{{{{ else if eq .Role "assistant" }}}}{self._go_answer()}'
        after = ""
        if self.tool:
            results = self.tool.results
            closing = literal(results.closing)
            opening = when('eq $last "tool"', literal(results.between), literal(results.opening))
            turn = when('and (eq $last "tool") (ne .Role "tool")', closing) + turn
            turn += f'{{{{ else if eq .Role "tool" }}}}{opening}{results.go_item()}'
            after = when('eq $last "tool"', closing)
        turn += "{{ end }}" + ("{{ $last = .Role }}" if self.tool else "")
        turn += _THOUGHT if self.plain.silent is not None else ""
        body = f"{self._go_head()}{{{{ range $i, $m := .Messages }}}}{turn}{{{{ end }}}}{after}{self._go_last()}"
        return definitions(body) + body

    def _go_head(self) -> str:
        """The variables that turns need, and what stands before the first."""
        head = self._go_either(TemplateParts.go_head)
        if self.tool:
            head = '{{ $last := "" }}' + head
        if self.tool and self.tool.parts.before_last:
            last = when('eq .Role "user"', "{{ $asked = $i }}")
            head = f"{{{{ $asked := -1 }}}}{{{{ range $i, $m := .Messages }}}}{last}{{{{ end }}}}{head}"
        return head

    def _go_question(self) -> str:
        return self._go_either(TemplateParts.go_before_question) + "{{ .Content }}" + literal(self.plain.user[1])

    def _go_answer(self) -> str:
        answer = literal(self.plain.assistant[0]) + "{{ .Content }}" + literal(self.plain.assistant[1])
        return self.tool.go_answer(answer) if self.tool else answer

    def _go_last(self) -> str:
        """What opens the turn to generate."""
        answer = literal(self.plain.answer)
        if self.plain.silent is None:
            return answer
        return when("and $.IsThinkSet (not $.Think)", literal(self.plain.silent), answer)

    def _go_either(self, part: Callable[[TemplateParts], str]) -> str:
        """A part of the template, which may be another where there are tools."""
        plain = part(self.plain)
        if not self.tool:
            return plain
        with_tools = part(self.tool.parts).replace(LISTED, self.tool.tools.go_all("$.Tools"))
        return plain if plain == with_tools else when("$.Tools", with_tools, plain)
