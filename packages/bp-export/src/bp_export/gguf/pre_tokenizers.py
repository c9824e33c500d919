"""Pre-tokenizers: how text is split before BPE merges, and llama.cpp's names for each way."""

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
    """Split words where an upper-case letter follows a lower-case one."""
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
# llama.cpp's own version of these patterns splits words at combining marks.
SPLIT_AT_MARKS = ("tekken", "gpt-4o")
_BYTES: dict[tuple[str, ...], str] = {
    ("Digits", "ByteLevel+regex"): "smollm",
    ("ByteLevel+regex",): "gpt-2",
    **{(f"Split:{pattern}", "ByteLevel"): name for name, pattern in PATTERNS.items()},
}
# SentencePiece as `tokenizers` writes it: steps before merging → where a space is added before the text.
_PIECES: dict[tuple[str, ...], str] = {
    ("Replace", "Split"): "nowhere",
    ("Replace",): "nowhere",
    ("Prepend", "Replace"): "always",
    ("Metaspace:always",): "always",
    ("Metaspace:first",): "first",
    ("Metaspace:never",): "nowhere",
}


def byte_level(tokenizer: Mapping[str, Any]) -> str:
    """llama.cpp's name for the pre-tokenizer of a byte-level BPE. Raises UnsupportedArchitecture."""
    normalizer = tokenizer.get("normalizer") or {}
    if normalizer.get("type", "NFC") != "NFC":
        raise UnsupportedArchitecture(
            f"its tokenizer normalises text with {normalizer['type']}, which is not supported."
        )
    steps = tuple(map(_step, _steps(tokenizer.get("pre_tokenizer"), "pretokenizers")))
    if steps not in _BYTES:
        raise UnsupportedArchitecture(f"its pre-tokenizer is not supported: {' then '.join(steps)[:200]}")
    return _BYTES[steps]


def space_prefix(tokenizer: Mapping[str, Any]) -> str:
    """Where SentencePiece adds a space: "always" before a text, "nowhere", or only at its "first" piece."""
    normal = [str(step.get("type")) for step in _steps(tokenizer.get("normalizer"), "normalizers")]
    cut = [_step(step) for step in _steps(tokenizer.get("pre_tokenizer"), "pretokenizers")]
    steps = (*normal, *("Split" if step == "Split: " else step for step in cut))
    if steps not in _PIECES:
        raise UnsupportedArchitecture(
            f"its tokenizer prepares text in an unsupported way: {' then '.join(steps)[:200]}"
        )
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
