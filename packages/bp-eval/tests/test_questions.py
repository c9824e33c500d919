"""Questions out of rows."""

from bp_core.examples import Example
from bp_eval.questions import last_answer


def test_of_several_answers_the_last_is_asked_for():
    assert last_answer(Example((9,) * 8, bytes([0, 0, 1, 1, 0, 0, 1, 0]))) == (6, 7)
    assert last_answer(Example((9,) * 4, bytes([0, 0, 1, 1]))) == (2, 4)
    assert last_answer(Example((9,) * 3, bytes([0, 1, 1]))) == (1, 3)
