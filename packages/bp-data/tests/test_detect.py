import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bp_core.errors import BackpropagateError, BadRow, NoTarget, UnknownFormat
from bp_data import Record, Row, convert

HI = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
PART = {"type": "text", "text": "yo"}
THOUGHT = {"role": "assistant", "content": "yo", "reasoning_content": "hm"}
SYSTEM = {"role": "system", "content": "be brief"}

KNOWN = [
    ("openai", {"messages": HI}, HI),
    ("openai", {"messages": HI, "id": 3, "source": "x", "prompt": "hi"}, HI),
    ("openai", {"messages": [{**turn, "name": "n", "weight": 1, "tool_calls": None} for turn in HI]}, HI),
    ("openai", {"conversations": None, "messages": HI}, HI),
    ("sharegpt", {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]}, HI),
    ("sharegpt", {"conversations": [{"from": "User", "value": "hi"}, {"from": "assistant", "value": "yo"}]}, HI),
    ("sharegpt", {"conversations": HI, "system": "be brief"}, [SYSTEM, *HI]),
    ("sharegpt", {"conversations": [{"from": "system", "value": "be brief"}, *HI]}, [SYSTEM, *HI]),
    ("alpaca", {"instruction": "hi", "output": "yo"}, HI),
    ("alpaca", {"instruction": "hi", "input": "", "output": "yo", "text": "hi yo"}, HI),
    ("alpaca", {"instruction": "hi", "input": "there", "output": "yo"}, [{**HI[0], "content": "hi\n\nthere"}, HI[1]]),
    ("alpaca", {"instruction": "hi", "output": "yo", "system": "be brief"}, [SYSTEM, *HI]),
    ("prompt", {"prompt": "hi", "completion": "yo"}, HI),
    ("prompt", {"prompt": "hi", "response": "yo"}, HI),
    ("prompt", {"question": "hi", "answer": "yo"}, HI),
    ("text", {"text": " hi "}, " hi "),
    ("openai", {"messages": HI, "system": "be brief"}, [SYSTEM, *HI]),
    (
        "openai",
        {"messages": [HI[0], {**HI[1], "content": [PART, {**PART, "text": "!"}]}]},
        [HI[0], {**HI[1], "content": "yo!"}],
    ),
    ("openai", {"messages": [HI[0], {**HI[1], "reasoning_content": "hm"}]}, [HI[0], THOUGHT]),
    (
        "alpaca",
        {"instruction": "hi", "output": "yo", "history": [["hi", "yo"]], "system": "be brief"},
        [SYSTEM, *HI, *HI],
    ),
    ("alpaca", {"instruction": "hi", "output": "yo", "history": []}, HI),
]


@pytest.mark.parametrize(("name", "value", "content"), KNOWN)
def test_a_known_format_becomes_a_conversation_or_text(name: str, value: dict[str, object], content: object) -> None:
    assert convert(Row(value, "f:7")) == Record(name, content, "f:7")  # type: ignore[arg-type]


def openai(*turns: object) -> dict[str, object]:
    return {"messages": list(turns)}


WRONG: list[tuple[dict[str, object], type[BackpropagateError], str]] = [
    ({"mesages": HI}, UnknownFormat, "did you mean 'messages' instead of 'mesages'"),
    ({"Prompt": "a", "Completion": "b"}, UnknownFormat, "did you mean 'prompt' instead of 'Prompt'"),
    ({"a": 1, "b": 2}, UnknownFormat, "'a', 'b'"),
    ({}, UnknownFormat, "none"),
    ({"instruction": "hi"}, UnknownFormat, "'instruction'"),
    ({"query": "hi", "Reply": "yo"}, UnknownFormat, "--columns prompt=query,completion=Reply"),
    ({"promt": "hi", "chosen": "a", "regected": "b"}, UnknownFormat, "did you mean 'rejected'"),
    ({"text": 3}, BadRow, "'text' of the row must be a string, not 3"),
    ({"text": "\ud83d"}, BadRow, "half a character"),
    ({"prompt": ["hi"], "completion": "yo"}, BadRow, "turn 1 must be an object"),
    ({"prompt": [], "completion": "yo"}, BadRow, "'prompt' of the row must be a string"),
    ({"messages": "hi"}, BadRow, "list of turns"),
    ({"messages": []}, BadRow, "list of turns"),
    (openai("hi"), BadRow, "turn 1 must be an object"),
    (openai({"role": "user"}), BadRow, "turn 1 has no 'content'"),
    (openai({"rol": "user", "content": "x"}), BadRow, "turn 1 has no 'role'; it has 'rol'"),
    (openai(HI[0], {"role": "assistent", "content": "x"}), BadRow, "turn 2 .* did you mean 'assistant'"),
    (openai(HI[0], {"role": "assistant", "content": [{"type": "text"}]}), BadRow, "'content' of turn 2"),
    (openai(HI[0], {"role": "assistant", "content": None}), BadRow, "'content' of turn 2 must be a string, not None"),
    (openai(HI[0], {**HI[1], "tool_calls": [{}]}), BadRow, "tool call of turn 2 has no name"),
    (openai({**HI[0], "tool_calls": [{}]}, HI[1]), BadRow, "turn 1 has 'tool_calls' but is not the assistant's"),
    (openai(HI[0], {**HI[1], "tools": [{}]}), BadRow, "turn 2 has 'tools', which belongs to the row"),
    (openai(HI[0], {**HI[1], "tool_calls": [{"name": "f", "arguments": "{"}]}), BadRow, "not valid JSON"),
    (openai(HI[0], {**HI[1], "tool_calls": [{"name": "f", "arguments": [1]}]}), BadRow, "must be an object, not"),
    (openai(HI[0], {**HI[1], "weight": 0}), NoTarget, "every assistant turn is marked"),
    (openai(HI[0], {**HI[1], "weight": 0.5}), BadRow, "'weight' of turn 2 must be one of"),
    (openai(HI[0], {**HI[1], "train": "no"}), BadRow, "'train' of turn 2 must be one of"),
    (openai({**HI[0], "content": [{"type": "image_url"}]}, HI[1]), BadRow, "part 1 of 'content' of turn 1 is not text"),
    (openai({**HI[0], "reasoning_content": "x"}, HI[1]), BadRow, "not the assistant's"),
    ({"instruction": "a", "output": "b", "history": [["x"]]}, BadRow, "pairs"),
    ({"instruction": "a", "output": "b", "history": [["x", 3]]}, BadRow, "'assistant' of pair 1"),
    ({"messages": HI[:1], "chosen": "a", "rejected": " "}, NoTarget, "the answer of 'rejected' is empty"),
    ({"prompt": "hi", "chosen": HI[:1], "rejected": HI}, NoTarget, "'chosen' does not end with an assistant turn"),
    ({"conversations": HI[:1], "chosen": HI[1], "rejected": HI[1]}, NoTarget, "are the same"),
    ({"chosen": "a", "rejected": "b"}, BadRow, "do not begin with the same prompt"),
    ({"prompt": "no", "chosen": HI, "rejected": [HI[0], {**HI[1], "content": "b"}]}, BadRow, "'no' is not what"),
    ({"prompt": "hi", "completion": "a", "kto_tag": "maybe"}, BadRow, "must be true or false, not 'maybe'"),
    ({"messages": HI[:1], "label": True}, NoTarget, "does not end with an assistant turn"),
    ({"text": "a", "kto_tag": True}, BadRow, "raw text cannot be rated"),
    ({"messages": HI, "tools": [{}]}, BadRow, "tool 1 has no name"),
    ({"messages": HI, "tools": "["}, BadRow, "'tools' is not valid JSON"),
    ({"messages": HI, "tools": 3}, BadRow, "must be a list of tools, not 3"),
    ({"text": " \n"}, NoTarget, "empty"),
    (openai(HI[0]), NoTarget, "no assistant turn"),
    (openai(*HI, HI[0], {**HI[1], "content": " "}), NoTarget, "turn 4 is empty"),
    ({"prompt": "hi", "completion": ""}, NoTarget, "empty"),
]


@pytest.mark.parametrize(("value", "error", "message"), WRONG)
def test_a_wrong_row_is_refused_with_its_place(
    value: dict[str, object], error: type[BackpropagateError], message: str
) -> None:
    with pytest.raises(error) as caught:
        convert(Row(value, "f:7"))
    assert re.search(message, f"{caught.value.message} {caught.value.fix}")
    assert caught.value.where == "f:7"


def test_marked_turns_carry_no_loss_and_others_do() -> None:
    for mark in ({"train": False}, {"weight": 0}):
        row = Row({"system": "be brief", "messages": [HI[0], {**HI[1], **mark}, *HI]}, "f:7")
        assert convert(row).untrained == (2,)
    assert convert(Row({"messages": [{**turn, "train": True, "weight": 1.0} for turn in HI]}, "f:7")).untrained == ()


ROWS = st.sampled_from([value for _, value, _ in KNOWN] + [value for value, _, _ in WRONG])


@given(ROWS, st.randoms(use_true_random=False))
def test_detection_does_not_depend_on_the_order_of_keys(value: dict[str, object], random: Random) -> None:
    def told(items: list[tuple[str, object]]) -> object:
        try:
            return convert(Row(dict(items), "f:7"))
        except BackpropagateError as error:
            return type(error)

    shuffled = list(value.items())
    random.shuffle(shuffled)
    assert told(shuffled) == told(list(value.items()))


def test_a_row_with_pictures_is_refused_not_learned_blind():
    row = {"messages": [{"role": "user", "content": "<image>Who?"}, {"role": "assistant", "content": "Kane."}]}
    with pytest.raises(BadRow, match="'images'"):
        convert(Row({**row, "images": ["1.jpg"]}, "f:3"))
    assert convert(Row({**row, "images": []}, "f:4")).content[1]["content"] == "Kane."


def test_parts_may_call_their_text_value_and_turns_their_mark_loss_weight():
    part = {"type": "text", "value": "Hi."}
    turns = [{"role": "user", "content": [part], "loss_weight": 0.0}, {"role": "assistant", "content": [part]}]
    record = convert(Row({"messages": [*turns, turns[0], {**turns[1], "loss_weight": 0.0}]}, "f:1"))
    assert [turn["content"] for turn in record.content] == ["Hi."] * 4 and record.untrained == (3,)
    with pytest.raises(BadRow, match="part 1"):
        convert(Row({"messages": [{"role": "user", "content": [{"type": "image", "value": "a"}]}, turns[1]]}, "f:2"))
