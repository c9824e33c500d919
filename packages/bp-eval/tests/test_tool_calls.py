"""Calls beside the expected ones, and answers without their thoughts."""

from __future__ import annotations

from typing import Any

from bp_core.tool_call import Call
from bp_eval.bootstrap import Ratio
from bp_eval.measures import of_answers
from bp_eval.questions import Question
from bp_eval.thoughts import Answer, answers_of, of_thoughts, split_thought
from bp_eval.tool_calls import ToolAnswer, ToolQuestion, of_tools

ASKED = Question([1, 2], "Oslo?")
OPENED = Question([1, 2], "Oslo?\n<think>\n", expected="Hm.</think>Rain.")


def call(name: str = "weather", **arguments: Any) -> Call:
    return Call(name, arguments)


def shares(*pairs: tuple[list[Call], list[Call] | None]) -> dict[str, list[float]]:
    """The hits of each measure, for pairs of expected calls and made ones."""
    questions = [ToolQuestion(ASKED, wanted) for wanted, _ in pairs]
    answers = [ToolAnswer("", made) for _, made in pairs]
    return {name: list(ratio.over) for name, ratio in of_tools(answers, questions).items()}


def test_calls_are_compared_as_json() -> None:
    wanted = [call(city="Oslo", days=3, at={"b": [1.0], "a": None})]
    assert shares(
        (wanted, [call(at={"a": None, "b": [1]}, days=3.0, city="Oslo")]),
        (wanted, [call(city="Oslo", days=4, at={})]),
        (wanted, [call("tides", city="Oslo")]),
        (wanted, []),
        (wanted, None),
    ) == {
        "tools.parsed": [1, 1, 1, 0, 0],
        "tools.name": [1, 1, 0, 0, 0],
        "tools.arguments": [1, 0, 0, 0, 0],
    }
    assert shares(([call(on=True)], [call(on=1)]))["tools.arguments"] == [0]


def test_several_calls_may_come_in_any_order_but_none_may_lack() -> None:
    both = [call(city="Oslo"), call(city="Lima")]
    found = shares((both, both[::-1]), (both, both[:1]), (both, [*both, both[0]]))
    assert found["tools.arguments"] == found["tools.name"] == [1, 0, 0]


def test_rows_that_want_no_call_have_a_share_of_their_own() -> None:
    found = shares(([], []), ([], [call()]), ([], None), ([call()], [call()]))
    assert found["tools.no_call"] == [1, 0, 0] and found["tools.parsed"] == [1]
    assert shares(([], [])).keys() == {"tools.no_call"} and shares() == {}


def test_a_thought_is_taken_off() -> None:
    assert split_thought("<think>\nHm.\n</think>\n\nRain.") == Answer("Hm.", "Rain.")
    assert split_thought("Rain.") == Answer("", "Rain.")
    assert split_thought("Hm.</think>Rain.", opened=True) == Answer("Hm.", "Rain.")
    assert split_thought("<think>Hm, and") == Answer("Hm, and", "", closed=False)
    assert split_thought("Hm, and", opened=True) == Answer("Hm, and", "", closed=False)
    assert split_thought("<think>\n\n</think>\n\nRain.") == Answer("", "Rain.")


def test_answers_are_measured_after_the_thought() -> None:
    asked = Question([1, 2], "Oslo?", expected="<think>Look.</think>Rain today.")
    found = of_answers(["<think>Quite other words.</think>Rain today.", "Nothing.</think>Rain."], [asked, OPENED], "^R")
    assert list(found["exact_match"].over) == [1, 1] and list(found["regex"].over) == [1, 1]


def test_thoughts_are_counted() -> None:
    answers = answers_of(["<think>one two</think>Rain.", "Rain.", "<think>one"], [ASKED] * 3)
    found = of_thoughts(answers, lambda text: len(text.split()))
    assert found["thoughts.tokens"] == Ratio([2.0, 0.0, 1.0], [1.0] * 3)
    assert found["thoughts.unclosed"].over == [0.0, 0.0, 1.0]
