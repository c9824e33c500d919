"""The loss mask: assistant turns are trained, from the end of the generation prompt to the end of the terminator.

The spans are found in the rendered text and mapped to tokens by character offsets. Where they are not certain an error
is raised.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bp_core.choices import TrainOn
from bp_core.config import TrainConfig
from bp_core.contract import Bos
from bp_core.errors import TemplateUnusable

from ..formats.records import Preference, Rated, Record, demonstrations
from ..tokenizer.byte_offsets import Tokens, first_ending, first_starting
from ..tokenizer.chat_tokenizer import ChatTokenizer
from .render import Layout, Span, lay_out

_NO_END = "Use a chat template that ends assistant turns with a special token, such as the eos token."


@dataclass(frozen=True, slots=True)
class Masked:
    """A tokenised row. `trained` has a 1 for each token with loss, `ends` the index of each trained turn's terminator.

    `prompt` counts the tokens before the first trained one; in raw text half of all. `left_out` and `ids_made_up` as in
    `Layout`.
    """

    text: str
    tokens: array[int]
    trained: bytes
    prompt: int
    ends: tuple[int, ...]
    bos: Bos
    left_out: int = 0
    ids_made_up: int = 0

    def cut(self, length: int) -> int:
        """The number of tokens to keep, at most `length`: up to the last answer that fits, or `length` if none does."""
        if len(self.tokens) <= length:
            return len(self.tokens)
        return max((end + 1 for end in self.ends if end < length), default=length)

    def pieces(self, length: int, overlap: int, prefix: Sequence[int]) -> list[tuple[array[int], bytes]]:
        """A raw text as pieces of at most `length` tokens, with their loss masks; every token is trained once.

        Each piece after the first begins with the tokenizer's `prefix`, if the text does, and with the last `overlap`
        tokens before it, which are context without loss. Without either one such token is there: the first token of an
        example is never trained.
        """
        first = array("i", prefix if self.bos == "tokenizer" else ())
        before = max(overlap, 0 if first else 1)
        found = [(self.tokens[:length], self.trained[:length])]
        at = length
        while at < len(self.tokens):
            end = at + length - len(first) - before
            tokens = first + self.tokens[at - before : end]
            found.append((tokens, bytes(len(first) + before) + self.trained[at:end]))
            at = end
        return found


def mask(record: Record, tokenizer: ChatTokenizer, train_on: TrainOn = TrainConfig.train_on) -> Masked:
    """Render, tokenise and mask a row. Raises TemplateUnusable, BadRow."""
    layout = lay_out(record, tokenizer, train_on)
    return mark(layout, tokenizer.encodings([layout.text])[0], tokenizer)


def mask_preference(record: Preference, tokenizer: ChatTokenizer) -> tuple[Masked, Masked]:
    """The chosen and the rejected conversation, each with loss on its last answer, after the same prompt.

    Raises TemplateUnusable, BadRow.
    """
    chosen, rejected = (mask(row, tokenizer) for row in demonstrations(record))
    check_prompts(record, chosen, rejected)
    return chosen, rejected


def check_prompts(record: Preference, chosen: Masked, rejected: Masked) -> None:
    """Raise TemplateUnusable if the prompts before the two answers have different tokens."""
    common = min(chosen.prompt, rejected.prompt)
    if len(record.chosen) == len(record.rejected) == 1 and chosen.tokens[:common] != rejected.tokens[:common]:
        message = "the chat template writes the prompt differently before the chosen and the rejected answer."
        raise TemplateUnusable(message, where=record.where)


def mask_rated(record: Rated, tokenizer: ChatTokenizer) -> Masked:
    """The conversation, with loss on its last answer. Raises TemplateUnusable, BadRow."""
    (row,) = demonstrations(record)
    return mask(row, tokenizer)


def mark(layout: Layout, found: Tokens, tokenizer: ChatTokenizer) -> Masked:
    """Map the layout's spans to its tokens. Raises TemplateUnusable for a turn without terminator."""
    prefix = tokenizer.prefix if layout.bos == "tokenizer" else ()
    ids = found.ids
    tokens = array("i", prefix)
    tokens.extend(ids)
    trained = bytearray(len(prefix)) + bytes([layout.whole]) * len(ids)
    place = _TokenPositions(layout.text, ids, found, tokenizer.added)
    turns = [place.tokens(span, layout.where) for span in layout.spans]
    for first, last in turns:
        trained[len(prefix) + first : len(prefix) + last + 1] = bytes([1]) * (last + 1 - first)
    trained[0] = 0
    ends = tuple(len(prefix) + last for _, last in turns) or (len(tokens) - 1,)
    prompt = len(prefix) + turns[0][0] if turns else len(tokens) // 2
    counts = {"left_out": layout.left_out, "ids_made_up": layout.ids_made_up}
    return Masked(layout.text, tokens, bytes(trained), max(1, prompt), ends, layout.bos, **counts)


class _TokenPositions:
    """Maps spans of characters to tokens.

    A token across a border belongs to the side of its last character: one that begins in the prompt and ends in the
    answer is trained. An added token may include white space on either side (lstrip, rstrip), which is ignored. Offsets
    are read one token at a time, because a list of all would take as long as the rest of the row.
    """

    def __init__(self, text: str, ids: Sequence[int], found: Tokens, added: frozenset[int]):
        self._text, self._ids, self._added, self._found = text, ids, added, found
        self._chars: Callable[[int], tuple[int, int]] = found.token_to_chars

    def tokens(self, span: Span, where: str) -> tuple[int, int]:
        """The indices of the first and last trained token of a turn; the last is its terminator."""
        first = first_ending(self._found, span.start + 1)
        while first < len(self._ids) and self._ids[first] in self._added and self._literal(first) < span.start:
            first += 1
        last = first_starting(self._found, span.end) - 1
        while last >= first and not (self._ids[last] in self._added and self._literal_end(last) <= span.end):
            last -= 1
        if last < first or self._literal(last) < span.answer:
            message = "the chat template ends an assistant turn with no special token, so the model would never stop."
            raise TemplateUnusable(message, where=where, fix=_NO_END)
        return first, last

    def _literal(self, index: int) -> int:
        start, end = self._chars(index)
        return end - len(self._text[start:end].lstrip())

    def _literal_end(self, index: int) -> int:
        start, end = self._chars(index)
        return start + len(self._text[start:end].rstrip())
