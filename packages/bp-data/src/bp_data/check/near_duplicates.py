"""Near duplicates: rows that share most of their three-word sequences, by MinHash and locality-sensitive hashing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rensa import RMinHash, RMinHashDeduplicator

SIMILAR = 0.8  # estimated share of three-word sequences that two texts have in common (Jaccard)
_HASHES, _BANDS = 128, 16  # finds 95 % of the pairs at 0.8, nearly all above; its default of 8 bands finds 50 % at 0.86
_SEED = 42
# Words; signs of scripts without spaces one by one.
_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")


class NearIndex:
    """An index of texts for near duplicates; about 2 KB of memory a text."""

    def __init__(self) -> None:
        self._index = RMinHashDeduplicator(SIMILAR, _HASHES, True, _BANDS, _SEED)

    def add(self, number: int, hashed: RMinHash) -> int | None:
        """Add a text under its number, unless it nearly equals an indexed one: then return that one's number."""
        return None if self._index.add(str(number), hashed) else self.find(hashed)

    def find(self, hashed: RMinHash) -> int | None:
        """The number of the first text that is nearly equal."""
        return min(map(int, self._index.get_duplicates(hashed)), default=None)


def hashes(texts: Sequence[str]) -> Iterator[RMinHash]:
    """The MinHashes of texts; case is ignored."""
    return iter(RMinHash.from_token_sets([_shingles(text) for text in texts], _HASHES, _SEED))


def _shingles(text: str) -> list[str]:
    words = _WORDS.findall(text.casefold()) or [text]
    return [" ".join(words[at : at + 3]) for at in range(max(1, len(words) - 2))]
