"""Rows with thoughts in several answers: a chat template shows only the last one's, so each is learned in an example.

An example ends with the answer whose thought it shows, and only that is learned there; so each answer is learned once,
after the history that the model will see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from bp_core.choices import TrainOn
from bp_core.errors import BadRow, TemplateUnusable

from ..formats.records import Record, Turn
from ..tokenizer.chat_tokenizer import ChatTokenizer
from ..tokenizer.thoughts_template import has_thoughts
from .render import lay_out


def with_each_thought(record: Record, tokenizer: ChatTokenizer, train_on: TrainOn) -> list[Record]:
    """The row as one record for each question whose answer has a thought; as it is where the template shows them all.

    So it is, too, where not all answers are learned, and for what the template refuses.
    """
    if isinstance(record.content, str) or train_on != "assistant":
        return [record]
    ends = _ends(record, record.content)
    if len(ends) < 2 or not _leaves_out(record, tokenizer):
        return [record]
    return list(_records(record, record.content, ends))


def _ends(record: Record, turns: Sequence[Turn]) -> list[int]:
    """Where the examples of a row end: after the last learned answer to each question that was thought about, and after
    the last one of all."""
    ends: list[int] = []
    thinks, last = False, 0
    for index, turn in enumerate(turns):
        if turn["role"] == "user":
            ends += [last] if thinks else []
            thinks = False
        elif turn["role"] == "assistant" and index not in record.untrained:
            thinks = thinks or has_thoughts([turn])
            last = index + 1
    return [*ends, last] if not ends or last > ends[-1] else ends


def _leaves_out(record: Record, tokenizer: ChatTokenizer) -> bool:
    try:
        return lay_out(record, tokenizer).left_out > 0
    except (TemplateUnusable, BadRow):
        return False


def _records(record: Record, turns: list[Turn], ends: Sequence[int]) -> Iterator[Record]:
    start = 0
    for end in ends:
        answers = (index for index, turn in enumerate(turns[:end]) if turn["role"] == "assistant")
        silent = tuple(index for index in answers if index < start or index in record.untrained)
        yield replace(record, content=turns[:end], untrained=silent)
        start = end
