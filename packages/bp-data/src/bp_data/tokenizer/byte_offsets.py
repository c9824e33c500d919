"""Character offsets of tokens, from the bytes of each vocabulary entry.

The tokenizer can compute them too, but is much slower then. This way is used only where the bytes of the tokens are
exactly those of the text, so that the offsets are certain.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from tokenizers import Tokenizer

_PROBE = "A b\n é 👍"


class Tokens(Protocol):
    """The tokens of a text: what is used of `tokenizers.Encoding`."""

    @property
    def ids(self) -> Sequence[int]: ...
    def token_to_chars(self, index: int, /) -> Any: ...  # start and end, in characters


class SpelledText:
    """The tokens of a text, with the byte offset at which each ends."""

    def __init__(self, ids: array[int], text: bytes, ends: Any) -> None:
        self.ids = ids
        self._ends = ends
        self._text = text
        self._chars = _identity if text.isascii() else _characters(text)

    def token_to_chars(self, index: int) -> tuple[int, int]:
        """Start and end in characters; a character that several tokens share belongs to each of them."""
        start = self._ends.item(index - 1) if index else 0
        return self._chars(start), self._chars(self._ends.item(index) - 1) + 1

    def first_ending(self, char: int) -> int:
        """The number of the first token that ends at or after `char`, which is at least 1."""
        return int(self._ends.searchsorted(self._byte(char - 1), side="right"))

    def first_starting(self, char: int) -> int:
        """The number of the first token that starts at or after `char`, which is at least 1."""
        return 1 + int(self._ends.searchsorted(self._byte(char)))

    def _byte(self, char: int) -> int:
        """The byte offset at which a character starts; that of the end for the one after the last."""
        if self._chars is _identity:
            return char
        return len(self._text.decode()[:char].encode())


def first_ending(tokens: Tokens, char: int) -> int:
    """The number of the first token that ends at or after `char`, which is at least 1."""
    if isinstance(tokens, SpelledText):
        return tokens.first_ending(char)
    return bisect_left(range(len(tokens.ids)), char, key=lambda index: tokens.token_to_chars(index)[1])


def first_starting(tokens: Tokens, char: int) -> int:
    """The number of the first token that starts at or after `char`, which is at least 1."""
    if isinstance(tokens, SpelledText):
        return tokens.first_starting(char)
    return bisect_left(range(len(tokens.ids)), char, key=lambda index: tokens.token_to_chars(index)[0])


class TokenBytes:
    """The bytes of every token of a byte-level vocabulary; not `usable` with other kinds."""

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
        """The tokens with their offsets; None if their bytes are not those of the text."""
        written = text.encode()
        if b"".join(map(self._bytes.__getitem__, ids)) != written:
            return None
        tokens = array("i", ids)
        return SpelledText(tokens, written, self._lengths[np.frombuffer(tokens, dtype=np.int32)].cumsum())


def _byte_alphabet() -> dict[int, int]:
    """From character to byte in byte-level vocabularies (GPT-2's bytes_to_unicode, inverted)."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {**{byte: byte for byte in visible}, **{256 + number: byte for number, byte in enumerate(hidden)}}


_BYTES = _byte_alphabet()


def _spelled(token: str) -> bytes:
    """The bytes of a vocabulary entry; b"" if it is not in the byte alphabet."""
    if all(ord(character) in _BYTES for character in token):
        return token.translate(_BYTES).encode("latin-1")
    return b""


def _identity(place: int) -> int:
    return place


def _characters(text: bytes) -> Callable[[int], int]:
    """The function from a byte offset to the number of the character there."""
    begins = (np.frombuffer(text, dtype=np.uint8) & 0xC0) != 0x80
    number: Callable[[int], int] = (begins.cumsum() - 1).item
    return number
