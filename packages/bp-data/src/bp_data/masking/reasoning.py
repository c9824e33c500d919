"""Reasoning traces: the text of an answer between <think> and </think>."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bp_core.errors import TemplateUnusable
from bp_core.thought_marks import CLOSE, OPEN

from ..formats.records import Record
from ..tokenizer.chat_tokenizer import ChatTokenizer

Verdict = Literal["kept", "none", "short", "long", "unbalanced"]
VERDICTS: tuple[Verdict, ...] = ("kept", "none", "short", "long", "unbalanced")
_TAGS = re.compile(f"({OPEN}|{CLOSE})")
_TWICE = re.compile(rf"{OPEN}\s*{OPEN}")


@dataclass(frozen=True)
class Limits:
    """The shortest and the longest trace to keep, in tokens, both included."""

    shortest: int
    longest: int


def opens_thought(tokenizer: ChatTokenizer) -> bool:
    """Whether the template's generation prompt ends with <think>."""
    question = [{"role": "user", "content": "?"}]
    return tokenizer.render(question, add_generation_prompt=True).rstrip().endswith(OPEN)


def judge(records: Sequence[Record], tokenizer: ChatTokenizer, limits: Limits, opened: bool) -> list[Verdict]:
    """The verdict on each row, from the trace of its last trained answer. `opened` is `opens_thought`."""
    traces = [_trace(record, opened) for record in records]
    lengths = [len(found.ids) for found in tokenizer.tokens([trace or "" for trace in traces])]
    return [_verdict(trace, length, limits) for trace, length in zip(traces, lengths, strict=True)]


def check_written(record: Record, text: str) -> None:
    """Raise TemplateUnusable if the rendered text lacks the row's reasoning, or opens it twice."""
    trace = _trace(record, opened=True)
    if trace and trace.strip() not in text:
        raise TemplateUnusable("the chat template leaves out the reasoning of the answer.", where=record.where)
    if _TWICE.search(text):
        fix = f"Leave the opening {OPEN} out of the rows."
        raise TemplateUnusable(
            f"the chat template opens {OPEN} itself, and so does the row.", where=record.where, fix=fix
        )


def _verdict(trace: str | None, length: int, limits: Limits) -> Verdict:
    if trace is None:
        return "unbalanced"
    if not trace.strip():
        return "none"
    if length < limits.shortest:
        return "short"
    return "long" if length > limits.longest else "kept"


def _trace(record: Record, opened: bool) -> str | None:
    """The reasoning of the last trained answer, "" if it has none; None if its tags do not match."""
    thought, content = "", record.content
    if not isinstance(content, str):
        answers = [turn for i, turn in enumerate(content) if turn["role"] == "assistant" and i not in record.untrained]
        thought, content = answers[-1].get("reasoning_content", ""), answers[-1]["content"]
    parts = _TAGS.split(content)
    tags = parts[1::2]
    if opened and tags[:1] == [CLOSE]:
        parts, tags = ["", OPEN, *parts], [OPEN, *tags]
    if tags != [OPEN, CLOSE] * (len(tags) // 2) or (thought and tags):
        return None
    return thought or "\n".join(parts[2::4])
