"""tokenizer.json → the vocabulary fields of a GGUF: byte-level BPE and SentencePiece BPE; others are refused."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType

from bp_core.contract import Contract
from bp_core.errors import ModelUnusable, UnsupportedArchitecture
from bp_core.model_files import VOCABULARY, read_vocabulary

from ..weights.model_files import chat_template, special_token
from . import pre_tokenizers

_BYTE = re.compile("<0x[0-9A-F]{2}>")
# Added tokens that are control tokens although not marked as special, as llama.cpp's own converter decides.
_LOOKS_SPECIAL = re.compile(r"<\|.*\|>|<｜.*｜>|<unused.*>|<pad>|<mask>|<2mass>|\[@BOS@\]", re.S)
_ID_KEYS = {"bos": "bos_token", "unk": "unk_token", "pad": "pad_token"}


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary fields of a GGUF.

    Byte-level BPE (`model` "gpt2") has merges; SentencePiece ("llama") has scores, and the best score merges first.
    `ids` has the special tokens by GGUF's names (bos, eos, eot, …). `prefix` must stand before a text so that the
    tokenizer and llama.cpp tokenize it alike; it is "" for most models.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    space_prefix: bool
    ids: Mapping[str, int]
    add_bos: bool
    add_eos: bool
    template: str
    prefix: str = ""

    def add_to(self, writer: GGUFWriter) -> None:
        """Write the fields tokenizer.ggml.* and the chat template."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.scores:
            writer.add_token_scores(self.scores)
        else:
            writer.add_token_merges(self.merges)
        for name, number in self.ids.items():
            getattr(writer, f"add_{name}_token_id")(number)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        writer.add_add_space_prefix(self.space_prefix)
        if self.template:
            writer.add_chat_template(self.template)


def read(folder: Path, size: int, contract: Contract | None = None) -> Vocabulary:
    """The vocabulary of a model folder, padded to `size` tokens (the rows of its embedding).

    Template, turn terminators and BOS policy of a contract replace the base's. Raises ModelUnusable,
    UnsupportedArchitecture.
    """
    tokenizer = read_vocabulary(folder)
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE":
        raise UnsupportedArchitecture(f"its tokenizer is of type {model.get('type')}; only BPE is supported.")
    sentencepiece = bool(model.get("byte_fallback"))
    try:
        pre = "default" if sentencepiece else pre_tokenizers.byte_level(tokenizer)
        space = pre_tokenizers.space_prefix(tokenizer) if sentencepiece else "nowhere"
        tokens, types = _padded(dict(_tokens(tokenizer)), size)
        merges = [_merge(pair) for pair in model["merges"]]
        add_bos, add_eos = _adds_bos_eos(tokenizer)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelUnusable(f"the tokenizer cannot be read ({error}).", where=str(folder / VOCABULARY)) from error
    if contract and contract.bos != "template":
        add_bos = contract.bos == "tokenizer"
    ids = _special_ids(folder, tokens, contract)
    # llama.cpp adds its space after every special token too. A tokenizer that adds one only at the "first" piece of a
    # text adds none after the BOS token, with which every prompt starts.
    bos = special_token(folder, "bos_token") or ""
    return Vocabulary(
        model="llama" if sentencepiece else "gpt2",
        pre=pre,
        tokens=tokens,
        types=types,
        merges=merges,
        scores=_scores(tokens, types, merges) if sentencepiece else [],
        space_prefix=space == "always",
        ids=ids,
        add_bos=add_bos and "bos" in ids,
        add_eos=add_eos and "eos" in ids,
        template=(contract.template if contract else "") or chat_template(folder),
        prefix=bos if space == "first" else "",
    )


def _scores(tokens: list[str], types: list[int], merges: list[str]) -> list[float]:
    """SentencePiece scores: minus the position in merge order; pieces that no merge makes come last."""
    made = dict.fromkeys("".join(merge.split(" ", 1)) for merge in merges)
    normal = dict.fromkeys(text for text, type_ in zip(tokens, types, strict=True) if type_ == TokenType.NORMAL)
    ordered = dict.fromkeys([*(text for text in made if text in normal), *normal])
    places = {text: place for place, text in enumerate(ordered)}
    outside = {TokenType.CONTROL: -1000.0, TokenType.USER_DEFINED: -1000.0, TokenType.UNUSED: -10000.0}
    return [
        -float(places[text]) if type_ == TokenType.NORMAL else outside.get(TokenType(type_), 0.0)
        for text, type_ in zip(tokens, types, strict=True)
    ]


def _tokens(tokenizer: Mapping[str, Any]) -> Iterator[tuple[int, tuple[str, TokenType]]]:
    model = tokenizer["model"]
    added = {entry["content"]: entry for entry in tokenizer.get("added_tokens") or []}
    known = model["vocab"] | {text: entry["id"] for text, entry in added.items()}
    for text, number in known.items():
        type_ = _type(text, added.get(text), model)
        if type_ == TokenType.USER_DEFINED and model.get("byte_fallback"):
            yield number, (text.replace("▁", " "), type_)
        else:
            yield number, (text, type_)


def _padded(known: Mapping[int, tuple[str, TokenType]], size: int) -> tuple[list[str], list[int]]:
    """Texts and types of `size` tokens; ids that the tokenizer does not have are unused."""
    tokens = [f"[PAD{number}]" for number in range(size)]
    types = [int(TokenType.UNUSED)] * size
    for number, (text, type_) in known.items():
        if not 0 <= number < size:
            raise ValueError(f"the token {text!r} has id {number}, the model has {size} rows")
        tokens[number] = text
        types[number] = int(type_)
    return tokens, types


def _type(text: str, added: Mapping[str, Any] | None, model: Mapping[str, Any]) -> TokenType:
    if added:
        control = added["special"] or _LOOKS_SPECIAL.fullmatch(text)
        return TokenType.CONTROL if control else TokenType.USER_DEFINED
    if not model.get("byte_fallback"):
        return TokenType.NORMAL
    if text == model.get("unk_token"):
        return TokenType.UNKNOWN
    return TokenType.BYTE if _BYTE.fullmatch(text) else TokenType.NORMAL


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


def _adds_bos_eos(tokenizer: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether the tokenizer adds a BOS token before a text, and an EOS token after it."""
    processor = tokenizer.get("post_processor") or {}
    for step in processor.get("processors", [processor]):
        if step.get("type") == "TemplateProcessing":
            pieces = [next(iter(piece)) for piece in step["single"]]
            return pieces[0] == "SpecialToken", pieces[-1] == "SpecialToken"
    return False, False
