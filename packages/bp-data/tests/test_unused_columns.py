"""Columns are learned, named, or refused by name: nothing of a row is lost in silence."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bp_core.config import DataConfig
from bp_core.errors import BackpropagateError, BadRow, BadValue, NoTarget, UnknownFormat
from bp_data import ChatTokenizer, Record, Row, convert, prepare, read
from bp_data.check import check
from bp_data.formats.records import Preference, Rated
from bp_data.reading.columns import columns_in, ignored_in, roles_in, written

U, A = "user", "assistant"


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


ASKED = [turn(U, "Hi?"), turn(A, "Yes.")]
PAIR = {"prompt": "Hi?", "completion": "Yes."}


def roles(value: dict[str, Any], thoughts: bool = False) -> list[tuple[str, str]]:
    record = convert(Row(value, "f:1"), thoughts)
    assert isinstance(record, Record) and isinstance(record.content, list)
    return [(item["role"], item["content"]) for item in record.content]


def unused(value: dict[str, Any]) -> tuple[str, ...]:
    return convert(Row(value, "f:1")).unused


@pytest.mark.parametrize(
    ("question", "answer"),
    [("question", "answer"), ("prompt", "completion"), ("prompt", "response"), ("instruction", "output")],
)
@pytest.mark.parametrize("name", ["context", "input"])
def test_context_beside_a_question_is_its_input(question: str, answer: str, name: str) -> None:
    value = {question: "How many?", name: "CREATE TABLE head (age INT)", answer: "SELECT 1"}
    assert roles(value) == [(U, "How many?\n\nCREATE TABLE head (age INT)"), (A, "SELECT 1")]
    assert unused(value) == ()


@pytest.mark.parametrize("name", ["system", "system_prompt", "system_message"])
@pytest.mark.parametrize(
    "value", [{"messages": ASKED}, {"conversations": ASKED}, PAIR, {"instruction": "Hi?", "output": "Yes."}]
)
def test_a_system_prompt_is_used_in_every_shape(value: dict[str, Any], name: str) -> None:
    assert roles({**value, name: "Be brief."})[0] == ("system", "Be brief.")


def test_a_system_prompt_that_stands_in_the_turns_too_is_not_doubled() -> None:
    turns = [turn("system", "Be brief."), *ASKED]
    assert roles({"messages": turns, "system": "Be brief."}) == [("system", "Be brief."), (U, "Hi?"), (A, "Yes.")]


def test_history_is_used_beside_prompts_too() -> None:
    assert roles({**PAIR, "history": [["a", "b"]]})[:2] == [(U, "a"), (A, "b")]
    assert roles({**PAIR, "history": ""}) == [(U, "Hi?"), (A, "Yes.")]


@pytest.mark.parametrize("name", ["rationale", "reasoning", "thinking", "cot"])
def test_reasoning_beside_an_answer_is_thoughts_when_asked_for(name: str) -> None:
    value = {**PAIR, name: "Hm."}
    assert unused(value) == (name,)
    assert convert(Row(value, "f:1"), thoughts=True).content[1]["reasoning_content"] == "Hm."
    assert convert(Row(value, "f:1"), thoughts=True).unused == ()
    (row,) = read([value], DataConfig(columns=f"reasoning_content={name}"))
    assert convert(row).content[1]["reasoning_content"] == "Hm."


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ({"text": "A long bill", "summary": "Taxes."}, ("summary",)),
        ({"text": "A long bill", "label": 1}, ("label",)),
        ({"text": "A long bill", "category": "law"}, ("category",)),
        ({"text": "A long bill", "completion": "Taxes."}, ("completion",)),
        ({"messages": ASKED, "summary": "Taxes."}, ("summary",)),
        ({"messages": [*ASKED[:1], {**ASKED[1], "thoughts": "Hm."}]}, ("messages[].thoughts",)),
        ({**PAIR, "response": "No."}, ("response",)),
        ({**PAIR, "label": 7}, ("label",)),
        ({**PAIR, "label": None}, ("label",)),
        ({**PAIR, "hint": "h", "examples": ["a", "b"]}, ("hint", "examples")),
        ({**PAIR, "id": 3, "source": "web", "category": "talk", "score": 0.5, "extra": None, "note": ""}, ()),
        ({"messages": ASKED, "prompt": "Hi?", "text": "user: Hi? assistant: Yes."}, ()),
    ],
)
def test_other_columns_are_named(value: dict[str, Any], names: tuple[str, ...]) -> None:
    assert unused(value) == names


def test_check_and_training_name_the_same_columns(smol: ChatTokenizer) -> None:
    rows = [{"text": f"A bill {n}.", "summary": f"Tax {n}."} for n in range(4)] + [{"text": "Other."}]
    (finding,) = (found for found in check(rows).findings if found.kind == "unused-column")
    assert "'summary'" in finding.message and "4 rows (80%), such as 'Tax 0.'" in finding.message
    assert (
        finding.fix == "To use it: --columns prompt=text,completion=summary; to leave it out: --ignore-columns summary"
    )
    assert prepare(rows, smol, max_length=64).report.unused == {"summary": 4}
    report = prepare(rows, smol, max_length=64, reading=DataConfig(ignore_columns="summary")).report
    assert (report.unused, report.remarks) == ({}, ())
    (finding,) = (found for found in check([{**PAIR, "schema": "x"}]).findings if found.kind == "unused-column")
    assert finding.fix.startswith("To use it: --columns input=schema;")


def test_a_name_that_never_occurs_is_told(smol: ChatTokenizer) -> None:
    reading = DataConfig(ignore_columns="lable", roles="user=guest")
    report = prepare([PAIR], smol, max_length=64, reading=reading).report
    assert any("'lable'" in remark for remark in report.remarks) and any("'guest'" in r for r in report.remarks)
    kinds = {finding.kind for finding in check([PAIR], reading=reading).findings}
    assert kinds == {"missing-column"}


COMPARED = [
    {"messages": ASKED, "rejected_response": "No."},
    {"messages": ASKED, "rejected_messages": [ASKED[0], turn(A, "No.")]},
    {"messages": ASKED, "rejected_messages": [turn(A, "No.")], "system": None},
]


@pytest.mark.parametrize("value", COMPARED)
def test_messages_with_a_rejected_answer_are_a_comparison(value: dict[str, Any]) -> None:
    assert convert(Row(value, "f:1")) == Preference("preference", ASKED[:1], ASKED[1:], [turn(A, "No.")], "f:1")


@pytest.mark.parametrize(
    "value",
    [
        {**PAIR, "rejected_response": "No."},
        {**PAIR, "negative": "No."},
        {**PAIR, "bad_answer": "No."},
        {"question": "Hi?", "answer": "Yes.", "incorrect_answers": ["No."]},
        {"messages": ASKED, "dispreferred": "No."},
        {"prompt": "p", "response_a": "a", "response_b": "b", "winner": "a"},
        {"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": 1},
        {"question": "p", "response_j": "a", "response_k": "b"},
        {"conversation_a": ASKED, "conversation_b": ASKED, "winner": "model_a"},
        {"prompt": "p", "completion": "c", "answer1": "a", "answer2": "b"},
        {"prompt": "p", "chosen_response": "a", "rejected_response": "b"},
        {"prompt": "p", "accepted": "a", "worse": "b"},
    ],
)
def test_a_comparison_by_other_names_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(UnknownFormat) as error:
        convert(Row(value, "f:1"))
    if "--columns " in error.value.fix:
        columns = error.value.fix.partition("--columns ")[2].partition(";")[0].strip("'")
        (row,) = read([value], DataConfig(columns=columns))
        assert isinstance(convert(row), Preference)


SUGGESTED = [
    (
        {"instruction": "Translate", "input": "Hello", "response": "Bonjour"},
        [(U, "Translate\n\nHello"), (A, "Bonjour")],
    ),
    ({"Instruction": "Translate", "Input": "Hello", "Output": "Bonjour"}, [(U, "Translate\n\nHello"), (A, "Bonjour")]),
    ({"instruction": "Sum up", "context": "c", "response": "r", "category": "x"}, [(U, "Sum up\n\nc"), (A, "r")]),
    ({"query": "q", "response": "r", "history": [["a", "b"]]}, [(U, "a"), (A, "b"), (U, "q"), (A, "r")]),
    ({"query": "q", "reply": "r", "System": "s"}, [("system", "s"), (U, "q"), (A, "r")]),
    ({"prompt ": "q", " completion": "r"}, [(U, "q"), (A, "r")]),
    ({"question, all": "q", "Question": "p", "Answer": "r"}, [(U, "p"), (A, "r")]),
    ({"dialogue": ASKED, "system prompt": "s"}, [("system", "s"), (U, "Hi?"), (A, "Yes.")]),
]


@pytest.mark.parametrize(("value", "content"), SUGGESTED)
def test_suggested_columns_work_as_they_stand_and_lose_nothing(
    value: dict[str, Any], content: list[tuple[str, str]]
) -> None:
    with pytest.raises(UnknownFormat) as error:
        convert(Row(value, "f:1"))
    assert error.value.fix.startswith("Name the columns: ")
    _, columns = shlex.split(error.value.fix.removeprefix("Name the columns: "))
    (row,) = read([value], DataConfig(columns=columns))
    assert roles(dict(row.value)) == content


@pytest.mark.parametrize(
    "value", [{"train": ["a"], "test": ["b"]}, {"a": 1}, {"prompt": "p", "completion_": 3}, {"user": [], "answer": {}}]
)
def test_nothing_is_suggested_where_nothing_works(value: dict[str, Any]) -> None:
    with pytest.raises(UnknownFormat) as error:
        convert(Row(value, "f:1"))
    assert "--columns" not in error.value.fix


def test_names_with_commas_and_spaces_are_quoted() -> None:
    columns = {"prompt": 'a, "b"', "completion": " c ", "system": "d=e"}
    (word,) = shlex.split(written(columns))
    assert columns_in(word) == columns
    assert ignored_in('"a, b",c') == ("a, b", "c")
    assert roles_in("human=prompter, assistant=Agent") == {"prompter": U, "agent": A}
    for wrong in ("prompter", "boss=x", "user="):
        with pytest.raises(BadValue):
            roles_in(wrong)
    with pytest.raises(BadValue, match="both named in columns and ignored"):
        list(read([PAIR], DataConfig(columns="prompt=a", ignore_columns="a")))


def test_roles_of_other_names_are_given() -> None:
    turns = [{"role": "customer", "content": "Hi?"}, {"role": "Agent", "content": "Yes."}]
    with pytest.raises(BadRow, match="unknown role 'customer'") as error:
        convert(Row({"messages": turns}, "f:1"))
    assert "--roles" in error.value.fix
    (row,) = read([{"messages": turns}], DataConfig(roles="user=customer,assistant=agent"))
    assert roles(dict(row.value)) == [(U, "Hi?"), (A, "Yes.")]


GOOD = [True, 1, 1.0, "1", "true", "Good", "yes", "desirable", np.True_, np.int64(1), np.float32(1), "thumbs up", "👍"]
BAD = [False, 0, 0.0, -1, -1.0, "-1", "false", "bad", "No", "undesirable", np.False_, np.int8(0), "rejected"]


@pytest.mark.parametrize(("label", "verdict"), [*((label, True) for label in GOOD), *((label, False) for label in BAD)])
def test_verdicts_in_every_notation(label: Any, verdict: bool) -> None:
    for value in ({**PAIR, "label": label}, {"messages": ASKED, "kto_tag": label}):
        assert convert(Row(value, "f:1")) == Rated("kto", ASKED, verdict, "f:1")


@pytest.mark.parametrize("name", ["desirable", "rating", "is_good", "feedback", "labels", "is_preferred"])
def test_a_rating_under_another_name_is_refused_with_both_ways_out(name: str) -> None:
    value = {**PAIR, name: "bad" if name in ("rating", "feedback") else False}
    with pytest.raises(UnknownFormat) as error:
        convert(Row(value, "f:1"))
    assert f"--columns label={name}" in error.value.fix and f"--ignore-columns {name}" in error.value.fix
    (row,) = read([value], DataConfig(columns=f"label={name}"))
    assert isinstance(convert(row), Rated)
    (row,) = read([value], DataConfig(ignore_columns=name))
    assert roles(dict(row.value)) == [(U, "Hi?"), (A, "Yes.")]


def test_a_label_can_be_ignored(smol: ChatTokenizer) -> None:
    rows = [{"instruction": "Hi?", "output": "Yes.", "label": 1}]
    with pytest.raises(BackpropagateError) as error:
        prepare(rows, smol, max_length=64)
    assert "--ignore-columns label" in error.value.fix
    assert prepare(rows, smol, max_length=64, reading=DataConfig(ignore_columns="label")).report.examples == 1


def test_a_copy_of_the_chosen_conversation_is_not_its_prompt() -> None:
    good, bad = ([turn(U, "2+2?"), turn(A, answer)] for answer in "45")
    value = {"prompt": "2+2?", "chosen": good, "rejected": bad, "messages": good, "score_chosen": 8.0}
    wanted = Preference("preference", good[:1], good[1:], bad[1:], "f:1")
    assert convert(Row(value, "f:1")) == wanted
    assert convert(Row({**value, "messages": bad}, "f:1")) == wanted
    assert convert(Row({**value, "chosen": "4", "rejected": "5"}, "f:1")) == wanted
    assert convert(Row({**value, "chosen": "4", "rejected": "5", "prompt": None}, "f:1")) == wanted


@pytest.mark.parametrize(
    "value",
    [
        {"chosen": "\n\nHuman: Why?\n\nAssistant: So.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."},
        {"prompt": "Why?", "chosen": "Why? So.", "rejected": "Why?\n\nNo."},
        {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
        {
            "prompt": [turn(U, "Why?")],
            "chosen": '[{"role": "assistant", "content": "So."}]',
            "rejected": [turn(A, "No.")],
        },
        {"chosen": str([turn(U, "Why?"), turn(A, "So.")]), "rejected": str([turn(U, "Why?"), turn(A, "No.")])},
    ],
)
def test_whole_texts_and_repeated_prompts_are_compared(value: dict[str, Any]) -> None:
    wanted = Preference("preference", [turn(U, "Why?")], [turn(A, "So.")], [turn(A, "No.")], "f:1")
    assert convert(Row(value, "f:1")) == wanted


@pytest.mark.parametrize("name", ["loss", "training", "loss_mask", "trainable", "loss_scale", "train", "weight"])
@pytest.mark.parametrize("no", [False, 0, 0.0])
def test_marks_of_turns_without_loss_are_obeyed(name: str, no: object) -> None:
    value = {"messages": [turn(U, "a"), turn(A, "b", **{name: no}), *ASKED]}
    assert convert(Row(value, "f:1")).untrained == (1,)
    value = {"messages": [turn(U, "a"), turn(A, "b", **{name: True}), *ASKED]}
    assert convert(Row(value, "f:1")).untrained == ()


@pytest.mark.parametrize("mark", [{"mask": True}, {"mask": 0}, {"train_detail": [{"begin": 0}]}, {"loss_scale": 0.5}])
def test_marks_that_say_more_than_yes_and_no_are_refused(mark: dict[str, object]) -> None:
    with pytest.raises(BadRow, match=next(iter(mark))):
        convert(Row({"messages": [turn(U, "a"), turn(A, "b", **mark), *ASKED]}, "f:1"))


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": "a", "completion": None},
        {"instruction": "a", "input": "", "output": None},
        {"prompt": "a", "completion": float("nan")},
        {"question": "a", "answer": None, "id": 3},
        {"messages": None},
        {"chosen": "a", "rejected": None, "prompt": "p"},
        {"text": None},
    ],
)
def test_null_is_called_null(value: dict[str, Any]) -> None:
    with pytest.raises(NoTarget, match="is null"):
        convert(Row(value, "f:1"))
    assert {finding.kind for finding in check([value]).findings} <= {"empty-answer", "no-answer"}


@pytest.mark.parametrize(
    "more",
    [{"tools": "null"}, {"tools": "[]"}, {"tools": ""}, {"functions": "None"}, {"history": "[]"}, {"system": ""}],
)
def test_what_tables_write_for_nothing_is_nothing(more: dict[str, Any]) -> None:
    assert roles({**PAIR, **more}) == [(U, "Hi?"), (A, "Yes.")]
    assert unused({**PAIR, **more}) == ()


def test_empty_calls_and_arguments_are_nothing() -> None:
    call = {"name": "f", "arguments": "null"}
    turns = [turn(U, "a"), turn(A, "", tool_calls=[call]), turn("tool", "r"), turn(A, "b", tool_calls="[]")]
    content = convert(Row({"messages": turns}, "f:1")).content
    assert content[1]["tool_calls"][0]["function"]["arguments"] == {} and "tool_calls" not in content[3]


@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "prompter", "text": "Hi?"}, {"role": "ai", "text": "Yes."}],
        [{"from": "human", "content": "Hi?"}, {"from": "bard", "content": "Yes."}],
        [{"from": "user", "text": "Hi?"}, {"from": "bing", "text": "Yes."}],
        [{"role": "user", "value": "Hi?"}, {"role": "response", "value": "Yes."}],
        {"role": [U, A], "content": ["Hi?", "Yes."]},
        str(ASKED),
        '[{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}]',
        [turn(U, "Hi?"), turn(A, [{"type": "output_text", "text": "Yes."}])],  # type: ignore[arg-type]
        [{"role": U, "content": [{"type": "input_text", "text": "Hi?"}]}, ASKED[1]],
    ],
)
def test_turns_of_other_tools_are_read(turns: object) -> None:
    assert roles({"messages": turns}) == [(U, "Hi?"), (A, "Yes.")]
    assert roles({"conversations": turns}) == [(U, "Hi?"), (A, "Yes.")]


def test_tool_roles_of_other_tools_are_read() -> None:
    turns = [
        turn(U, "a"),
        turn("tool_call", '{"name": "f", "arguments": {}}'),
        turn("tool_response", "r"),
        turn(A, "b"),
    ]
    content = convert(Row({"messages": turns}, "f:1")).content
    assert [item["role"] for item in content] == [U, A, "tool", A] and content[1]["tool_calls"]


def test_parts_with_reasoning_and_calls_are_read() -> None:
    parts = [
        {"type": "reasoning", "value": "Hm."},
        {"type": "tool_call", "value": '{"name": "f", "arguments": {"a": 1}}'},
    ]
    turns = [turn(U, "a"), turn(A, parts), turn("tool", "r"), *ASKED]  # type: ignore[arg-type]
    content = convert(Row({"messages": turns}, "f:1")).content
    assert content[1]["reasoning_content"] == "Hm."
    assert content[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}


def test_padding_leaves_tools_and_undeclared_arguments_only() -> None:
    properties = {"city": {"type": "string", "default": None, "enum": ["a", None]}, "tz": None}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": properties}}}
    call = {"name": "f", "arguments": {"city": None, "tz": None}}
    record = convert(Row({"messages": [turn(U, "a"), turn(A, "", tool_calls=[call])], "tools": [tool]}, "f:1"))
    assert record.content[1]["tool_calls"][0]["function"]["arguments"] == {"city": None}
    kept = record.tools[0]["function"]["parameters"]["properties"]
    assert kept == {"city": {"type": "string", "default": None, "enum": ["a", None]}}


def test_answers_that_render_alike_are_found_and_dropped(smol: ChatTokenizer) -> None:
    rows = [{"prompt": "Q?", "chosen": "same ", "rejected": "same"}, {"prompt": "Q?", "chosen": "a", "rejected": "b"}]
    assert "alike-answers" in [finding.kind for finding in check(rows[:1]).findings]
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    template += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    trimming = ChatTokenizer(smol._tokenizer, template, bos_token=None, eos_token="<|im_end|>")
    report = prepare(rows, trimming, max_length=64, method="orpo").report
    assert (report.examples, report.dropped, report.alike, report.places["alike"]) == (1, 1, 1, ("row 1",))
    json.dumps(report.as_dict())


def test_every_way_of_reading_has_its_setting(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n  two\n\nthree\n")
    units = {
        "document": ["one\n  two\n\nthree"],
        "paragraph": ["one\n  two", "three"],
        "line": ["one", "  two", "three"],
    }
    for unit, texts in units.items():
        told: list[Any] = []
        rows = read(tmp_path / "a.txt", DataConfig(text_unit=unit), tell=told.append)  # type: ignore[arg-type]
        assert [row.value["text"] for row in rows] == texts
        assert [remark.kind for remark in told] == ["text-unit"]
