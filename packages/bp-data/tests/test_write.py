import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bp_core.errors import BadRow, BadValue
from bp_data import Record, Row, convert
from bp_data.formats.write import SHAPES, reshape
from bp_data.reading.jsonl import line

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ANSWER = TEXT.filter(lambda text: bool(text.strip()))
OTHERS = st.tuples(st.sampled_from(["system", "user", "tool"]), TEXT)
ASSISTANT = st.tuples(st.just("assistant"), ANSWER)
CONVERSATION = st.tuples(st.lists(OTHERS | ASSISTANT, max_size=4), ASSISTANT).map(lambda pair: [*pair[0], pair[1]])
Pairs = list[tuple[str, str]]


def turns(pairs: Pairs) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in pairs]


def reshaped(value: dict[str, Any], to: str) -> dict[str, object]:
    (row,) = reshape([Row(value, "f:7")], to)
    return row


def there_and_back(pairs: Pairs, to: str) -> Record:
    written = line(reshaped({"messages": turns(pairs)}, to))
    return convert(Row(json.loads(written), "f:7"))


@pytest.mark.parametrize("to", ["openai", "sharegpt"])
@given(pairs=CONVERSATION)
def test_there_and_back_is_the_same_conversation(to: str, pairs: Pairs) -> None:
    assert there_and_back(pairs, to) == Record(to, turns(pairs), "f:7")


@given(st.none() | TEXT.filter(bool), TEXT, ANSWER)
def test_an_exchange_goes_through_alpaca_unchanged(system: str | None, question: str, answer: str) -> None:
    start = [] if system is None else [("system", system)]
    pairs = [*start, ("user", question), ("assistant", answer)]
    assert there_and_back(pairs, "alpaca") == Record("alpaca", turns(pairs), "f:7")


def test_each_format_has_its_own_words() -> None:
    value = {"instruction": "a", "input": "b", "output": "c", "system": "s"}
    assert reshaped(value, "openai") == {"messages": turns([("system", "s"), ("user", "a\n\nb"), ("assistant", "c")])}
    assert reshaped(value, "sharegpt") == {
        "conversations": [
            {"from": "system", "value": "s"},
            {"from": "human", "value": "a\n\nb"},
            {"from": "gpt", "value": "c"},
        ]
    }
    assert reshaped(value, "alpaca") == {"instruction": "a\n\nb", "input": "", "output": "c", "system": "s"}


def test_earlier_exchanges_become_the_history_of_alpaca() -> None:
    pairs = [("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4"), ("user", "5"), ("assistant", "6")]
    row = reshaped({"messages": turns(pairs)}, "alpaca")
    assert row == {"instruction": "5", "input": "", "output": "6", "history": [["1", "2"], ["3", "4"]]}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("user", "a"), ("user", "b"), ("assistant", "c")], "assistant at turn 2, which is user"),
        ([("system", "s"), ("assistant", "c")], "user at turn 2, which is assistant"),
        ([("user", "a"), ("tool", "b"), ("assistant", "c")], "turn 2, which is tool"),
        ([("user", "a"), ("assistant", "b"), ("user", "c")], "an answer at the end"),
        ([("system", ""), ("user", "a"), ("assistant", "b")], "empty system turn"),
    ],
)
def test_what_alpaca_cannot_hold_is_refused_with_its_place(pairs: Pairs, message: str) -> None:
    with pytest.raises(BadRow, match=message) as caught:
        reshaped({"messages": turns(pairs)}, "alpaca")
    assert caught.value.where == "f:7"


@pytest.mark.parametrize("to", SHAPES)
def test_raw_text_is_refused(to: str) -> None:
    with pytest.raises(BadRow, match=f"raw text, and {to} holds conversations") as caught:
        reshaped({"text": "a"}, to)
    assert caught.value.where == "f:7"


@pytest.mark.parametrize("to", ["sharegpt", "alpaca"])
def test_a_turn_with_more_than_text_is_refused_rather_than_cut(to: str) -> None:
    question, answer = turns([("user", "a"), ("assistant", "b")])
    with pytest.raises(BadRow, match="turn 2, which has 'tool_calls'"):
        SHAPES[to]([question, {**answer, "tool_calls": [{}]}], "f:7")


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"é": [1]}}}


def test_tools_and_calls_go_through_openai_unchanged() -> None:
    calling = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    record = convert(Row({"messages": [*turns([("user", "a")]), calling], "tools": [TOOL]}, "f:7"))
    assert isinstance(record, Record)
    row = reshaped({"messages": record.content, "tools": [TOOL]}, "openai")
    assert row["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"\\u00e9": [1]}'  # type: ignore[index]
    assert convert(Row(row, "f:7")) == record
    for to in ("sharegpt", "alpaca"):
        with pytest.raises(BadRow, match="cannot hold the row's tools"):
            reshaped({"messages": record.content, "tools": [TOOL]}, to)


def test_answers_to_compare_are_refused() -> None:
    with pytest.raises(BadRow, match="answers to compare"):
        reshaped({"prompt": "a", "chosen": "b", "rejected": "c"}, "openai")


def test_an_unknown_format_is_refused_before_anything_is_read() -> None:
    with pytest.raises(BadValue, match="'llama'") as caught:
        reshape(iter([]), "llama")
    assert "openai, sharegpt, alpaca" in caught.value.fix


def test_a_turn_without_loss_stays_so_or_is_refused() -> None:
    question, answer = turns([("user", "a"), ("assistant", "b")])
    value = {"messages": [question, {**answer, "train": False}, question, answer]}
    assert convert(Row(reshaped(value, "openai"), "f:7")) == convert(Row(value, "f:7"))
    for to in ("sharegpt", "alpaca"):
        with pytest.raises(BadRow, match="turn 2, which has 'train'"):
            reshaped(value, to)
