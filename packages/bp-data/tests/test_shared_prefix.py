from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers

from bp_data import ChatTokenizer
from bp_data.tokenizer.shared_prefix import SharedPrefix

PIECE = st.sampled_from(
    ["<|im_start|>", "<|im_end|>", "<|im_", "\n", " ", "a", "é", "\u0301", "hi", "1", "system\nYou"]
)
TEXT = st.lists(PIECE, max_size=6).map("".join)


@settings(deadline=None, max_examples=200)
@given(start=TEXT, ends=st.lists(TEXT, min_size=1, max_size=4))
def test_texts_that_begin_alike_get_the_tokens_that_each_gets_alone(
    start: str, ends: list[str], smol: ChatTokenizer
) -> None:
    texts = [start + end or "x" for end in ends]
    found = smol.tokens(texts)
    for one, alone in zip(found, smol.encodings(texts), strict=True):
        assert list(one.ids) == alone.ids
        assert [one.token_to_chars(i) for i in range(len(alone.ids))] == alone.offsets


def test_texts_are_cut_before_the_last_added_token_that_they_share(smol: ChatTokenizer) -> None:
    shared = SharedPrefix(smol._tokenizer).shared
    system = "<|im_start|>system\nBe brief.<|im_end|>\n"
    assert shared([f"{system}<|im_start|>user\nHi", f"{system}<|im_start|>user\nHo"]) == len(system)
    assert shared([f"{system}<|im_sta", f"{system}<|im_start|>user\nHo"]) == system.index("<|im_end|>")
    assert shared(["Hi", "Ho"]) == shared(["<|im_start|>", "a"]) == 0


@pytest.mark.parametrize(
    "added",
    [
        ["<s>", "<s>more"],
        ["<s>", "x<"],
        [AddedToken("<s>", lstrip=True)],
        [AddedToken("<s>", single_word=True)],
        [AddedToken("<s>", normalized=True, special=False)],
        [AddedToken(" <s>")],
    ],
)
def test_an_added_token_that_depends_on_what_is_around_it_is_no_border(
    added: list[str | AddedToken], byte_level: Callable[..., Tokenizer]
) -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens(added)
    assert SharedPrefix(tokenizer).shared(["a <s>b", "a <s>b"]) == 0


def test_parts_that_depend_on_each_other_are_not_cut(
    byte_level: Callable[..., Tokenizer], byte_fallback: Callable[..., Tokenizer]
) -> None:
    texts = ["a<s>b", "a<s>c"]
    tokenizer = byte_level("<s>")
    assert SharedPrefix(tokenizer).shared(texts) == 1
    tokenizer.normalizer = normalizers.NFC()
    assert SharedPrefix(tokenizer).shared(texts) == 1
    tokenizer.normalizer = normalizers.Prepend("_")
    assert SharedPrefix(tokenizer).shared(texts) == 0
    assert SharedPrefix(byte_fallback()).shared(texts) == 0
