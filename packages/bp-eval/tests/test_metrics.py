"""How much an answer is like the expected one: SQuAD's normalisation and its properties."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bp_eval.metrics import contains, exact_match, f1, regex, words

TEXT = st.text(max_size=40) | st.lists(st.sampled_from(["the", "a", "cat", "Cat!", "sat", "on", "7", ""])).map(" ".join)


def test_case_punctuation_and_articles_do_not_count():
    assert words("The  cat, a dog: an\nEND-ing.") == ["cat", "dog", "ending"]
    assert exact_match("The answer is 7.", "answer is 7") == 1.0
    assert exact_match("seven", "7") == 0.0


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    # Two words of four are right, and two of the three expected are there.
    precision, recall = 2 / 4, 2 / 3
    assert f1("cat sat on mat", "cat sat here") == pytest.approx(2 * precision * recall / (precision + recall))
    assert f1("cat cat", "cat") == pytest.approx(2 * (1 / 2) / (1 / 2 + 1))
    assert f1("a", "the") == 1.0 and f1("the", "cat") == 0.0


def test_contains_asks_for_whole_words_in_order():
    assert contains("Well, the answer is 17, of course.", "The answer is 17")
    assert not contains("It is 17.", "7")
    assert not contains("17 is the answer", "answer is 17")
    assert contains("...", "the") and not contains("cat", "the")


@given(TEXT, TEXT)
def test_scores_lie_between_0_and_1_and_agree(answer, expected):
    score = f1(answer, expected)
    assert 0 <= score <= 1 and score == f1(expected, answer)
    assert exact_match(answer, expected) <= min(contains(answer, expected), score)
    assert exact_match(answer, expected) == exact_match(expected, answer)


@given(TEXT)
def test_an_answer_is_like_itself(text):
    assert exact_match(text, text) == f1(text, text) == contains(text, text) == 1.0
    assert regex(text, re.escape(text)) == 1.0


def test_a_pattern_is_looked_for_anywhere():
    assert regex("It costs 6 crowns.", r"\d+ crowns") == 1.0 and regex("six crowns", r"\d+") == 0.0
