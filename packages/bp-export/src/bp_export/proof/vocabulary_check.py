"""Compare a GGUF's vocabulary with the tokenizer of training, entry by entry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer

from bp_core.contract import Contract

from ..gguf.reader import GgufFile
from ..gguf.vocabulary import Vocabulary
from ..parity import Check

_SHOWN = 3
_ID_FIELDS = {
    "bos": "tokenizer.ggml.bos_token_id",
    "eos": "tokenizer.ggml.eos_token_id",
    "eot": "tokenizer.ggml.eot_token_id",
    "eom": "tokenizer.ggml.eom_token_id",
    "unk": "tokenizer.ggml.unknown_token_id",
    "pad": "tokenizer.ggml.padding_token_id",
}


def check_vocabulary(gguf: GgufFile, words: Vocabulary, tokenizer: Tokenizer, contract: Contract | None) -> Check:
    """Each token, type, merge or score, and special token in the file equals that of the model's tokenizer.

    `words` is the expected vocabulary. `tokenizer`, which the `tokenizers` library reads, must give the same ids. What
    a contract decides (template, turn terminators, BOS token) is checked with the contract.
    """
    wrong = list(_differences(gguf, words, contract))
    byte_level = words.model == "gpt2"
    if byte_level:
        numbers = tokenizer.get_vocab(with_added_tokens=True)
        stored = gguf.fields.get("tokenizer.ggml.tokens", [])
        strange = [text for text, number in numbers.items() if stored[number : number + 1] != [text]]
        wrong += [f"the tokenizer's {text!r}" for text in strange]
    note = f"for example {', '.join(wrong[:_SHOWN])}" if wrong else f"{len(words.tokens)} tokens"
    return Check("vocabulary of the file", f"{len(wrong)} entries differ", 0, not wrong, note=note)


def _differences(gguf: GgufFile, words: Vocabulary, contract: Contract | None) -> Iterator[str]:
    lists: dict[str, Sequence[object]] = {"tokens": words.tokens, "token_type": words.types}
    lists |= {"scores": words.scores} if words.scores else {"merges": words.merges}
    for name, expected in lists.items():
        stored = gguf.fields.get(f"tokenizer.ggml.{name}", [])
        if len(stored) != len(expected):
            yield f"{len(stored)} {name} instead of {len(expected)}"
        for place, pair in enumerate(zip(stored, expected, strict=False)):
            if pair[0] != pair[1]:
                yield f"{name}[{place}]: {pair[0]!r} instead of {pair[1]!r}"
    for name, value in _single_fields(words, contract).items():
        if gguf.fields.get(name) != value:
            yield f"{name}: {gguf.fields.get(name)!r} instead of {value!r}"


def _single_fields(words: Vocabulary, contract: Contract | None) -> dict[str, object]:
    """The expected fields that are not lists, without those that a contract decides."""
    fields: dict[str, object] = {"tokenizer.ggml.model": words.model, "tokenizer.ggml.pre": words.pre}
    ends = ("eos", "eot", "eom") if contract and contract.terminators else ()
    for name, number in words.ids.items():
        if name not in ends:
            fields[_ID_FIELDS[name]] = number
    if words.template and not (contract and contract.template):
        fields["tokenizer.chat_template"] = words.template
    if contract is None or contract.bos == "template":
        fields["tokenizer.ggml.add_bos_token"] = words.add_bos
    return fields
