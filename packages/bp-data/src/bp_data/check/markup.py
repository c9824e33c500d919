"""Strings inside the text that chat templates use as markup, and that a model would misread."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..formats.rendered_text import MARKUPS
from ..tokenizer.chat_tokenizer import ChatTokenizer
from .secrets import Spot

# Also HTML (strikethrough), so they count only if they are tokens of the model.
_ORDINARY = {"<s>", "</s>"}
_FURTHER = {"<|endoftext|>", "<|eom_id|>", "<|end_of_turn|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"}
_GEMMA = {"<start_of_turn>", "<end_of_turn>"}
_KNOWN = ({marker for markup in MARKUPS for marker in markup.markers} | _FURTHER | _GEMMA) - _ORDINARY


class Markup:
    """Finds templates' markup, and the special tokens of `tokenizer`, if there is one."""

    def __init__(self, tokenizer: ChatTokenizer | None) -> None:
        words = _KNOWN | (set(tokenizer.special) if tokenizer else set())
        self._signs = sorted({word[0] for word in words})
        self._pattern = re.compile("|".join(map(re.escape, sorted(words, key=lambda word: (-len(word), word)))))

    def __call__(self, text: str) -> Iterator[Spot]:
        if not any(sign in text for sign in self._signs):
            return
        found = list(self._pattern.finditer(text))
        if found:
            words = ", ".join(dict.fromkeys(match[0] for match in found))
            yield "markup", f"the text holds {words}", found[0].start()
