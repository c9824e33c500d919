"""The vocabulary of a GGUF → a tokenizer.json that gives the tokens llama.cpp gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gguf import TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from bp_core.errors import GgufUnusable, UnsupportedArchitecture

from .pre_tokenizers import PATTERNS
from .reader import GgufFile

# Names that llama.cpp knows for the same cut.
_SAME_CUT = {
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "pixtral": "llama-bpe",
    "deepseek-r1-qwen": "qwen2",
    "llama4": "gpt-4o",
}
_WHOLE_WORDS = ("llama-bpe", "tekken")  # a word that is a token is one, whatever the merges make of it
_BEGIN_WITH_BOS = ("llama-bpe", "tekken")  # where the file does not say
_SPACE = "▁"


@dataclass(frozen=True)
class _Words:
    """The tokens of a file: text, type and, in SentencePiece vocabularies, score by id."""

    tokens: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float]

    def of(self, type_: TokenType) -> Iterator[str]:
        return (text for text, kind in zip(self.tokens, self.types, strict=True) if kind == type_)


def unpacked_tokenizer(gguf: GgufFile) -> Tokenizer:
    """The tokenizer of a file. Raises UnsupportedArchitecture, GgufUnusable."""
    words = _words(gguf)
    model = gguf.field("tokenizer.ggml.model")
    if model == "gpt2":
        tokenizer = _byte_level(gguf, words)
    elif model == "llama":
        tokenizer = _pieces(gguf, words)
    else:
        raise UnsupportedArchitecture(f"a tokenizer of type {model!r} cannot be unpacked.", where=str(gguf.path))
    tokenizer.add_special_tokens(_added(words.of(TokenType.CONTROL), special=True))
    tokenizer.add_tokens(_added(words.of(TokenType.USER_DEFINED), special=False))
    if template := _framed(gguf, words):
        tokenizer.post_processor = template
    return tokenizer


def adds_bos(gguf: GgufFile) -> bool:
    """Whether llama.cpp puts a first token before a text by itself."""
    pieces = gguf.field("tokenizer.ggml.model") == "llama"
    usual = pieces or gguf.fields.get("tokenizer.ggml.pre") in _BEGIN_WITH_BOS
    return bool(gguf.fields.get("tokenizer.ggml.add_bos_token", usual))


def _words(gguf: GgufFile) -> _Words:
    tokens = gguf.field("tokenizer.ggml.tokens")
    types = gguf.field("tokenizer.ggml.token_type")
    scores = gguf.fields.get("tokenizer.ggml.scores", [0.0] * len(tokens))
    if not len(tokens) == len(types) == len(scores):
        raise GgufUnusable("its tokens, their types and their scores are not equally many.", where=str(gguf.path))
    return _Words(tokens, types, scores)


def _vocabulary(words: _Words) -> dict[str, int]:
    """Ids by text. Rows of the embedding that no token uses are left out."""
    return {
        text: number
        for number, (text, kind) in enumerate(zip(words.tokens, words.types, strict=True))
        if not (kind == TokenType.UNUSED and text == f"[PAD{number}]")
    }


def _byte_level(gguf: GgufFile, words: _Words) -> Tokenizer:
    vocabulary = _vocabulary(words)
    merges = [_pair(text) for text in gguf.field("tokenizer.ggml.merges")]
    for left, right in merges:
        if not {left, right, left + right} <= vocabulary.keys():
            raise GgufUnusable(f"its merge {left!r} + {right!r} is not in the vocabulary.", where=str(gguf.path))
    pre = gguf.fields.get("tokenizer.ggml.pre", "default")
    cut = _SAME_CUT.get(pre, pre)
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges, ignore_merges=cut in _WHOLE_WORDS))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(_steps(cut, gguf))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _steps(cut: str, gguf: GgufFile) -> list[Any]:
    """How text is cut before it is merged."""
    if cut == "smollm":
        return [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if cut == "gpt-2":
        return [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if cut not in PATTERNS:
        message = f"a tokenizer that cuts text as {cut!r} cannot be unpacked."
        raise UnsupportedArchitecture(message, where=str(gguf.path))
    split = pre_tokenizers.Split(Regex(PATTERNS[cut]), "isolated")
    return [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]


def _pieces(gguf: GgufFile, words: _Words) -> Tokenizer:
    """SentencePiece: the pair that makes the piece of the best score merges first."""
    vocabulary = _vocabulary(words)
    unknown = next(words.of(TokenType.UNKNOWN), None)
    if unknown is None:
        number = gguf.fields.get("tokenizer.ggml.unknown_token_id")
        unknown = None if number is None else words.tokens[number]
    bpe = BPE(vocab=vocabulary, merges=_merges(words, vocabulary), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    replaced = normalizers.Replace(" ", _SPACE)
    prefix = bool(gguf.fields.get("tokenizer.ggml.add_space_prefix", True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), replaced]) if prefix else replaced
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _merges(words: _Words, vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a token, in the order in which SentencePiece merges them."""
    mergeable = {
        text: score
        for text, kind, score in zip(words.tokens, words.types, words.scores, strict=True)
        if kind == TokenType.NORMAL
    }
    pairs = []
    for text, score in mergeable.items():
        for place in range(1, len(text)):
            left, right = text[:place], text[place:]
            if left in mergeable and right in mergeable:
                pairs.append((-score, vocabulary[left], vocabulary[right], left, right))
    pairs.sort()
    return [(left, right) for *_, left, right in pairs]


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _added(texts: Iterator[str], *, special: bool) -> list[AddedToken]:
    return [AddedToken(text, special=special, normalized=False) for text in texts]


def _framed(gguf: GgufFile, words: _Words) -> processors.TemplateProcessing | None:
    """What puts the first and the last token around a text, where llama.cpp does so by itself."""
    around = []
    for name, wanted in (("bos", adds_bos(gguf)), ("eos", gguf.fields.get("tokenizer.ggml.add_eos_token", False))):
        number = gguf.fields.get(f"tokenizer.ggml.{name}_token_id")
        around.append((words.tokens[number], number) if wanted and number is not None else None)
    first, last = around
    if first is None and last is None:
        return None
    single = [first[0] if first else "", "$A", last[0] if last else ""]
    special = [pair for pair in around if pair]
    return processors.TemplateProcessing(single=" ".join(single).strip(), special_tokens=special)
