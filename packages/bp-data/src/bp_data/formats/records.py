"""The internal forms of a row: a demonstration, a comparison of two answers, or one rated answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# role and content, and where the row has them tool_calls, reasoning_content, name, tool_call_id
Turn = dict[str, Any]
Tools = tuple[dict[str, Any], ...]  # JSON schemas, as OpenAI and transformers write them


@dataclass(frozen=True, slots=True)
class Record:
    """A demonstration. `content` is a conversation or raw text.

    `untrained` are the indices of assistant turns that carry no loss, because the row says so.
    """

    format: str
    content: list[Turn] | str
    where: str
    untrained: tuple[int, ...] = ()
    tools: Tools = ()


@dataclass(frozen=True, slots=True)
class Preference:
    """Two ways to go on after the same turns, each ending with an answer; `chosen` is the better one."""

    format: str
    prompt: list[Turn]
    chosen: list[Turn]
    rejected: list[Turn]
    where: str
    tools: Tools = ()


@dataclass(frozen=True, slots=True)
class Rated:
    """A conversation whose last answer is `desirable`, or is not."""

    format: str
    turns: list[Turn]
    desirable: bool
    where: str
    tools: Tools = ()


AnyRecord = Record | Preference | Rated


def demonstrations(record: AnyRecord) -> Iterator[Record]:
    """The conversations in a record: of a comparison the chosen one and then the rejected, with loss on the last answer
    only."""
    if isinstance(record, Record):
        yield record
    elif isinstance(record, Rated):
        yield _last_answer(record, record.turns)
    else:
        yield _last_answer(record, record.prompt + record.chosen)
        yield _last_answer(record, record.prompt + record.rejected)


def content_of(record: AnyRecord) -> Any:
    """What the row says, whatever its format, as JSON values: equal rows say the same."""
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
