"""Similarity of an answer to the expected one, from 0 to 1.

Exact match and F1 are those of SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1, evaluate-v1.1.py; for texts
without words evaluate-v2.0.py): words are split at white space, without case, ASCII punctuation and English articles.
In languages without spaces a sentence is one word.
"""

from __future__ import annotations

import re
import string
from collections import Counter

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def words(text: str) -> list[str]:
    """The normalised words of a text."""
    return _ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split()


def exact_match(answer: str, expected: str) -> float:
    """Whether both have the same words in the same order."""
    return float(words(answer) == words(expected))


def f1(answer: str, expected: str) -> float:
    """Harmonic mean of precision (answer words that are expected) and recall (expected words that are there)."""
    mine, theirs = words(answer), words(expected)
    if not mine or not theirs:
        return float(mine == theirs)
    common = (Counter(mine) & Counter(theirs)).total()
    return 2 * common / (len(mine) + len(theirs))


def contains(answer: str, expected: str) -> float:
    """Whether the answer contains the expected words, one after another."""
    mine, theirs = words(answer), words(expected)
    if not theirs:
        return float(not mine)
    return float(any(mine[start : start + len(theirs)] == theirs for start in range(len(mine))))


def regex(answer: str, pattern: str) -> float:
    """Whether the pattern is found somewhere in the answer."""
    return float(re.search(pattern, answer) is not None)
