"""How a tokenizer prepares text before it merges, and what llama.cpp calls that. The proof checks that both agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bp_core.errors import UnsupportedArchitecture

_SUFFIXES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_CONTRACTIONS = rf"{_SUFFIXES}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_REST = rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _by_case(suffix: str, digits: str) -> str:
    """Words end where a capital follows a small letter."""
    start = r"[^\r\n\p{L}\p{N}]?"
    words = rf"{start}{_UPPER}*{_LOWER}+{suffix}|{start}{_UPPER}+{_LOWER}*{suffix}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"


PATTERNS = {
    "llama-bpe": rf"{_CONTRACTIONS}|\p{{N}}{{1,3}}{_REST}",
    "qwen2": rf"{_CONTRACTIONS}|\p{{N}}{_REST}",
    "qwen35": rf"{_SUFFIXES}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}",
    "tekken": _by_case("", r"\p{N}"),
    "gpt-4o": _by_case(f"{_SUFFIXES}?", r"\p{N}{1,3}"),
}
# llama.cpp's own version of these patterns knows no combining marks inside words.
SPLIT_AT_MARKS = ("tekken", "gpt-4o")
_BYTES: dict[tuple[str, ...], str] = {
    ("Digits", "ByteLevel+regex"): "smollm",
    ("ByteLevel+regex",): "gpt-2",
    **{(f"Split:{pattern}", "ByteLevel"): name for name, pattern in PATTERNS.items()},
}
# SentencePiece as tokenizers writes it: steps before merging → where a space is put before the text.
_PIECES: dict[tuple[str, ...], str] = {
    ("Replace", "Split"): "nowhere",
    ("Replace",): "nowhere",
    ("Prepend", "Replace"): "always",
    ("Metaspace:always",): "always",
    ("Metaspace:first",): "first",
    ("Metaspace:never",): "nowhere",
}


def byte_level(tokenizer: Mapping[str, Any]) -> str:
    """llama.cpp's name for the cut of a byte-level tokenizer. Raises UnsupportedArchitecture."""
    normalizer = tokenizer.get("normalizer") or {}
    if normalizer.get("type", "NFC") != "NFC":
        raise UnsupportedArchitecture(f"its tokenizer rewrites text with {normalizer['type']}, which is not supported.")
    cut = tuple(map(_step, _steps(tokenizer.get("pre_tokenizer"), "pretokenizers")))
    if cut not in _BYTES:
        raise UnsupportedArchitecture(f"its tokenizer cuts text in an unknown way: {' then '.join(cut)[:200]}")
    return _BYTES[cut]


def space_prefix(tokenizer: Mapping[str, Any]) -> str:
    """Where a SentencePiece tokenizer puts a space before a text: "always", "nowhere", or only at its "first" piece."""
    normal = [str(step.get("type")) for step in _steps(tokenizer.get("normalizer"), "normalizers")]
    cut = [_step(step) for step in _steps(tokenizer.get("pre_tokenizer"), "pretokenizers")]
    steps = (*normal, *("Split" if step == "Split: " else step for step in cut))
    if steps not in _PIECES:
        raise UnsupportedArchitecture(f"its tokenizer prepares text in an unknown way: {' then '.join(steps)[:200]}")
    return _PIECES[steps]


def _steps(value: Mapping[str, Any] | None, several: str) -> list[Mapping[str, Any]]:
    return list(value.get(several) or [value]) if value else []


def _step(step: Mapping[str, Any]) -> str:
    kind, pattern = str(step.get("type")), step.get("pattern") or {}
    if kind == "Split" and (step.get("behavior"), step.get("invert")) in (("Isolated", False), ("Removed", True)):
        return f"Split:{pattern.get('Regex')}"
    if kind == "Split" and step.get("behavior") == "MergedWithPrevious":
        return f"Split:{pattern.get('String')}"
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return "ByteLevel+regex" if step.get("use_regex", True) else "ByteLevel"
    if kind == "Digits" and step.get("individual_digits"):
        return "Digits"
    if kind == "Metaspace" and not step.get("split", True):
        return f"Metaspace:{step.get('prepend_scheme')}"
    return f"{kind}?"
