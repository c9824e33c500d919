"""Rows to evaluate on that are trained on, too, are counted."""

from bp_core.examples import Example
from bp_data.preparing.overlap import Overlap, overlap

TEXT = "the bakery opens at seven in the morning every day but monday when it stays closed all day long"


def example(text):
    tokens = [ord(letter) for letter in text]
    return Example(tokens, [1] * len(tokens))


def decode(tokens):
    return "".join(map(chr, tokens))


def found(training, evaluation):
    return overlap([example(text) for text in training], [example(text) for text in evaluation], decode)


def test_equal_rows_and_nearly_equal_ones_are_told_apart():
    near, other = TEXT + " really", "a completely other sentence about the price of a ladder in the small shop"
    assert found([TEXT], [TEXT, near, other]) == Overlap(rows=3, equal=1, near=1)


def test_nothing_is_found_where_nothing_is():
    assert found(["one two three four five"], ["six seven eight nine ten"]) == Overlap(1, 0, 0)
