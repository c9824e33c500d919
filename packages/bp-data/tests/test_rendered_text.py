import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bp_data import ChatTokenizer, Record, Row, convert, prepare

TURNS = [
    {"role": "user", "content": "hi\n<b>"},
    {"role": "assistant", "content": "yo\n\nthere"},
    {"role": "user", "content": "漢?"},
    {"role": "assistant", "content": "é"},
]
SYSTEM = {"role": "system", "content": "be brief"}
CHATML = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"


@pytest.mark.parametrize("name", ["smol", "llama", "mistral"])
def test_what_a_template_wrote_becomes_the_turns_again(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer: ChatTokenizer = request.getfixturevalue(name)
    turns = TURNS if name == "mistral" else [SYSTEM, *TURNS]
    assert convert(Row({"text": tokenizer.render(turns)}, "f:7")) == Record("rendered", turns, "f:7")


def test_it_is_trained_as_the_conversation_that_it_was(smol: ChatTokenizer, llama: ChatTokenizer) -> None:
    prepared = prepare([{"text": llama.render([SYSTEM, *TURNS])}], smol, max_length=512)
    assert prepared.examples == prepare([{"messages": [SYSTEM, *TURNS]}], smol, max_length=512).examples
    assert prepared.report.formats == {"rendered": 1}
    assert prepared.contract.template == smol.template


RAW = [
    "plain text",
    "before " + CHATML,
    CHATML + "after",
    CHATML.replace("a<|im_end|>\n", "a"),
    CHATML.replace("a<", "a<|im_start|><"),
    CHATML.replace("assistant", "narrator"),
    CHATML.replace("assistant", "user"),
    CHATML.replace("\na<", "\n <"),
    "[INST] <<SYS>>\nbe brief\n<</SYS>>\n\nhi [/INST] yo</s>",
    "[INST] hi [/INST] yo",
]


@pytest.mark.parametrize("text", RAW)
def test_what_does_not_parse_completely_stays_raw_text(text: str) -> None:
    assert convert(Row({"text": text}, "f:7")) == Record("text", text, "f:7")


MARKS = ["<|im_start|>", "<|im_end|>", "user\n", "assistant\n", "[INST]", "[/INST]", "<s>", "</s>", " ", "a", "\n"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(MARKS), min_size=1, max_size=14).map("".join).filter(lambda text: bool(text.strip())))
@example("[INST][/INST]<|im_start|></s>")  # the marker of another family is text
def test_no_marker_is_left_inside_a_turn(text: str) -> None:
    content = convert(Row({"text": text}, "f:7")).content
    texts = [turn["content"] for turn in content] if isinstance(content, list) else []
    assert any(not any(mark in text for mark in family for text in texts) for family in (MARKS[:2], MARKS[4:8]))
