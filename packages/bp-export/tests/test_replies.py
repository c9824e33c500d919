"""Answers of served models in their parts, and the shares of right calls."""

import json

import pytest

from bp_core.examples import Conversation, spread
from bp_core.tool_call import Call
from bp_export.replies import (
    Reply,
    ServedQuestion,
    call_of,
    check_calls,
    check_read,
    check_thoughts,
    served_questions,
    share,
)

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
ASKED = [{"role": "user", "content": "What is 1 + 2?"}]


def call(name="add", **arguments):
    return Call(name, arguments)


def test_arguments_are_an_object_or_text_of_one():
    assert call_of({"name": "add", "arguments": '{"a": 1}'}) == call_of({"name": "add", "arguments": {"a": 1}})
    assert call_of({"name": "add", "arguments": "{oops"}).arguments is None
    assert call_of({"name": "add", "arguments": "[1]"}).arguments is None
    assert call_of({"name": "add"}).arguments is None


def test_a_conversation_asks_for_its_first_call_or_else_for_its_last_answer():
    called = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]}
    said = {"role": "assistant", "content": "3"}
    result = {"role": "tool", "content": "3"}
    talks = [Conversation([*ASKED, called, result, said], TOOLS), Conversation([*ASKED, said], TOOLS)]
    with_call, without = served_questions(talks)
    assert (with_call.turns, with_call.calls) == (ASKED, (call(a=1),))
    assert (without.turns, without.calls) == (ASKED, ())
    assert not (with_call.thinks or without.thinks)
    unasked = [Conversation([*ASKED, said]), Conversation([said], TOOLS), Conversation(ASKED, TOOLS)]
    assert not served_questions([*unasked, Conversation([*ASKED, called, result, said])])


@pytest.mark.parametrize(
    "thinking", [{"reasoning_content": "1 and 2 are 3.", "content": "3"}, {"content": "<think>1 and 2</think>3"}]
)
def test_a_conversation_whose_last_answer_has_a_thought_asks_for_one(thinking):
    earlier = {"role": "assistant", "content": "2", "reasoning_content": "1 and 1"}
    talk = [*ASKED, earlier, *ASKED, {"role": "assistant", **thinking}]
    assert served_questions([Conversation(talk)]) == [ServedQuestion(talk[:3], None, (), thinks=True)]
    assert not served_questions([Conversation([*talk[:3], {"role": "assistant", "content": "3"}])])


def test_questions_are_taken_from_all_over():
    asked = [ServedQuestion([{"role": "user", "content": str(number)}]) for number in range(9)]
    assert [question.turns[0]["content"] for question in spread(asked, 3)] == ["0", "3", "6"]
    assert spread(asked, 99) == asked


def test_shares_are_of_the_rows_that_want_a_call_and_of_those_that_do_not():
    asked = [ServedQuestion(ASKED, TOOLS, (call(a=1, b=2.0),))] * 4 + [ServedQuestion(ASKED, TOOLS)] * 2
    asked.append(ServedQuestion(ASKED, thinks=True))
    replies = [
        Reply("", calls=(call(b=2, a=1),)),
        Reply("", calls=(call(a=1, b=3),)),
        Reply("", calls=(call("subtract", a=1, b=2),)),
        Reply("I add."),
        Reply("Hello."),
        Reply("", calls=(call(),)),
        Reply("3", thought="1 and 2"),
    ]
    checks = {check.name: check for check in check_calls("here", asked, replies)}
    assert {name: check.measured for name, check in checks.items()} == {
        "here: parsed": "3 of 4",
        "here: right name": "2 of 4",
        "here: right arguments": "1 of 4",
        "here: no call where none is due": "1 of 2",
    }
    assert all(check.limit is None for check in checks.values()), "nothing fails below a share"
    assert all(check.passed and not check.warning for check in checks.values())
    assert json.dumps([check.as_row() for check in checks.values()])


@pytest.mark.parametrize(
    ("reply", "unclosed"),
    [
        (Reply("", thought="so long", ended=False), True),
        (Reply("<think> so long", ended=False), True),
        (Reply("It is", thought="short", ended=False), False),
        (Reply("", thought="then a call", calls=(call(),)), False),
        (Reply("It is 3.", thought="short"), False),
        (Reply("a long answer", ended=False), False),
    ],
)
def test_an_answer_that_never_closes_its_thought(reply, unclosed):
    assert reply.unclosed == unclosed
    asked = [ServedQuestion(ASKED)] * 2
    (check,) = check_thoughts("here", asked, [reply, Reply("Yes.", thought="hm")])
    assert check.measured == ("1 of 2" if unclosed else "2 of 2")


def test_where_nobody_thinks_there_is_no_row_of_thoughts():
    assert not check_thoughts("here", [ServedQuestion(ASKED)] * 2, [Reply("Yes."), Reply("No")])


def test_an_expected_thought_is_apart_from_the_answer_and_can_be_switched_off():
    asked = [ServedQuestion(ASKED, thinks=True)] * 3 + [ServedQuestion(ASKED, TOOLS)]
    replies = [
        Reply("3", thought="1 and 2"),
        Reply("<think>1 and 2</think>3"),
        Reply("", thought="1 and 2 and", ended=False),
        Reply("Hello."),
    ]
    unthinking = [Reply("3"), Reply("<think>1 and 2</think>3"), Reply("3", thought="1 and 2")]
    checks = {check.name: check for check in check_thoughts("here", asked, replies, unthinking)}
    assert {name: check.measured for name, check in checks.items()} == {
        "here: thought apart from the answer": "1 of 3",
        "here: thoughts close": "3 of 4",
        "here: no thought when switched off": "1 of 3",
    }


def test_an_answer_that_could_not_be_read_is_right_in_nothing_and_is_counted():
    unread = Reply("", read=False)
    asked = [ServedQuestion(ASKED, TOOLS, (call(),)), ServedQuestion(ASKED, TOOLS), ServedQuestion(ASKED, thinks=True)]
    replies = [unread] * 3
    found = [*check_calls("here", asked, replies), *check_thoughts("here", asked, replies, [unread])]
    assert len(found) == 6 and all(check.measured == "0 of 1" for check in found)
    (check,) = check_read("here", [*replies, Reply("3")])
    assert (check.name, check.measured) == ("here: answers that could be read", "1 of 4")
    assert check.passed and check.warning
    assert not check_read("here", [Reply("3")])


@pytest.mark.parametrize(
    ("count", "total", "low", "high"), [(0, 10, 0.0, 0.278), (5, 10, 0.237, 0.763), (10, 10, 0.722, 1)]
)
def test_the_interval_is_wilsons(count, total, low, high):
    found = share("x", [True] * count + [False] * (total - count))
    assert found.note == f"{count / total:.0%} of {total} rows, {low:.0%} to {high:.0%} of all such"
    assert found.warning == (count == 0)
