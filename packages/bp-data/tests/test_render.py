"""Which texts are learned with the templates of well-known models, and which templates are refused."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from bp_core.choices import TrainOn
from bp_core.errors import TemplateUnusable
from bp_data import ChatTokenizer, Record, mask

Build = Callable[..., ChatTokenizer]
Byte = Callable[..., Tokenizer]
END = {
    "smollm2": "<|im_end|>",
    "qwen2_5": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "llama3_1": "<|eot_id|>",
    "llama3_2": "<|eot_id|>",
    "mistral_v3": "</s>",
    "phi4_mini": "<|end|>",
    "gemma": "<end_of_turn>",
    "gemma3": "<end_of_turn>",
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "abcdefgh1", "type": "function", "function": {"name": "weather", "arguments": {"at": "Köln"}}}
EMPTY = "<think>\n\n</think>\n\n"  # what Qwen3 writes before a last answer without thoughts


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def learned(
    tokenizer: ChatTokenizer, turns: list[dict[str, Any]], train_on: TrainOn = "assistant", **more: Any
) -> list[str]:
    masked = mask(Record("openai", turns, "f:7", **more), tokenizer, train_on)
    assert len(masked.ends) == 1 or train_on != "last"
    assert all(masked.trained[end] for end in masked.ends)
    return [tokenizer.decode(masked.tokens[m.start() : m.end()]) for m in re.finditer(b"\x01+", masked.trained)]


LETTERS = st.sampled_from([*"ahi ):\n\t0漢æ", "é", "👩‍👩‍👧", "\u0301", "<", "|", "{", "'", '"', "\\"])
TEXT = st.lists(LETTERS, min_size=1, max_size=10).map("".join).filter(lambda text: bool(text.strip()))


@pytest.mark.parametrize("family", END)
@settings(max_examples=30, deadline=None)
@given(pairs=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3))
def test_answers_and_their_terminators_are_learned_and_nothing_else(
    family: str, pairs: list[tuple[str, str]], model_tokenizer: Build
) -> None:
    turns = [turn(role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)]
    runs = learned(model_tokenizer(family), turns)
    if family == "qwen3":
        assert runs[-1].lstrip().startswith(EMPTY)
        runs[-1] = runs[-1].replace(EMPTY, "", 1)
    assert [run.strip() for run in runs] == [
        answer.strip() + _between(family, answer) + END[family] for _, answer in pairs
    ]


def _between(family: str, answer: str) -> str:
    """White space at the end of an answer is learned, unless the template takes it away."""
    keeps = ("smollm2", "qwen2_5", "qwen3", "phi4_mini")
    return answer[len(answer.rstrip()) :] if family in keeps else ""


CALLED = [
    turn("user", "Weather?"),
    turn("assistant", "", tool_calls=[CALL]),
    turn("tool", "blue", tool_call_id="abcdefgh1"),
    turn("assistant", "Blue."),
    turn("user", "And now?"),
    turn("assistant", "Red."),
]
HERMES = '<tool_call>\n{"name": "weather", "arguments": {"at": "Köln"}}\n</tool_call><|im_end|>'
CALLS = {
    "qwen2_5": [HERMES, "Blue.<|im_end|>", "Red.<|im_end|>"],
    "qwen3": [HERMES, "Blue.<|im_end|>", EMPTY + "Red.<|im_end|>"],
    "llama3_1": ['{"name": "weather", "parameters": {"at": "Köln"}}<|eot_id|>', "Blue.<|eot_id|>", "Red.<|eot_id|>"],
    # tools stand before the last question there, which is another one for each answer
    "mistral_v3": [
        '[TOOL_CALLS] [{"name": "weather", "arguments": {"at": "Köln"}, "id": "abcdefgh1"}]</s>',
        " Blue.</s>",
        " Red.</s>",
    ],
}


@pytest.mark.parametrize("family", CALLS)
def test_tool_calls_are_learned_and_their_results_are_not(family: str, model_tokenizer: Build) -> None:
    assert learned(model_tokenizer(family), CALLED, tools=(TOOL,)) == CALLS[family]
    assert learned(model_tokenizer(family), CALLED, "last", tools=(TOOL,)) == CALLS[family][-1:]
    assert learned(model_tokenizer(family), CALLED, tools=(TOOL,), untrained=(1, 5)) == CALLS[family][1:2]


def test_a_template_that_takes_thoughts_of_earlier_turns_away_learns_what_it_leaves(model_tokenizer: Build) -> None:
    tokenizer = model_tokenizer("qwen3")
    turns = [turn("user", "?"), turn("assistant", "<think>\nhm\n</think>\n\nyo")] * 2
    assert learned(tokenizer, turns) == ["yo<|im_end|>", "<think>\nhm\n</think>\n\nyo<|im_end|>"]
    assert mask(Record("openai", turns, "f:7"), tokenizer).left_out == 1
    assert mask(Record("openai", turns[:2], "f:7"), tokenizer).left_out == 0
    assert mask(Record("openai", turns, "f:7"), tokenizer, "last").left_out == 0


def test_a_template_that_looks_at_what_a_turn_says_is_followed(model_tokenizer: Build) -> None:
    response = turn("user", "<tool_response>blue</tool_response>")  # no question to Qwen3, so thoughts before it stay
    turns = [turn("user", "?"), turn("assistant", "<think>\nhm\n</think>\n\nyo"), response, turn("assistant", "Blue.")]
    expected = ["<think>\nhm\n</think>\n\nyo<|im_end|>", EMPTY + "Blue.<|im_end|>"]
    assert learned(model_tokenizer("qwen3"), turns) == expected


DIALOGUE = [turn("user", "q"), turn("assistant", "a"), turn("user", "r"), turn("assistant", "b")]
HONEST = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}{{ '[assistant]' if add_generation_prompt }}"
)


@pytest.fixture
def made(byte_level: Byte) -> Callable[[str], ChatTokenizer]:
    return lambda template: ChatTokenizer(byte_level("</s>", "<think>"), template, eos_token="</s>")


def test_the_last_answer_alone_or_everything_is_learned_when_asked_for(made: Callable[[str], ChatTokenizer]) -> None:
    assert learned(made(HONEST), DIALOGUE, "last") == ["b</s>"]
    assert learned(made(HONEST), DIALOGUE, "last", untrained=(3,)) == ["a</s>"]
    assert learned(made(HONEST), DIALOGUE, "all") == ["user]q</s>[assistant]a</s>[user]r</s>[assistant]b</s>"]
    masked = mask(Record("openai", DIALOGUE, "f:7"), made(HONEST), "all")
    assert [masked.tokens[end] for end in masked.ends] == [made(HONEST).token("</s>")] * 2


def test_a_prompt_that_begins_the_thoughts_is_honoured_in_the_last_turn_only(
    made: Callable[[str], ChatTokenizer],
) -> None:
    template = HONEST.replace(
        "{{ m.content }}", "{{ '<think>' if loop.last and m.role == 'assistant' }}{{ m.content }}"
    )
    tokenizer = made(template.replace("'[assistant]'", "'[assistant]<think>'"))
    assert learned(tokenizer, DIALOGUE, "last") == ["b</s>"]
    with pytest.raises(TemplateUnusable, match="turn 2 differently from the prompt") as caught:
        learned(tokenizer, DIALOGUE)
    assert "--train-on last" in caught.value.fix


def test_a_template_that_begins_thoughts_and_takes_them_away_is_told_from_others(
    made: Callable[[str], ChatTokenizer],
) -> None:
    template = HONEST.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")
    template = template.replace("'[assistant]'", "'[assistant]<think>\\n'")
    thinking = [turn("user", "q"), turn("assistant", "<think>\nhm\n</think>\n\na")]
    for turns in (thinking, [*thinking, *thinking], DIALOGUE):
        with pytest.raises(TemplateUnusable) as caught:
            learned(made(template), turns)
        assert "docs/methods.md" in caught.value.fix


def test_a_last_answer_may_end_in_a_way_of_its_own(byte_level: Byte) -> None:
    template = HONEST.replace("</s>", "{{ '<return>' if loop.last and m.role == 'assistant' else '</s>' }}")
    tokenizer = ChatTokenizer(byte_level("</s>", "<return>"), template, eos_token="<return>")
    assert learned(tokenizer, DIALOGUE[:2]) == ["a<return>"]
    assert learned(tokenizer, DIALOGUE, "last") == ["b<return>"]
    with pytest.raises(TemplateUnusable, match="ends assistant turn 2 differently when turns follow") as caught:
        learned(tokenizer, DIALOGUE)
    assert "--train-on last" in caught.value.fix


LOSING = {
    "leaves out turn 3 .user.": HONEST.replace("{{ m.content }}", "{{ m.content if m.role != 'user' or loop.first }}"),
    "leaves out turn 2 .assistant.": HONEST.replace(
        "{{ m.content }}", "{{ m.content if loop.last or m.role == 'user' else '…' }}"
    ),
    "writes turn 2 .assistant. more than once": HONEST.replace("{{ m.content }}", "{{ m.content }}/{{ m.content }}"),
    "rewrites the text of assistant turn 2": HONEST.replace("{{ m.content }}", "{{ m.content | replace('a', 'e') }}"),
}


@pytest.mark.parametrize("message", LOSING)
def test_a_template_that_loses_or_changes_texts_is_refused(message: str, made: Callable[[str], ChatTokenizer]) -> None:
    with pytest.raises(TemplateUnusable, match=message) as caught:
        learned(made(LOSING[message]), DIALOGUE)
    assert caught.value.where == "f:7"


def test_tools_and_calls_that_a_template_does_not_write_are_refused(made: Callable[[str], ChatTokenizer]) -> None:
    with pytest.raises(TemplateUnusable, match=r"does not write the row's tools \(weather\)"):
        learned(made(HONEST), DIALOGUE, tools=(TOOL,))
    with pytest.raises(TemplateUnusable, match="leaves out the tool calls of turn 2"):
        learned(made(HONEST), [turn("user", "q"), turn("assistant", "See:", tool_calls=[CALL])])


def test_what_json_escapes_is_found_again(made: Callable[[str], ChatTokenizer]) -> None:
    tokenizer = made(HONEST.replace("{{ m.content }}", "{{ m.content | tojson }}"))
    turns = [turn("user", 'a "q"\n'), turn("assistant", 'é "b"\n!')]
    assert learned(tokenizer, turns) == ['"é \\"b\\"\\n!"</s>']


MARKED = "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}X{% else %}{{ m.content }}</s>{% endif %}"
MARKED += "{% endfor %}{{ '[assistant]' if add_generation_prompt }}"
MARKS = {
    "around the answer and its end": "{% generation %}{{ m.content }}</s>{% endgeneration %}",
    "more than the turn's own end": "{%- generation -%}{{ m.content }}</s> {% endgeneration %}",
    "without the end": "{% generation %}{{ m.content }}{% endgeneration %}</s>",
    "around the end alone": "{{ m.content }}{% generation %}</s>{% endgeneration %}",
    "nothing": "{{ m.content }}</s>{% generation %}{% endgeneration %}",
}


@pytest.mark.parametrize("marks", MARKS)
def test_generation_markers_are_followed_where_they_hold_the_whole_answer(
    marks: str, made: Callable[[str], ChatTokenizer]
) -> None:
    assert learned(made(MARKED.replace("X", MARKS[marks])), DIALOGUE) == ["a</s>", "b</s>"]


def test_markers_say_where_an_answer_begins(made: Callable[[str], ChatTokenizer]) -> None:
    template = MARKED.replace("X", "{{ '(' }}{% generation %}{{ m.content }}</s>{% endgeneration %}")
    assert learned(made(template.replace("'[assistant]'", "'[assistant]('")), DIALOGUE) == ["a</s>", "b</s>"]
    assert learned(made(template), DIALOGUE) == ["a</s>", "b</s>"]  # the prompt alone would say "(a</s>"
    within = MARKED.replace("X", "{% generation %}: {{ m.content }}</s>{% endgeneration %}")
    assert learned(made(within), DIALOGUE) == [": a</s>", ": b</s>"]


def test_the_template_for_tools_is_chosen_by_name(byte_level: Byte) -> None:
    with_tools = "{{ tools | tojson }}" + HONEST
    tokenizer = ChatTokenizer(byte_level("</s>"), {"default": HONEST, "tool_use": with_tools}, eos_token="</s>")
    assert tokenizer.template == HONEST
    assert mask(Record("openai", DIALOGUE, "f:7"), tokenizer).text.startswith("[user]q")
    assert mask(Record("openai", DIALOGUE, "f:7", tools=(TOOL,)), tokenizer).text.startswith('[{"type": "function"')
