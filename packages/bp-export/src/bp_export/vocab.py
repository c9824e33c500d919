"""tokenizer.json → the vocabulary fields of a GGUF. Byte-level BPE only; anything else is refused, not approximated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType

from bp_core.contract import Contract
from bp_core.errors import ModelUnusable, UnsupportedArchitecture

from .hf_files import chat_template, read_json, special_token

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# How a tokenizer cuts text before merging → llama.cpp's name for it. The proof checks that both agree on real text.
_PRE = {
    ("Digits", "ByteLevel+regex"): "smollm",
    ("ByteLevel+regex",): "gpt-2",
    (rf"Split:{_CONTRACTIONS}|\p{{N}}{{1,3}}{_REST}", "ByteLevel"): "llama-bpe",
    (rf"Split:{_CONTRACTIONS}|\p{{N}}{_REST}", "ByteLevel"): "qwen2",
}
_ID_KEYS = {"bos": "bos_token", "unk": "unk_token", "pad": "pad_token"}


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF must know to tokenise. `ids` has the special tokens by GGUF's names (bos, eos, eot, …)."""

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    ids: Mapping[str, int]
    add_bos: bool
    add_eos: bool
    template: str

    def add_to(self, writer: GGUFWriter) -> None:
        """Write the fields tokenizer.ggml.* and the chat template."""
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        writer.add_token_merges(self.merges)
        for name, number in self.ids.items():
            getattr(writer, f"add_{name}_token_id")(number)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        writer.add_add_space_prefix(False)
        if self.template:
            writer.add_chat_template(self.template)


def read(folder: Path, size: int, contract: Contract | None = None) -> Vocabulary:
    """The vocabulary of a model folder, `size` tokens long (the rows of its embedding).

    With a contract, its template, turn terminators and BOS policy win over the base's. Raises ModelUnusable,
    UnsupportedArchitecture.
    """
    tokenizer = read_json(folder / "tokenizer.json")
    pre = _pre(tokenizer)
    try:
        tokens, types = _tokens(tokenizer, size)
        merges = [_merge(pair) for pair in tokenizer["model"]["merges"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelUnusable(f"the tokenizer cannot be read ({error}).", where=str(folder / "tokenizer.json")) from error
    add_bos, add_eos = _added(tokenizer)
    if contract and contract.bos != "template":
        add_bos = contract.bos == "tokenizer"
    template = (contract.template if contract else "") or chat_template(folder)
    ids = _special_ids(folder, tokens, contract)
    return Vocabulary(pre, tokens, types, merges, ids, add_bos and "bos" in ids, add_eos and "eos" in ids, template)


def _pre(tokenizer: Mapping[str, Any]) -> str:
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise UnsupportedArchitecture("its tokenizer is not byte-level BPE; only that is supported.")
    normalizer = tokenizer.get("normalizer") or {}
    if normalizer.get("type", "NFC") != "NFC":
        raise UnsupportedArchitecture(f"its tokenizer rewrites text with {normalizer['type']}, which is not supported.")
    steps = tokenizer.get("pre_tokenizer") or {}
    cut = tuple(_step(step) for step in steps.get("pretokenizers", [steps]))
    if cut not in _PRE:
        raise UnsupportedArchitecture(f"its tokenizer cuts text in an unknown way: {' then '.join(cut)[:200]}")
    return _PRE[cut]


def _step(step: Mapping[str, Any]) -> str:
    kind = str(step.get("type"))
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return f"Split:{(step.get('pattern') or {}).get('Regex')}"
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return "ByteLevel+regex" if step.get("use_regex", True) else "ByteLevel"
    if kind == "Digits" and step.get("individual_digits"):
        return "Digits"
    return f"{kind}?"


def _tokens(tokenizer: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    tokens = [f"[PAD{number}]" for number in range(size)]
    types = [int(TokenType.UNUSED)] * size
    known = {**tokenizer["model"]["vocab"]}
    added = {entry["content"]: entry for entry in tokenizer.get("added_tokens") or []}
    known.update({text: entry["id"] for text, entry in added.items()})
    for text, number in known.items():
        if not 0 <= number < size:
            raise ValueError(f"the token {text!r} has id {number}, the model has {size} rows")
        tokens[number] = text
        types[number] = int(TokenType.NORMAL)
        if text in added:
            types[number] = int(TokenType.CONTROL if added[text]["special"] else TokenType.USER_DEFINED)
    return tokens, types


def _merge(pair: str | list[str]) -> str:
    if isinstance(pair, str):
        return pair
    left, right = (part.replace(" ", "Ġ") for part in pair)  # GGUF separates the two by a space
    return f"{left} {right}"


def _special_ids(folder: Path, tokens: list[str], contract: Contract | None) -> dict[str, int]:
    numbers = {text: number for number, text in enumerate(tokens)}
    ids = {}
    for name, key in _ID_KEYS.items():
        text = special_token(folder, key)
        if text is not None and text in numbers:
            ids[name] = numbers[text]
    ends = contract.terminators if contract else ()
    if not ends and (text := special_token(folder, "eos_token")) in numbers:
        ends = (numbers[text],)
    if any(end not in range(len(tokens)) for end in ends):
        raise ModelUnusable(f"the contract ends turns with {ends}, outside the vocabulary.", where=str(folder))
    return ids | dict(zip(("eos", "eot", "eom"), ends, strict=False))


def _added(tokenizer: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether the tokenizer puts a special token before, and after, a text by itself."""
    processor = tokenizer.get("post_processor") or {}
    for step in processor.get("processors", [processor]):
        if step.get("type") == "TemplateProcessing":
            pieces = [next(iter(piece)) for piece in step["single"]]
            return pieces[0] == "SpecialToken", pieces[-1] == "SpecialToken"
    return False, False
