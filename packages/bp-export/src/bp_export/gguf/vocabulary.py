"""tokenizer.json → the vocabulary fields of a GGUF: byte-level BPE and SentencePiece BPE; anything else is refused."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType

from bp_core.contract import Contract
from bp_core.errors import ModelUnusable, UnsupportedArchitecture
from bp_core.model_files import read_json

from ..weights.model_files import chat_template, special_token, stamp
from . import pre_tokenizers

_FILE = "tokenizer.json"
_BYTE = re.compile("<0x[0-9A-F]{2}>")
# Added tokens that are meant as control tokens although not marked so; llama.cpp's own converter sees them like this.
_LOOKS_SPECIAL = re.compile(r"<\|.*\|>|<｜.*｜>|<unused.*>|<pad>|<mask>|<2mass>|\[@BOS@\]", re.S)
_ID_KEYS = {"bos": "bos_token", "unk": "unk_token", "pad": "pad_token"}


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF must know to tokenise. `ids` has the special tokens by GGUF's names (bos, eos, eot, …).

    A byte-level vocabulary ("gpt2") has merges, one of SentencePiece ("llama") scores: the best one merges first.
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
    """The vocabulary of a model folder, `size` tokens long (the rows of its embedding).

    With a contract, its template, turn terminators and BOS policy win over the base's. Raises ModelUnusable,
    UnsupportedArchitecture.
    """
    template = (contract.template if contract else "") or chat_template(folder)
    try:
        tokenizer = _tokenizer(folder, stamp(folder, _FILE))
        tokens, types = _padded(tokenizer.tokens, size)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelUnusable(f"the tokenizer cannot be read ({error}).", where=str(folder / _FILE)) from error
    add_bos = tokenizer.add_bos
    if contract and contract.bos != "template":
        add_bos = contract.bos == "tokenizer"
    ids = _special_ids(folder, tokens, contract)
    return Vocabulary(
        model="llama" if tokenizer.pieces else "gpt2",
        pre=tokenizer.pre,
        tokens=tokens,
        types=types,
        merges=tokenizer.merges,
        scores=_scores(tokens, types, tokenizer.merges) if tokenizer.pieces else [],
        # llama.cpp puts its space after every special token too: after the first one, "first" means nowhere
        space_prefix=tokenizer.space == "always",
        ids=ids,
        add_bos=add_bos and "bos" in ids,
        add_eos=tokenizer.add_eos and "eos" in ids,
        template=template,
    )


def lead(folder: Path) -> str:
    """What must stand before a text so that the tokenizer and llama.cpp see it alike; "" almost always.

    Where only the first piece of a text gets a space before it, that is the token that every prompt begins with.
    """
    tokenizer = _tokenizer(folder, stamp(folder, _FILE))
    first = tokenizer.pieces and tokenizer.space == "first"
    return (special_token(folder, "bos_token") or "") if first else ""


@dataclass(frozen=True)
class _Tokenizer:
    """What tokenizer.json says. `tokens` has text and type of each id; `pieces`: SentencePiece, not byte-level BPE."""

    pieces: bool
    pre: str
    space: str
    tokens: Mapping[int, tuple[str, TokenType]]
    merges: list[str]
    add_bos: bool
    add_eos: bool


@functools.lru_cache(maxsize=1)  # an export asks several times, and the file may have tens of megabytes
def _tokenizer(folder: Path, stamp: object) -> _Tokenizer:
    tokenizer = read_json(folder / _FILE)
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE":
        raise UnsupportedArchitecture(f"its tokenizer is of type {model.get('type')}; only BPE is supported.")
    pieces = bool(model.get("byte_fallback"))
    add_bos, add_eos = _added(tokenizer)
    return _Tokenizer(
        pieces=pieces,
        pre="default" if pieces else pre_tokenizers.byte_level(tokenizer),
        space=pre_tokenizers.space_prefix(tokenizer) if pieces else "nowhere",
        tokens=dict(_tokens(tokenizer)),
        merges=[_merge(pair) for pair in model["merges"]],
        add_bos=add_bos,
        add_eos=add_eos,
    )


def _scores(tokens: list[str], types: list[int], merges: list[str]) -> list[float]:
    """SentencePiece's score of a piece: minus its place in the order of merging; pieces that no merge makes follow."""
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
    """Texts and types of `size` tokens; those that the tokenizer does not know are unused."""
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


def _added(tokenizer: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether the tokenizer puts a special token before, and after, a text by itself."""
    processor = tokenizer.get("post_processor") or {}
    for step in processor.get("processors", [processor]):
        if step.get("type") == "TemplateProcessing":
            pieces = [next(iter(piece)) for piece in step["single"]]
            return pieces[0] == "SpecialToken", pieces[-1] == "SpecialToken"
    return False, False
