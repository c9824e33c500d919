"""One file for each format: what its row becomes, and what the formats of a file are told as."""

import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bp_core.config import DataConfig
from bp_core.errors import BackpropagateError, MethodMismatch
from bp_data import ChatTokenizer, Record, Row, convert, prepare, read
from bp_data.formats.detect import FormatCount, detect
from bp_data.formats.records import Preference, Rated, content_of
from bp_data.masking.loss_mask import mask_preference, mask_rated

SAMPLES = {file.stem: file for file in sorted((Path(__file__).parent / "samples").glob("*.jsonl"))}
ROWS = {name: next(read(file)) for name, file in SAMPLES.items()}


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


SYSTEM = turn("system", "You are a weather service.")
QUESTION, ANSWER = turn("user", "What is the weather in Köln?"), turn("assistant", "It is raining in Köln.")
BAD = turn("assistant", "No idea.")
FUNCTION = {
    "name": "get_weather",
    "description": "Weather at a place",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
}
TOOLS = ({"type": "function", "function": FUNCTION},)
CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"place": "Köln"}}}
RAIN = '{"sky": "rain"}'
CALLING, RESULT = turn("assistant", "", tool_calls=[CALL]), turn("tool", RAIN)
HERMES = '<tool_call>\n{"name": "get_weather", "arguments": {"place": "Köln"}}\n</tool_call>'

TALKS: dict[str, tuple[str, Any]] = {
    "openai": ("openai", [SYSTEM, QUESTION, ANSWER]),
    "openai-parts": ("openai", [QUESTION, ANSWER]),
    "sharegpt": ("sharegpt", [SYSTEM, QUESTION, ANSWER]),
    "sharegpt-roles": ("sharegpt", [SYSTEM, QUESTION, ANSWER]),
    "alpaca": ("alpaca", [turn("user", "Name the weather.\n\nKöln, grey, wet"), ANSWER]),
    "alpaca-history": ("alpaca", [SYSTEM, turn("user", "Hello"), turn("assistant", "Hello!"), QUESTION, ANSWER]),
    "prompt": ("prompt", [QUESTION, ANSWER]),
    "prompt-messages": ("prompt", [QUESTION, ANSWER]),
    "question": ("prompt", [QUESTION, ANSWER]),
    "text": ("text", "It is raining in Köln."),
    "text-chatml": ("rendered", [SYSTEM, QUESTION, ANSWER]),
    "text-llama": ("rendered", [QUESTION, ANSWER]),
    "text-mistral": ("rendered", [QUESTION, ANSWER]),
    "thoughts": ("openai", [QUESTION, turn("assistant", "<think>\nRain?\n</think>\n\nIt is raining in Köln.")]),
    "thoughts-apart": ("openai", [QUESTION, {**ANSWER, "reasoning_content": "Rain?"}]),
}
IDENTIFIED = turn("assistant", "", tool_calls=[{"id": "call_9f2", **CALL}])
CALLED: dict[str, tuple[str, Any]] = {
    "openai-tools": ("openai", [QUESTION, IDENTIFIED, {**RESULT, "tool_call_id": "call_9f2"}, ANSWER]),
    "openai-functions": ("openai", [QUESTION, CALLING, {**RESULT, "name": "get_weather"}, ANSWER]),
    "sharegpt-tools": ("sharegpt", [QUESTION, CALLING, RESULT, ANSWER]),
    "sharegpt-hermes": ("sharegpt", [QUESTION, {**CALLING, "content": "Let me see."}, RESULT, ANSWER]),
}
COMPARED = {
    "preference": [QUESTION],
    "preference-alpaca": [QUESTION],
    "preference-messages": [QUESTION],
    "preference-copied": [QUESTION],
    "preference-implicit": [SYSTEM, QUESTION],
    "preference-rendered": [QUESTION],
    "preference-sharegpt": [QUESTION],
}
RATED = ("kto", "kto-messages", "kto-sharegpt")
SPELLED_OUT = "sharegpt-hermes-text"


def where(name: str) -> str:
    return f"{SAMPLES[name]}:1"


def test_there_is_an_expectation_for_every_sample() -> None:
    assert {*TALKS, *CALLED, *COMPARED, *RATED, SPELLED_OUT} == set(SAMPLES)


@pytest.mark.parametrize("name", TALKS)
def test_a_demonstration_becomes_turns_or_text(name: str) -> None:
    format, content = TALKS[name]
    assert convert(ROWS[name]) == Record(format, content, where(name))


@pytest.mark.parametrize("name", CALLED)
def test_tools_and_calls_become_those_of_openai(name: str) -> None:
    format, turns = CALLED[name]
    assert convert(ROWS[name]) == Record(format, turns, where(name), tools=TOOLS)


def test_a_system_turn_that_lists_the_tools_keeps_the_row_as_text() -> None:
    record = convert(ROWS[SPELLED_OUT])
    assert isinstance(record, Record)
    assert record.content[-1] == turn("assistant", HERMES)
    assert record.tools == ()


@pytest.mark.parametrize("name", COMPARED)
def test_a_comparison_is_told_apart_from_its_prompt(name: str) -> None:
    assert convert(ROWS[name]) == Preference("preference", COMPARED[name], [ANSWER], [BAD], where(name))


@pytest.mark.parametrize("name", RATED)
def test_a_verdict_makes_a_rated_row(name: str) -> None:
    assert convert(ROWS[name]) == Rated("kto", [QUESTION, BAD], False, where(name))


@pytest.mark.parametrize("label", ["weather", 7, 0.5])
def test_a_label_that_is_no_verdict_is_another_column(label: object) -> None:
    row = Row({**ROWS["prompt"].value, "label": label}, "f:7")
    assert convert(row) == Record("prompt", [QUESTION, ANSWER], "f:7")


def test_answers_in_a_prompt_of_turns_carry_no_loss() -> None:
    row = Row({"prompt": [QUESTION, BAD, QUESTION], "completion": [ANSWER]}, "f:7")
    assert convert(row) == Record("prompt", [QUESTION, BAD, QUESTION, ANSWER], "f:7", untrained=(1,))


HALF = [
    HERMES + " And more.",
    HERMES.replace("}}", "}"),
    HERMES.replace('"name"', '"nom"'),
    HERMES + "\n<tool_call>",
]


@pytest.mark.parametrize("answer", HALF)
def test_marked_calls_that_cannot_all_be_read_stay_text(answer: str) -> None:
    value = {"messages": [QUESTION, turn("assistant", answer)], "tools": list(TOOLS)}
    record = convert(Row(value, "f:7"))
    assert record == Record("openai", value["messages"], "f:7", tools=TOOLS)


def test_marked_calls_without_tools_stay_text() -> None:
    turns = [QUESTION, turn("assistant", HERMES)]
    assert convert(Row({"messages": turns}, "f:7")) == Record("openai", turns, "f:7")


@given(st.sampled_from(sorted(ROWS)), st.randoms(use_true_random=False))
def test_a_row_is_the_same_in_any_order_of_its_keys(name: str, random: Random) -> None:
    assert convert(Row(shuffled(ROWS[name].value, random), where(name))) == convert(ROWS[name])


def shuffled(value: Any, random: Random) -> Any:
    if isinstance(value, list):
        return [shuffled(item, random) for item in value]
    if not isinstance(value, dict):
        return value
    items = [(key, shuffled(item, random)) for key, item in value.items()]
    random.shuffle(items)
    return dict(items)


def test_a_file_of_several_formats_is_told_with_shares_and_first_places() -> None:
    order = ["kto", "openai", "openai-tools", "text", "text-chatml", "preference", "openai-parts", "text"]
    rows = [Row(ROWS[name].value, f"f:{number}") for number, name in enumerate(order, 1)]
    found = detect([*rows, Row({"a": 1}, "f:9"), Row({"messages": 3}, "f:10")])
    assert found.rows == 10
    assert found.formats[0] == FormatCount("openai", 4, 0.4, "f:2")
    assert found.confidence == 0.4
    assert {(each.format, each.rows, each.first) for each in found.formats[1:]} == {
        ("text", 2, "f:4"), ("kto", 1, "f:1"), ("rendered", 1, "f:5"), ("preference", 1, "f:6"), ("unknown", 1, "f:9"),
    }  # fmt: skip
    assert detect([]).confidence == 0.0


@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_detected_is_what_it_becomes(name: str) -> None:
    assert detect([ROWS[name]]).formats[0].format == convert(ROWS[name]).format


@pytest.mark.parametrize("name", [*COMPARED, *RATED])
def test_rows_to_compare_are_not_trained_on_as_examples(name: str, smol: ChatTokenizer) -> None:
    with pytest.raises(MethodMismatch, match="method sft learns from examples; this row is of") as caught:
        prepare(SAMPLES[name], smol, max_length=64)
    assert caught.value.where == where(name)


def test_the_better_answer_can_be_taken_alone(smol: ChatTokenizer) -> None:
    reading = DataConfig(columns="prompt=prompt,completion=chosen")
    prepared = prepare(SAMPLES["preference"], smol, max_length=64, reading=reading)
    assert prepared.examples == prepare(SAMPLES["prompt"], smol, max_length=64).examples


@pytest.mark.parametrize("name", COMPARED)
def test_both_answers_follow_the_same_tokens(name: str, smol: ChatTokenizer, llama: ChatTokenizer) -> None:
    record = convert(ROWS[name])
    assert isinstance(record, Preference)
    for tokenizer, end in ((smol, "<|im_end|>"), (llama, "<|eot_id|>")):
        chosen, rejected = mask_preference(record, tokenizer)
        assert chosen.tokens[: chosen.prompt] == rejected.tokens[: rejected.prompt]
        for masked, answer in ((chosen, ANSWER), (rejected, BAD)):
            learned = [t for t, flag in zip(masked.tokens, masked.trained, strict=True) if flag]
            assert tokenizer.decode(learned).lstrip("\n") == answer["content"] + end
            assert len(masked.ends) == 1


def test_earlier_answers_of_compared_and_rated_rows_carry_no_loss(smol: ChatTokenizer) -> None:
    before = [turn("user", "Hello"), turn("assistant", "Hello!"), QUESTION]
    compared = Preference("preference", before, [ANSWER, QUESTION, ANSWER], [BAD], "f:7")
    rated = Rated("kto", [*before, BAD], True, "f:7")
    for masked in (*mask_preference(compared, smol), mask_rated(rated, smol)):
        assert len(re.findall(b"\x01+", masked.trained)) == len(masked.ends) == 1
        assert masked.trained.index(1) == masked.prompt


def test_rows_that_say_the_same_are_equal_in_any_format() -> None:
    assert content_of(convert(ROWS["preference"])) == content_of(convert(ROWS["preference-sharegpt"]))
    assert content_of(convert(ROWS["prompt"])) == content_of(convert(ROWS["question"])) == [QUESTION, ANSWER]
    assert content_of(convert(ROWS["sharegpt-tools"])) != content_of(convert(ROWS["openai-tools"]))
    assert content_of(convert(ROWS["kto"])) != content_of(convert(Row({**ROWS["kto"].value, "label": True}, "f:1")))


JSON = st.recursive(
    st.none()
    | st.sampled_from(["\ud83d", "", "Zq0v0qZ", " "])
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def changed(value: Any, spot: int, new: Any) -> Any:
    """The value with the part number `spot` replaced."""
    count = iter(range(10_000))

    def walk(item: Any) -> Any:
        if next(count) == spot:
            return new
        if isinstance(item, dict):
            return {key: walk(inner) for key, inner in item.items()}
        return [walk(inner) for inner in item] if isinstance(item, list) else item

    return walk(value)


@settings(max_examples=500, deadline=None)
@given(name=st.sampled_from(sorted(ROWS)), spot=st.integers(1, 25), new=JSON)
def test_a_row_with_anything_in_it_is_taken_or_refused(
    name: str, spot: int, new: Any, model_tokenizer: Callable[..., ChatTokenizer]
) -> None:
    value = changed(ROWS[name].value, spot, new)
    try:
        prepare([value], model_tokenizer("qwen3"), max_length=512)
    except BackpropagateError as error:
        assert error.where is None or error.where == "row 1"
    detect([Row(value, "f:7")])


@settings(max_examples=200, deadline=None)
@given(
    content=st.binary(max_size=60), suffix=st.sampled_from([".jsonl", ".json", ".csv", ".txt", ".jsonl.gz", ".parquet"])
)
def test_random_bytes_are_taken_or_refused(
    content: bytes, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("bytes") / f"a{suffix}"
    path.write_bytes(content)
    try:
        for row in read(path):
            convert(row)
    except BackpropagateError as error:
        assert error.where
