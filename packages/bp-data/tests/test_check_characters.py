"""Cleaning, and signs of wrong decoding."""

import json
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bp_data.check.characters import clean, oddities

TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from(" \x00\x07\u200b\u200d\u00ad\ufeff\u0e01\u202e\n"))
VALUES = st.recursive(
    TEXTS | st.none() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_cleaning_twice_is_cleaning_once(value: dict[str, object]) -> None:
    before = json.dumps(value)
    cleaned, removed = clean(value)
    assert clean(cleaned) == (cleaned, {}) and json.dumps(value) == before
    assert (cleaned is value) == (not removed) and (cleaned == value) == (not removed)


def test_joiners_that_scripts_and_emoji_need_stay() -> None:
    for text in ("👩\u200d🚀", "می\u200cخواهم", "ภาษา\u200bไทย", "line\n\tindented", "Ünïcödé"):
        assert clean({"prompt": text})[1] == {}


def test_white_space_around_raw_text_stays() -> None:
    assert clean({"text": " a\x07 "}) == ({"text": " a "}, {"control-character": ["\x07"]})
    assert clean({"m": [{"content": "a "}]}) == ({"m": [{"content": "a"}]}, {"outer-space": [" "]})


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": "p", "completion": "        return 1\n    return 2\n"},
        {"prompt": "p", "completion": "    one line"},
        {"prompt": "\u3000p", "completion": "\ta"},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": {"code": "    x \n"}}}]}]},
        {"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": {"code": " x "}}}]},
    ],
)
def test_indentation_and_tool_arguments_stay(value: dict[str, object]) -> None:
    assert clean(value) == (value, {})


@pytest.mark.parametrize(
    ("wrong", "right"), [("CafÃ©", "é"), ("itâ€™s", "’"), ("ðŸ˜€", "😀"), ("naÃ¯ve", "ï"), ("Ã ", ""), ("Â£5", "£")]
)
def test_text_that_was_decoded_wrongly_is_told_with_what_it_was(wrong: str, right: str) -> None:
    found = [message for kind, message, _ in oddities(wrong) if kind == "mojibake"]
    assert len(found) == bool(right) and all(f"was {right!r}" in message for message in found)


@pytest.mark.parametrize("text", ["AÇÃO, NÃO", "Ünïcödé – “quoted”", "Ångström ß", "日本語 русский ελληνικά", "100 €"])
def test_text_that_is_right_is_not_suspected(text: str) -> None:
    assert list(oddities(text)) == []


def test_words_of_two_scripts_and_lost_characters_are_found() -> None:
    said = "'p\u0430ypal' mixes Latin and Cyrillic letters"
    assert list(oddities("Is p\u0430ypal it?")) == [("mixed-scripts", said, 3)]
    assert [kind for kind, _, _ in oddities("Word русский Word")] == []
    assert list(oddities("a\ufffdb\ufffd")) == [("lost-character", "2 × U+FFFD", 1)]


@pytest.mark.parametrize("piece", ["漢", "a\u00e9", "\u00c3", "\u0430 a", "\u200b", "\x07 "])
def test_long_texts_take_no_longer_than_their_length(piece: str) -> None:
    began = process_time()
    list(oddities(piece * 200_000))
    clean({"prompt": piece * 200_000})
    assert process_time() - began < 3


def test_what_is_nested_without_end_is_left_as_it_is() -> None:
    value: object = "a\x07"
    for _ in range(900):
        value = [value]
    assert clean({"text": "x", "more": value})[1] == {}
