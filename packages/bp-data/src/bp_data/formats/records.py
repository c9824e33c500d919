"""The internal forms of a row: a demonstration, a comparison of two answers, or one rated answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

# role and content, and where the row has them tool_calls, reasoning_content, name, tool_call_id
Turn = dict[str, Any]
Tools = tuple[dict[str, Any], ...]  # JSON schemas, as OpenAI and transformers write them


@dataclass(frozen=True, slots=True)
class Record:
    """A demonstration: a conversation or raw text. `untrained`: indices of assistant turns that carry no loss.

    `unused`, here and below, names the columns of the row that may belong to the prompt or the answer, and are not
    learned.
    """

    format: str
    content: list[Turn] | str
    where: str
    untrained: tuple[int, ...] = ()
    tools: Tools = ()
    unused: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Preference:
    """Two continuations of the same prompt, each ending with an answer; `chosen` is the better one."""

    format: str
    prompt: list[Turn]
    chosen: list[Turn]
    rejected: list[Turn]
    where: str
    tools: Tools = ()
    unused: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Rated:
    """A conversation whose last answer is rated as `desirable` or not."""

    format: str
    turns: list[Turn]
    desirable: bool
    where: str
    tools: Tools = ()
    unused: tuple[str, ...] = field(default=(), compare=False)


AnyRecord = Record | Preference | Rated


def demonstrations(record: AnyRecord) -> Iterator[Record]:
    """The conversations to tokenise: for a preference the chosen, then the rejected one, with loss on the last answer
    only."""
    if isinstance(record, Record):
        yield record
    elif isinstance(record, Rated):
        yield _last_answer(record, record.turns)
    else:
        yield _last_answer(record, record.prompt + record.chosen)
        yield _last_answer(record, record.prompt + record.rejected)


def content_of(record: AnyRecord) -> Any:
    """The row's content as a JSON value that is the same for equal rows of different formats."""
    if isinstance(record, Preference):
        content: Any = [record.prompt, record.chosen, record.rejected]
    elif isinstance(record, Rated):
        content = [record.turns, record.desirable]
    else:
        content = record.content
    return [content, record.tools] if record.tools else content


def _last_answer(record: Preference | Rated, turns: list[Turn]) -> Record:
    answers = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
    return Record(record.format, turns, record.where, tuple(answers[:-1]), record.tools)
