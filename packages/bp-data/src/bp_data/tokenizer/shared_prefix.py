"""The common beginning of many texts, such as a system prompt, which is tokenised only once."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from tokenizers import AddedToken, Tokenizer


class SharedPrefix:
    """Finds added tokens at which a text can be cut without changing its tokens.

    A tokenizer first splits a text at its added tokens. Cutting there is safe if normalizer and pre-tokenizer treat
    each part separately, which is known for some kinds, and if no other added token can overlap the cut.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        added = list(tokenizer.get_added_tokens_decoder().values()) if _parts_alone(tokenizer) else []
        borders = [token.content for token in added if _is_border(token, added)]
        self._border = re.compile("|".join(map(re.escape, borders))) if borders else None

    def shared(self, texts: Sequence[str]) -> int:
        """The length, in characters, of the common beginning up to its last safe cut; 0 if there is none."""
        if self._border is None:
            return 0
        first, last = min(texts), max(texts)  # what these two share, all share
        pairs = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
        common = "".join(character for character, _ in pairs)
        return max((match.start() for match in self._border.finditer(common)), default=0)


def _parts_alone(tokenizer: Tokenizer) -> bool:
    """Whether text between added tokens is tokenised independently of what surrounds it."""
    normalizer, splitter = _state(tokenizer.normalizer), _state(tokenizer.pre_tokenizer)
    kinds = splitter.get("pretokenizers", [splitter])
    alone = all(
        kind.get("type") in ("Digits", "Split") or (kind.get("type") == "ByteLevel" and not kind["add_prefix_space"])
        for kind in kinds
    )
    return alone and normalizer.get("type") in (None, "NFC")


def _state(part: Any) -> dict[str, Any]:
    """A part of the tokenizer as its JSON describes it."""
    state: dict[str, Any] = json.loads(part.__getstate__()) if part is not None else {}
    return state


def _is_border(token: AddedToken, added: Sequence[AddedToken]) -> bool:
    text = token.content
    if token.lstrip or token.single_word or token.normalized or text != text.strip():
        return False
    others = [other.content for other in added if other.content != text]
    return not any(text in other or any(other.endswith(text[:k]) for k in range(1, len(text))) for other in others)
