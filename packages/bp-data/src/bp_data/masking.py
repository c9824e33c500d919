"""Which tokens carry loss: each assistant turn from the end of its generation prompt to the end of its terminator.

The spans are found in the rendered text, by rendering with and without each turn, and carried over to the tokens of
the whole text by character offsets. Where the renderings do not add up there is an error, never a guess.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Encoding

from bp_core.contract import Bos
from bp_core.errors import BadRow, TemplateUnusable

from .chat import ChatTokenizer
from .formats import Record, Turn

_NO_END = "Use a chat template that ends assistant turns with a special token, such as the eos token."


@dataclass(frozen=True, slots=True)
class Span:
    """Where an assistant turn stands in the text: from the end of its generation prompt; `answer` is where its content
    ends at the earliest, so that a terminator spelled out inside the content is not taken for the turn's own."""

    start: int
    answer: int
    end: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A row as text, before tokenising. No spans means raw text, where everything is trained."""

    text: str
    spans: tuple[Span, ...]
    bos: Bos
    where: str


@dataclass(frozen=True, slots=True)
class Masked:
    """A row as tokens. `trained` has 1 for each token with loss, `ends` the index of each trained turn's terminator.

    `prompt` counts the tokens before the first trained one; for raw text, the tokens of its first half.
    """

    text: str
    tokens: array[int]
    trained: bytes
    prompt: int
    ends: tuple[int, ...]
    bos: Bos


def mask(record: Record, tokenizer: ChatTokenizer) -> Masked:
    """One row as text, tokens and loss mask. Raises TemplateUnusable, BadRow."""
    layout = lay_out(record, tokenizer)
    return mark(layout, tokenizer.encodings([layout.text])[0], tokenizer)


def lay_out(record: Record, tokenizer: ChatTokenizer) -> Layout:
    """The row's text and the spans of its assistant turns. Raises TemplateUnusable, BadRow."""
    if isinstance(record.content, str):
        return _raw(record.content, tokenizer, record.where)
    try:
        text = tokenizer.render(record.content)
        answers = [
            i for i, turn in enumerate(record.content) if turn["role"] == "assistant" and i not in record.untrained
        ]
        spans = tuple(_span(record.content, i, text, tokenizer) for i in answers)
    except TemplateUnusable as error:
        if record.content[0]["role"] == "assistant":
            message = f"the conversation starts with an assistant turn, which this chat template cannot do: {error}"
            raise BadRow(message, where=record.where, fix="Put a user turn before it, or remove it.") from error
        raise TemplateUnusable(error.message, where=record.where, fix=error.fix) from error
    return Layout(text, spans, tokenizer.bos(text), record.where)


def mark(layout: Layout, encoding: Encoding, tokenizer: ChatTokenizer) -> Masked:
    """Carry the layout's spans over to its tokens. Raises TemplateUnusable for a turn without terminator."""
    prefix = tokenizer.prefix if layout.bos == "tokenizer" else ()
    ids = encoding.ids
    tokens = array("i", [*prefix, *ids])
    if not layout.spans:
        trained = bytearray(len(prefix)) + bytes([1]) * len(ids)
        trained[0] = 0
        return Masked(layout.text, tokens, bytes(trained), max(1, len(tokens) // 2), (len(tokens) - 1,), layout.bos)
    trained, ends = bytearray(len(tokens)), []
    place = _Places(layout.text, ids, encoding.offsets, tokenizer.added)
    for span in layout.spans:
        first, last = (index + len(prefix) for index in place.tokens(span, layout.where))
        trained[first : last + 1] = bytes([1]) * (last + 1 - first)
        ends.append(last)
    trained[0] = 0
    return Masked(layout.text, tokens, bytes(trained), max(1, trained.find(1)), tuple(ends), layout.bos)


def _raw(text: str, tokenizer: ChatTokenizer, where: str) -> Layout:
    if tokenizer.eos_token is None:
        message = "the tokenizer names no eos_token, so a model trained on raw text would never stop."
        raise TemplateUnusable(message, where=where, fix="Add an eos_token to tokenizer_config.json.")
    # Text that was rendered beforehand may spell out its own BOS and EOS; neither is doubled.
    written = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    text += "" if text.endswith(tokenizer.eos_token) else tokenizer.eos_token
    return Layout(text, (), "tokenizer" if tokenizer.prefix and not written else "none", where)


def _span(turns: list[Turn], index: int, text: str, tokenizer: ChatTokenizer) -> Span:
    """The span of turn `index`: prompt before it ⊂ rendering up to and with it ⊂ the whole text, as prefixes."""
    before = tokenizer.render(turns[:index], add_generation_prompt=True)
    through = text if index == len(turns) - 1 else tokenizer.render(turns[: index + 1])
    name = f"assistant turn {index + 1}"
    if not through.startswith(before):
        raise TemplateUnusable(f"the chat template writes {name} differently from the prompt that asks for it.")
    if not text.startswith(through):
        raise TemplateUnusable(f"the chat template writes {name} differently when turns follow it.")
    content = turns[index]["content"].strip()
    found = text.find(content, len(before), len(through))
    answer = found + len(content) if found >= 0 else len(before)
    return Span(len(before), answer, len(through))


class _Places:
    """Where the tokens of a text stand.

    A token that straddles a border belongs where its last character stands: one that begins in the prompt and ends in
    the answer can only be learned as part of the answer. An added token belongs where its own text stands, since it may
    have swallowed white space on either side (lstrip, rstrip).
    """

    def __init__(self, text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]], added: frozenset[int]):
        self._text, self._ids, self._offsets, self._added = text, ids, offsets, added

    def tokens(self, span: Span, where: str) -> tuple[int, int]:
        """First and last trained token of a turn; the last is its terminator."""
        first = bisect_left(self._offsets, span.start + 1, key=lambda offset: offset[1])
        while first < len(self._ids) and self._ids[first] in self._added and self._literal(first) < span.start:
            first += 1
        last = bisect_left(self._offsets, span.end, key=lambda offset: offset[0]) - 1
        while last >= first and not (self._ids[last] in self._added and self._literal(last) < span.end):
            last -= 1
        if last < first or self._literal(last) < span.answer:
            message = "the chat template ends an assistant turn with no special token, so the model would never stop."
            raise TemplateUnusable(
                message, where=where, fix="Use a chat template that ends turns with a special token."
            )
        return first, last

    def _literal(self, index: int) -> int:
        start, end = self._offsets[index]
        return end - len(self._text[start:end].lstrip())
