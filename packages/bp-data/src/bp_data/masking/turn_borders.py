"""Finding the borders of turns in a rendered conversation, by rendering it with placeholders.

Each text is replaced by a hole, a unique word, and the conversation is rendered: the pieces between the holes are the
template's own text. If the real rendering is these pieces with the texts in the holes, the position of every text is
known. The borders of an assistant turn are verified by rendering the prompt before it, and the conversation with and
without the turns after it. Only the text next to the turn must agree, so a template may move tools, system texts or
reasoning elsewhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile

from bp_core.errors import TemplateUnusable
from bp_core.thought_marks import OPEN

from ..formats.records import Tools, Turn
from ..tokenizer.chat_tokenizer import ChatTokenizer

Hole = tuple[int, int]  # index of the turn, and number of the text in it
Texts = Mapping[Hole, str]
_HOLE = re.compile(r"Zq(\d+)v(\d+)qZ")
_THOUGHT = re.compile(r"(</?think>)")  # templates take contents apart there
_CACHED = 512  # skeletons in the cache; conversations with the same roles share one
_ASKING_FIX = (
    "It begins a thought in the prompt and takes it from the answers, so it is for asking only. Put a "
    "chat_template.jinja that does neither into the model's folder: docs/methods.md, 'Reasoning traces', shows how."
)
NO_TOOLS = (
    "Give it tools (--tools-template hermes), use a model whose template has some, or remove tools and calls from the "
    "rows."
)
_LAST_FIX = "Train on the last answer only (--train-on last), or use a model whose template keeps earlier turns."


@dataclass(frozen=True, slots=True)
class Place:
    """A position in the template's own text: the piece, from 0, and the offset in it, in characters."""

    piece: int
    offset: int


@dataclass(frozen=True, slots=True)
class Border:
    """An assistant turn: `start` after its prompt, `answer` after its texts, `end` after what closes it."""

    start: Place
    answer: Place
    end: Place


class Skeleton:
    """A conversation rendered with holes. Raises TemplateUnusable if the template leaves out a turn."""

    def __init__(self, turns: Sequence[Turn], tools: Tools, tokenizer: ChatTokenizer) -> None:
        self._turns, self._tools, self._tokenizer = turns, tools, tokenizer
        text, self._marks = tokenizer.template_for(turns, tools).render_marked(turns, tools=tools)
        self.pieces, self.holes = _cut(text)
        self._borders: dict[int, Border | TemplateUnusable] = {}
        self.missing = frozenset(_holes_of(turns)) - set(self.holes)
        for index, turn in enumerate(turns):
            self._check(index, turn)

    def fill(self, texts: Texts, text: str) -> list[int] | None:
        """The start of each piece in `text`, in characters; None if `text` is not the pieces with `texts` between."""
        starts, position = [0], 0
        for piece, hole in zip(self.pieces, self.holes, strict=False):
            position += len(piece)
            written = _written(texts[hole], text, position) if hole in texts else None
            if written is None:
                return None
            position += len(written)
            starts.append(position)
        whole = all(text.startswith(piece, start) for piece, start in zip(self.pieces, starts, strict=True))
        return starts if whole and starts[-1] + len(self.pieces[-1]) == len(text) else None

    def border(self, index: int) -> Border:
        """The borders of assistant turn `index`. Raises TemplateUnusable if they cannot be verified."""
        if index not in self._borders:
            try:
                self._borders[index] = self._marked(index) or self._proven(index)
            except TemplateUnusable as error:
                self._borders[index] = error
        border = self._borders[index]
        if isinstance(border, TemplateUnusable):
            raise border
        return border

    def _check(self, index: int, turn: Turn) -> None:
        """A template may leave out some texts of an answer, but not a whole turn or its tool calls."""
        holes = _holes_of([turn], index)
        lost = [hole for hole in holes if hole in self.missing]
        name = f"turn {index + 1} ({turn['role']})"
        if lost and turn.get("tool_calls") and holes[-1] in self.missing:
            raise TemplateUnusable(f"the chat template leaves out the tool calls of {name}.", fix=NO_TOOLS)
        if lost and (len(lost) == len(holes) or turn["role"] != "assistant"):
            fix = "Put its text into another turn, or use a model whose template writes such turns."
            raise TemplateUnusable(f"the chat template leaves out {name}.", fix=fix)
        if turn["role"] == "assistant" and any(self.holes.count(hole) > 1 for hole in holes):
            raise TemplateUnusable(f"the chat template writes {name} more than once.")

    def _marked(self, index: int) -> Border | None:
        """The borders from a {% generation %} block, if it contains the turn's texts and terminator."""
        first, last = self._ends_of(index)
        starts = self._starts()
        for start, end in self._marks:
            begun, done = self._place(start, starts), self._place(end, starts)
            closing = self.pieces[last + 1][: done.offset] if done.piece == last + 1 else ""
            if begun.piece == first and self._tokenizer.ends_turn(closing):
                return Border(begun, Place(last + 1, 0), done)
        return None

    def _starts(self) -> list[int]:
        """The start of each piece in the rendering with holes."""
        starts = [0]
        for piece, hole in zip(self.pieces, self.holes, strict=False):
            starts.append(starts[-1] + len(piece) + len(_word(hole)))
        return starts

    def _place(self, position: int, starts: list[int]) -> Place:
        piece = max(number for number, start in enumerate(starts) if start <= position)
        return Place(piece, position - starts[piece])

    def _proven(self, index: int) -> Border:
        first, last = self._ends_of(index)
        return Border(Place(first, self._prompt_end(index, first)), Place(last + 1, 0), self._closing(index, last))

    def _ends_of(self, index: int) -> tuple[int, int]:
        """The numbers, in the rendering, of the turn's first and last hole."""
        own = [number for number, (turn, _) in enumerate(self.holes) if turn == index]
        if not own:
            raise TemplateUnusable(f"assistant turn {index + 1} has no text to be found by.")
        if own != list(range(own[0], own[-1] + 1)):
            raise TemplateUnusable(f"the chat template writes other turns between parts of assistant turn {index + 1}.")
        return own[0], own[-1]

    def _prompt_end(self, index: int, first: int) -> int:
        """The length of the generation prompt in the piece before the turn."""
        pieces, holes = _cut(self._render(self._turns[:index], True))
        before = self.holes[first - 1] if first else None
        if (holes[-1] if holes else None) != before or not self.pieces[first].startswith(pieces[-1]):
            message = (
                f"the chat template writes assistant turn {index + 1} differently from the prompt that asks for it."
            )
            raise TemplateUnusable(message, fix=self._prompt_fix(index, pieces[-1]))
        return len(pieces[-1])

    def _prompt_fix(self, index: int, prompt: str) -> str | None:
        """What helps where the generation prompt, which ends with `prompt`, is not what stands before the answer."""
        if prompt.rstrip().endswith(OPEN) and not any(OPEN in piece for piece in self.pieces):
            return _ASKING_FIX
        return _LAST_FIX if index < len(self._turns) - 1 else None

    def _closing(self, index: int, last: int) -> Place:
        """The end of the text that closes the turn: as far as it is the same with and without a turn after it.

        The last turn may be closed differently, because there the model stops.
        """
        own, hole = self.pieces[last + 1], self.holes[last]
        if index == len(self._turns) - 1:
            question = {"role": "user", "content": _word((len(self._turns), 0))}
            other = self._after(hole, [*self._turns, question], optional=True)
            common = len(own) if other is None else _common(own, other)
            return Place(last + 1, common if self._tokenizer.ends_turn(own[:common]) else len(own))
        other = self._after(hole, self._turns[: index + 1])
        common = _common(own, other or "")
        if other is None or (self._tokenizer.ends_turn(other) and not self._tokenizer.ends_turn(own[:common])):
            message = f"the chat template ends assistant turn {index + 1} differently when turns follow it."
            raise TemplateUnusable(message, fix=_LAST_FIX)
        return Place(last + 1, common)

    def _after(self, hole: Hole, turns: Sequence[Turn], *, optional: bool = False) -> str | None:
        """The text between a hole and the next one in another rendering."""
        try:
            pieces, holes = _cut(self._render(turns, False))
        except TemplateUnusable:
            if optional:
                return None
            raise
        return pieces[holes.index(hole) + 1] if holes.count(hole) == 1 else None

    def _render(self, turns: Sequence[Turn], prompt: bool) -> str:
        return self._tokenizer.render(turns, prompt, self._tools)


def with_holes(turns: Sequence[Turn], only: int | None = None) -> tuple[list[Turn], dict[Hole, str]]:
    """The turns with holes in place of their texts (in turn `only`, or in all), and the texts."""
    texts: dict[Hole, str] = {}
    punched = [turn if only not in (None, index) else _punched(index, turn, texts) for index, turn in enumerate(turns)]
    return punched, texts


def skeleton_of(turns: Sequence[Turn], tools: Tools, tokenizer: ChatTokenizer) -> Skeleton:
    """The skeleton of turns with holes, from a cache. Raises TemplateUnusable."""
    return _skeleton(json.dumps([turns, tools]), tokenizer)


@lru_cache(_CACHED)
def _skeleton(key: str, tokenizer: ChatTokenizer) -> Skeleton:
    turns, tools = json.loads(key)
    return Skeleton(turns, tuple(tools), tokenizer)


def _punched(index: int, turn: Turn, texts: dict[Hole, str]) -> Turn:
    """The turn with holes: for its reasoning, the parts of its content, and the name of its first tool call."""
    punched = dict(turn)

    def punch(text: str) -> str:
        core = text.strip()
        if not core:
            return text
        hole = (index, len([other for other in texts if other[0] == index]))
        texts[hole] = core
        return text.replace(core, _word(hole), 1)

    if "reasoning_content" in turn:
        punched["reasoning_content"] = punch(turn["reasoning_content"])
    parts = _THOUGHT.split(turn["content"])
    punched["content"] = "".join(part if _THOUGHT.fullmatch(part) else punch(part) for part in parts)
    if turn.get("tool_calls"):
        first, *rest = turn["tool_calls"]
        function = {**first["function"], "name": punch(first["function"]["name"])}
        punched["tool_calls"] = [{**first, "function": function}, *rest]
    return punched


def _word(hole: Hole) -> str:
    return "Zq{}v{}qZ".format(*hole)


def _cut(text: str) -> tuple[list[str], list[Hole]]:
    """The pieces of a text, and the holes between them, one fewer."""
    pieces, holes, end = [], [], 0
    for match in _HOLE.finditer(text):
        pieces.append(text[end : match.start()])
        holes.append((int(match[1]), int(match[2])))
        end = match.end()
    return [*pieces, text[end:]], holes


def _holes_of(turns: Iterable[Turn], first: int = 0) -> list[Hole]:
    """The holes in turns, in the order in which they were punched."""
    found = []
    for index, turn in enumerate(turns, first):
        values = [turn.get("reasoning_content", ""), turn["content"]]
        values += [call["function"]["name"] for call in turn.get("tool_calls", [])]
        found += [hole for value in values for hole in _cut(value)[1] if hole[0] == index]
    return found


def _written(text: str, where: str, position: int) -> str | None:
    """The text as written at the position: unchanged, or in JSON's escapes; None if it is not there."""
    if where.startswith(text, position):
        return text
    forms = (json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1])
    return next((form for form in forms if where.startswith(form, position)), None)


def _common(one: str, other: str) -> int:
    """The length of the common beginning, in characters."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
