import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bp_core.errors import BadRow, NoTarget
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


RAW = ["plain text", "before " + CHATML, "[INST is no marker", "Human: is no transcript by itself"]
BROKEN = [
    CHATML + "after",
    CHATML.replace("a<|im_end|>\n", "a"),
    CHATML.replace("a<", "a<|im_start|><"),
    CHATML.replace("assistant", "narrator"),
    "[INST] hi [/INST] yo",
    "<s>[INST] hi",
]


@pytest.mark.parametrize("text", RAW)
def test_what_does_not_parse_completely_stays_raw_text(text: str) -> None:
    assert convert(Row({"text": text}, "f:7")) == Record("text", text, "f:7")


@pytest.mark.parametrize("text", BROKEN)
def test_what_begins_with_markup_and_does_not_parse_is_refused(text: str) -> None:
    with pytest.raises(BadRow, match="begins like a conversation"):
        convert(Row({"text": text}, "f:7"))


@pytest.mark.parametrize("text", [CHATML.replace("\na<", "\n <"), CHATML.replace("assistant", "user")])
def test_a_conversation_without_an_answer_is_not_learned_as_text(text: str) -> None:
    with pytest.raises(NoTarget):
        convert(Row({"text": text}, "f:7"))


TWO = [SYSTEM, *TURNS]
WRITTEN = [
    "<s>[INST] <<SYS>>\nbe brief\n<</SYS>>\n\nhi [/INST] yo </s><s>[INST] hi [/INST] yo </s>",
    "### System: be brief\n### Human: hi\n### Assistant: yo\n### Human: hi\n### Assistant: yo",
    "<|system|>\nbe brief</s>\n<|user|>\nhi</s>\n<|assistant|>\nyo</s>\n<|user|>\nhi</s>\n<|assistant|>\nyo</s>",
]


@pytest.mark.parametrize("text", WRITTEN)
def test_llama_2_zephyr_and_transcripts_become_turns(text: str) -> None:
    turns = [{**turn, "content": {"user": "hi", "assistant": "yo"}.get(turn["role"], "be brief")} for turn in TWO]
    assert convert(Row({"text": text}, "f:7")) == Record("rendered", turns, "f:7")


def test_alpacas_text_keeps_the_indentation_of_the_answer() -> None:
    text = "Below is an instruction.\n\n### Instruction:\nDo\n\n### Input:\nit\n\n### Response:\n    done"
    roles = [(turn["role"], turn["content"]) for turn in convert(Row({"text": text}, "f:7")).content]
    assert roles == [("system", "Below is an instruction."), ("user", "Do\n\nit"), ("assistant", "    done")]


MARKS = ["<|im_start|>", "<|im_end|>", "user\n", "assistant\n", "[INST]", "[/INST]", "<s>", "</s>", " ", "a", "\n"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(MARKS), min_size=1, max_size=14).map("".join).filter(lambda text: bool(text.strip())))
@example("[INST][/INST]<|im_start|></s>")  # the marker of another family is text
def test_no_marker_is_left_inside_a_turn(text: str) -> None:
    try:
        content = convert(Row({"text": text}, "f:7")).content
    except (BadRow, NoTarget):
        return
    texts = [turn["content"] for turn in content] if isinstance(content, list) else []
    assert any(not any(mark in text for mark in family for text in texts) for family in (MARKS[:2], MARKS[4:8]))
