"""Where tokens stand in a text, from the bytes that each spells.

The tokenizer can tell it too, but takes longer for everything then; here it is a sum of lengths. It is used only where
the tokens, spelled out, are the text byte for byte, so that the places cannot be others.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from tokenizers import Tokenizer

_PROBE = "A b\n é 👍"


class Tokens(Protocol):
    """A text as tokens: what is used of `tokenizers.Encoding`."""

    @property
    def ids(self) -> Sequence[int]: ...
    def token_to_chars(self, index: int, /) -> Any: ...  # start and end, in characters


class SpelledText:
    """A text as tokens, known by the byte at which each ends."""

    def __init__(self, ids: array[int], text: bytes, ends: Any) -> None:
        self.ids = ids
        self._ends = ends
        self._text = text
        self._chars = _identity if text.isascii() else _characters(text)

    def token_to_chars(self, index: int) -> tuple[int, int]:
        """Start and end, in characters; one that several tokens share belongs to each of them."""
        start = self._ends.item(index - 1) if index else 0
        return self._chars(start), self._chars(self._ends.item(index) - 1) + 1


class TokenBytes:
    """The bytes of every token of a byte-level vocabulary; with another one it is not `usable`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
        self._bytes = [b""] * size
        for text, token in tokenizer.get_vocab(with_added_tokens=False).items():
            self._bytes[token] = _spelled(text)
        for token, added in tokenizer.get_added_tokens_decoder().items():
            self._bytes[token] = added.content.encode()
        self._lengths = np.array([len(spelled) for spelled in self._bytes], dtype=np.int32)
        self.usable = self.places(tokenizer.encode(_PROBE, add_special_tokens=False).ids, _PROBE) is not None

    def places(self, ids: Sequence[int], text: str) -> SpelledText | None:
        """Where the tokens stand; None if they do not spell the text."""
        written = text.encode()
        if b"".join(map(self._bytes.__getitem__, ids)) != written:
            return None
        tokens = array("i", ids)
        return SpelledText(tokens, written, self._lengths[np.frombuffer(tokens, dtype=np.int32)].cumsum())


def _byte_alphabet() -> dict[int, int]:
    """Which character stands for which byte in byte-level vocabularies (GPT-2's bytes_to_unicode, inverted)."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {**{byte: byte for byte in visible}, **{256 + number: byte for number, byte in enumerate(hidden)}}


_BYTES = _byte_alphabet()


def _spelled(token: str) -> bytes:
    """The bytes of a vocabulary entry; none for one that is not written in the alphabet of bytes."""
    if all(ord(character) in _BYTES for character in token):
        return token.translate(_BYTES).encode("latin-1")
    return b""


def _identity(place: int) -> int:
    return place


def _characters(text: bytes) -> Callable[[int], int]:
    """Which character the byte at a place belongs to."""
    begins = (np.frombuffer(text, dtype=np.uint8) & 0xC0) != 0x80
    number: Callable[[int], int] = (begins.cumsum() - 1).item
    return number
