"""Templates without thoughts or tools learn them, and write everything else as before, letter for letter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bp_core.errors import BadValue, TemplateUnusable
from bp_data import ChatTokenizer, Record, mask
from bp_data.tokenizer.thoughts_template import knows_thoughts, with_thoughts
from bp_data.tokenizer.tools_template import with_tools

Build = Callable[..., ChatTokenizer]
FAMILIES = (
    *("gemma", "gemma3", "llama", "llama3", "llama3_1", "llama3_2", "mistral", "mistral_v3", "phi4_mini", "qwen"),
    *("qwen2_5", "qwen3", "smollm2"),
)
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'The weather <now>, in a place\'s "centre".',
        "parameters": {"type": "object", "required": ["place"], "properties": {"place": {"type": "string"}}},
    },
}
SYSTEM = {"role": "system", "content": "Answer briefly."}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def call(**arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "get_weather", "arguments": arguments}}


PLAIN = (
    [user("Hi é漢 <b>?\n\nTwo. ")],
    [SYSTEM, user("Hi")],
    [user("Hi"), answer("  Yo.\n\nThere! "), user("More"), answer("{{ no }}")],
    [SYSTEM, user("Hi"), answer("Yo."), user("More"), answer("The tag </think> closes a thought."), user("?")],
    [user("a"), user("b"), answer("")],
    [user("Hi"), {"role": "assistant", "content": None}],
)


@pytest.fixture
def built(
    model_tokenizer: Build, llama: ChatTokenizer, mistral: ChatTokenizer, templates: dict[str, str]
) -> Callable[[str], ChatTokenizer]:
    def build(family: str) -> ChatTokenizer:
        known = {"llama": llama, "mistral": mistral}
        tokenizer = known.get(family) or model_tokenizer("smollm2" if family == "qwen" else family)
        return tokenizer.with_template(templates[family])

    return build


def rendered(tokenizer: ChatTokenizer, turns: list[dict[str, Any]], asked: bool, **more: Any) -> str:
    try:
        return tokenizer.render(turns, asked, **more)
    except TemplateUnusable as error:
        return f"refused: {error.message}"


@pytest.mark.parametrize("family", FAMILIES)
def test_conversations_without_thoughts_and_tools_are_written_as_before(
    family: str, built: Callable[[str], ChatTokenizer]
) -> None:
    tokenizer = built(family)
    added = [with_thoughts(with_tools(tokenizer.template, "hermes", has_system=has)) for has in (True, False)]
    for other in (tokenizer.with_template(each) for each in (*added, with_thoughts(tokenizer.template))):
        for turns in PLAIN:
            for asked in (False, True):
                assert rendered(other, turns, asked) == rendered(tokenizer, turns, asked)


@pytest.mark.parametrize("odd", ["\n  {% if true %}x{% endif %}\n\n", "  {% if true %}x{% endif %}  ", "{# a #}\nx\n"])
def test_white_space_around_a_template_stays(odd: str, smol: ChatTokenizer) -> None:
    plain = smol.with_template(odd)
    both = with_thoughts(with_tools(odd, "hermes", has_system=True))
    assert smol.with_template(both).render([user("Hi")]) == plain.render([user("Hi")])


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "qwen3"])
def test_thoughts_are_written_before_the_last_answer_and_leave_the_history(
    family: str, built: Callable[[str], ChatTokenizer]
) -> None:
    tokenizer = built(family)
    assert not tokenizer.knows_thoughts
    apart = [
        user("A"),
        answer("B", reasoning_content="first"),
        user("C"),
        answer("D", reasoning_content="second\nidea"),
    ]
    inside = [user("A"), answer("<think>first</think>B"), user("C"), answer("<think>second\nidea</think>\n\nD")]
    text = tokenizer.render(apart)
    assert text == tokenizer.render(inside)
    assert "<think>\nsecond\nidea\n</think>\n\nD" in text and "first" not in text
    # What a server renders with the template of the contract, and a chat that goes on, are the same text.
    trained = tokenizer.with_template(tokenizer.written_by(tokenizer.template, tools=False, thoughts=True))
    assert trained.knows_thoughts and trained.render(apart) == text
    asked = trained.render(apart[:3], True)
    assert text.startswith(asked) and asked == tokenizer.render([user("A"), answer("B"), user("C")], True)
    assert trained.render(apart[:3], True, thinking=False) == asked + "<think>\n\n</think>\n\n"


def test_only_the_last_thought_is_learned(smol: ChatTokenizer) -> None:
    turns = [user("A"), answer("B", reasoning_content="first"), user("C"), answer("D", reasoning_content="second")]
    masked = mask(Record("openai", turns, "f:1"), smol)
    learned = smol.decode([token for token, trained in zip(masked.tokens, masked.trained, strict=True) if trained])
    assert learned == "B<|im_end|><think>\nsecond\n</think>\n\nD<|im_end|>" and masked.left_out == 1


def test_thoughts_between_calls_stay(smol: ChatTokenizer) -> None:
    turns = [user("A"), answer("", reasoning_content="look", tool_calls=[call(place="Oslo")])]
    turns += [{"role": "tool", "content": "rain"}, answer("Rain.", reasoning_content="done")]
    masked = mask(Record("openai", turns, "f:1", tools=(TOOL,)), smol.with_tools("hermes"))
    learned = smol.decode([token for token, trained in zip(masked.tokens, masked.trained, strict=True) if trained])
    wanted = (
        '<think>\nlook\n</think>\n\n<tool_call>\n{"name": "get_weather", "arguments": {"place": "Oslo"}}\n</tool_call>'
    )
    assert learned == f"{wanted}<|im_end|><think>\ndone\n</think>\n\nRain.<|im_end|>"


@pytest.mark.parametrize("family", ["gemma", "llama3", "mistral", "smollm2", "gemma3"])
def test_a_template_without_tools_writes_them_as_hermes(family: str, built: Callable[[str], ChatTokenizer]) -> None:
    plain = built(family)
    assert not plain.knows_tools
    tokenizer = plain.with_tools("hermes")
    turns = [user("Oslo?"), answer("", tool_calls=[call(place="Oslo"), call(place="Bergen")])]
    turns += [{"role": "tool", "content": "rain"}, {"role": "tool", "content": "sun"}, answer("Rain, and sun.")]
    text = tokenizer.render(turns, tools=[TOOL])
    assert (
        '\n<tools>\n{"type": "function", "function": {"name": "get_weather", "description": "The weather <now>, '
        in text
    )
    calls = [
        f'<tool_call>\n{{"name": "get_weather", "arguments": {{"place": "{at}"}}}}\n</tool_call>'
        for at in ("Oslo", "Bergen")
    ]
    assert "\n".join(calls) in text
    assert "<tool_response>\nrain\n</tool_response>\n<tool_response>\nsun\n</tool_response>" in text
    learned = mask(Record("openai", turns, "f:1", tools=(TOOL,)), tokenizer)
    said = tokenizer.decode([token for token, trained in zip(learned.tokens, learned.trained, strict=True) if trained])
    assert "\n".join(calls) in said and "Rain, and sun." in said and "tool_response" not in said
    trained = plain.with_template(tokenizer.written_by(plain.template, tools=True, thoughts=False))
    assert trained.knows_tools and trained.render(turns, tools=[TOOL]) == text


def test_tools_stand_after_the_system_turn_or_before_the_question(
    built: Callable[[str], ChatTokenizer], smol: ChatTokenizer
) -> None:
    text = smol.with_tools("hermes").render([SYSTEM, user("Oslo?")], tools=[TOOL])
    assert text.startswith("<|im_start|>system\nAnswer briefly.\n\n# Tools\n\nYou may call")
    assert text.endswith("</tool_call><|im_end|>\n<|im_start|>user\nOslo?<|im_end|>\n")
    gemma = built("gemma").with_tools("hermes")
    text = gemma.render([user("Oslo?")], tools=[TOOL])
    assert text.startswith("<bos><start_of_turn>user\n# Tools\n\nYou may call")
    assert text.endswith("</tool_call>\n\nOslo?<end_of_turn>\n")


def test_a_template_with_tools_takes_no_other(model_tokenizer: Build) -> None:
    with pytest.raises(BadValue, match="has tools"):
        model_tokenizer("qwen2_5").with_tools("hermes")


def test_a_template_with_thoughts_keeps_its_own(model_tokenizer: Build) -> None:
    tokenizer = model_tokenizer("qwen3")
    assert tokenizer.knows_thoughts and knows_thoughts("{{ messages[0].content.split('</think>')[-1] }}")
    assert knows_thoughts("{% if thinking %}{% endif %}") and knows_thoughts("{{ messages[0]['thinking'] }}")
    assert not knows_thoughts("{{ 'You are thinking aloud.' }} Go on thinking. {{ messages[0].content }}")
    own = tokenizer.written_by(tokenizer.template, tools=True, thoughts=True)
    assert own == tokenizer.template
