"""Answers of served models in their parts, and the shares of right calls."""

import json

import pytest

from bp_core.tool_call import Call
from bp_export.replies import CallQuestion, Reply, call_of, call_questions, check_calls, check_thoughts, share

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
    with_call, without = call_questions([([*ASKED, called, result, said], TOOLS), ([*ASKED, said], TOOLS)])
    assert (with_call.turns, with_call.calls) == (ASKED, (call(a=1),))
    assert (without.turns, without.calls) == (ASKED, ())
    assert not call_questions([([*ASKED, said], ()), ([said], TOOLS), (ASKED, TOOLS)])


def test_shares_are_of_the_rows_that_want_a_call_and_of_those_that_do_not():
    asked = [CallQuestion(ASKED, TOOLS, (call(a=1, b=2.0),))] * 4 + [CallQuestion(ASKED, TOOLS)] * 2
    replies = [
        Reply("", calls=(call(b=2, a=1),)),
        Reply("", calls=(call(a=1, b=3),)),
        Reply("", calls=(call("subtract", a=1, b=2),)),
        Reply("I add."),
        Reply("Hello."),
        Reply("", calls=(call(),)),
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
    (check,) = check_thoughts("here", [reply, Reply("Yes.", thought="hm")])
    assert check.measured == ("1 of 2" if unclosed else "2 of 2")


def test_where_nobody_thinks_there_is_no_row_of_thoughts():
    assert not check_thoughts("here", [Reply("Yes."), Reply("No")])


@pytest.mark.parametrize(
    ("count", "total", "low", "high"), [(0, 10, 0.0, 0.278), (5, 10, 0.237, 0.763), (10, 10, 0.722, 1)]
)
def test_the_interval_is_wilsons(count, total, low, high):
    found = share("x", [True] * count + [False] * (total - count))
    assert found.note == f"{count / total:.0%} of {total} rows, {low:.0%} to {high:.0%} of all such"
    assert found.warning == (count == 0)
