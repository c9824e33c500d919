from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Encoding, Tokenizer, normalizers

from bp_data import ChatTokenizer
from bp_data.tokenizer.byte_offsets import SpelledText, TokenBytes, first_ending, first_starting

TEXT = st.text(st.characters(codec="utf-8") | st.sampled_from(" \n\t<|im_end|>é👍東"), min_size=1, max_size=40)
PIECES = st.lists(TEXT | st.sampled_from(["<|im_start|>", "<|im_end|>", "\n"]), min_size=1, max_size=6).map("".join)


def same(tokenizer: ChatTokenizer, text: str) -> type:
    """Check that the quick way agrees with the tokenizer's own; tell which way was taken."""
    (found,), (asked,) = tokenizer.tokens([text]), tokenizer.encodings([text])
    assert list(found.ids) == asked.ids
    assert [found.token_to_chars(i) for i in range(len(asked.ids))] == asked.offsets
    for char in range(1, len(text) + 1):
        assert first_ending(found, char) == first_ending(asked, char)
        assert first_starting(found, char) == first_starting(asked, char)
    return type(found)


@settings(deadline=None, max_examples=200)
@given(text=PIECES)
def test_places_are_those_that_the_tokenizer_tells(text: str, smol: ChatTokenizer) -> None:
    spelled = smol.decode(smol.encode(text)) == text  # its vocabulary lacks some rare bytes
    assert same(smol, text) is (SpelledText if spelled else Encoding)


@settings(deadline=None)
@given(text=PIECES)
def test_where_tokens_do_not_spell_the_text_the_tokenizer_is_asked(
    text: str, mistral: ChatTokenizer, byte_level: Callable[..., Tokenizer]
) -> None:
    assert same(mistral, text) is not SpelledText
    stripping = ChatTokenizer(
        byte_level(AddedToken("<|im_end|>", lstrip=True, rstrip=True)), "", eos_token="<|im_end|>"
    )
    assert same(stripping, f"{text} <|im_end|> x") is not SpelledText


def test_a_normalised_text_is_not_taken_for_the_one_that_was_given(byte_level: Callable[..., Tokenizer]) -> None:
    plain = byte_level("</s>")
    plain.normalizer = normalizers.NFC()
    tokenizer = ChatTokenizer(plain, "", eos_token="</s>")
    assert same(tokenizer, "caf\u00e9") is SpelledText
    assert same(tokenizer, "cafe\u0301 x") is not SpelledText


@pytest.mark.parametrize("name", ["smol", "llama"])
def test_a_byte_level_vocabulary_is_recognised(name: str, request: pytest.FixtureRequest) -> None:
    assert TokenBytes(request.getfixturevalue(name)._tokenizer).usable


def test_any_other_is_not(mistral: ChatTokenizer) -> None:
    assert not TokenBytes(mistral._tokenizer).usable
