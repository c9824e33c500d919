"""A row as the model sees it: every token, its text, whether it is trained, and its turn."""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from bp_core.choices import TrainOn
from bp_core.config import TrainConfig
from bp_core.errors import TemplateUnusable

from .formats.records import Record
from .masking.loss_mask import mark
from .masking.render import lay_out
from .tokenizer.chat_tokenizer import ChatTokenizer


@dataclass(frozen=True, slots=True)
class Part:
    """Token counts of a turn, with the template's text around it. Turns that the template joins are one part."""

    role: str
    tokens: int
    trained: int


@dataclass(frozen=True, slots=True)
class RowView:
    """A row token by token. The joined pieces are the rendered text, after a BOS that the tokenizer adds."""

    where: str
    format: str
    tokens: list[int]
    pieces: list[str]
    trained: list[bool]
    parts: list[Part]

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def stretches(self) -> Iterator[tuple[str, bool]]:
        """The text in runs of tokens that are all trained or all not, each with that flag."""
        borders = [i for i in range(1, len(self.tokens)) if self.trained[i] != self.trained[i - 1]]
        for start, end in pairwise([0, *borders, len(self.tokens)]):
            yield "".join(self.pieces[start:end]), self.trained[start]


def show(record: Record, tokenizer: ChatTokenizer, train_on: TrainOn = TrainConfig.train_on) -> RowView:
    """The tokens and loss mask of a record, as in training. Raises TemplateUnusable, BadRow."""
    layout = lay_out(record, tokenizer, train_on)
    encoding = tokenizer.encodings([layout.text])[0]
    masked = mark(layout, encoding, tokenizer)
    prefix = len(masked.tokens) - len(encoding.ids)
    ends = _ends(encoding.offsets, len(layout.text))
    pieces = [tokenizer.decode([token]) for token in masked.tokens[:prefix]]
    pieces += [layout.text[start:end] for start, end in pairwise([0, *ends])]
    parts = _parts(_turns(record, layout.text, tokenizer), [*[0] * prefix, *ends], masked.trained)
    trained = [bool(flag) for flag in masked.trained]
    return RowView(record.where, record.format, masked.tokens.tolist(), pieces, trained, parts)


def _ends(offsets: Sequence[tuple[int, int]], length: int) -> list[int]:
    """The end of each token's piece, so that the pieces cover the text without gap or overlap.

    A character that several tokens share goes to the first of them; the others are empty.
    """
    ends: list[int] = []
    for _, end in offsets:
        ends.append(max(end, ends[-1] if ends else 0))
    return [*ends[:-1], length]


def _turns(record: Record, text: str, tokenizer: ChatTokenizer) -> list[tuple[str, int]]:
    """Each turn's role and its end in the text. A turn that cannot be rendered alone is joined to the next."""
    if isinstance(record.content, str):
        return [("text", len(text))]
    turns: list[tuple[str, int]] = []
    roles: list[str] = []
    for index, turn in enumerate(record.content, 1):
        roles.append(turn["role"])
        end = len(text) if index == len(record.content) else _end(record, index, text, tokenizer)
        if end > (turns[-1][1] if turns else 0):
            turns.append((" + ".join(roles), end))
            roles = []
    return turns


def _end(record: Record, count: int, text: str, tokenizer: ChatTokenizer) -> int:
    """Where the first `count` turns end; 0 if the template writes them differently without the rest."""
    assert not isinstance(record.content, str), "raw text has no turns"
    try:
        start = tokenizer.render(record.content[:count], tools=record.tools)
    except TemplateUnusable:
        return 0
    return len(start) if text.startswith(start) else 0


def _parts(turns: Sequence[tuple[str, int]], ends: Sequence[int], trained: bytes) -> list[Part]:
    """Token counts of each turn; a token belongs to the turn in which its text ends."""
    borders = [0, *(bisect_right(ends, end) for _, end in turns)]
    return [
        Part(role, after - before, trained[before:after].count(1))
        for (role, _), (before, after) in zip(turns, pairwise(borders), strict=True)
    ]
