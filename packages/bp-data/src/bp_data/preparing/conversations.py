"""Keeping conversations with tools or thoughts as messages: an export asks those that were held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bp_core.examples import Conversation, Example, spread

from ..formats.records import Record
from ..tokenizer.thoughts_template import has_thoughts
from ..tokenizer.tools_template import has_tools

_MOST = 1024  # rows that are kept until it is known which are held out


@dataclass(frozen=True)
class KeptConversation:
    """A conversation, and the digest of its tokens, by which it is found among examples."""

    key: str
    conversation: Conversation


class ConversationCandidates:
    """A bounded number of conversations with tools or thoughts, spread evenly over the data."""

    def __init__(self) -> None:
        self._kept: list[KeptConversation] = []
        self._seen, self._stride = 0, 1

    def add(self, record: Record, tokens: Sequence[int]) -> None:
        """Add a conversation in the order of the data; one without tools and thoughts is left out."""
        turns = record.content
        if isinstance(turns, str) or not (has_tools(turns, record.tools) or has_thoughts(turns)):
            return
        if self._seen % self._stride == 0:
            self._kept.append(KeptConversation(_key(tokens), Conversation(turns, record.tools)))
        self._seen += 1
        if len(self._kept) > _MOST:
            self._kept, self._stride = self._kept[::2], self._stride * 2

    def kept(self) -> tuple[KeptConversation, ...]:
        return tuple(self._kept)


def among(kept: Iterable[KeptConversation], examples: Iterable[Example], count: int) -> list[Conversation]:
    """Up to `count` of the conversations that are among the examples, spread over them."""
    keys = {_key(example.tokens) for example in examples}
    return spread([one.conversation for one in kept if one.key in keys], count)


def _key(tokens: Sequence[int]) -> str:
    return hashlib.blake2b(np.asarray(tokens, dtype=np.int32).tobytes(), digest_size=16).hexdigest()
