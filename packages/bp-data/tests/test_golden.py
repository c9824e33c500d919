"""What the templates of well-known models write: equal to transformers, and to the files in golden/.

Run as a script it writes these files anew.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from bp_core.errors import TemplateUnusable
from bp_data import ChatTemplate

HERE = Path(__file__).parent
TOKENS = json.loads((HERE / "templates" / "tokens.json").read_text())  # BOS, EOS, and others that it writes
DATE = {"date_string": "26 Jul 2024"}  # Llama 3.2 writes today's date unless it is given one


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'The weather in a "place".',
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}
CALL = {"id": "abcdefgh1", "type": "function", "function": {"name": "get_weather", "arguments": {"place": "Köln"}}}
HI, YO = turn("user", " Hi é漢 <b>? "), turn("assistant", " Yo.\n\nThere! ")
THREE = [HI, YO, turn("user", "More"), turn("assistant", "No."), turn("user", "Why?"), turn("assistant", "Well.")]
CALLED = [
    turn("user", "Weather?"),
    turn("assistant", "", tool_calls=[CALL]),
    turn("tool", '{"sky": "blue"}', name="get_weather", tool_call_id="abcdefgh1"),
    turn("assistant", "Blue."),
]
THOUGHT = "<think>\nHm.\n</think>\n\n"
CASES: dict[str, dict[str, Any]] = {
    "one answer": {"messages": [HI, YO]},
    "a question": {"messages": [HI]},
    "system": {"messages": [turn("system", "Be brief."), HI, YO]},
    "system and a question": {"messages": [turn("system", "Be brief."), HI]},
    "three turns": {"messages": THREE},
    "three turns, system": {"messages": [turn("system", "Be brief."), *THREE]},
    "thoughts": {"messages": [HI, turn("assistant", THOUGHT + "Yo."), HI, turn("assistant", THOUGHT + "Bye.")]},
    "thoughts apart": {"messages": [HI, turn("assistant", "Yo.", reasoning_content="Hm.")]},
    "tools": {"messages": CALLED, "tools": [WEATHER]},
    "tools, later turns": {
        "messages": [*CALLED, turn("user", "And now?"), turn("assistant", "Red.")],
        "tools": [WEATHER],
    },
    "tools, system, two calls": {
        "messages": [
            turn("system", "Be brief."),
            turn("user", "?"),
            turn("assistant", "See:", tool_calls=[CALL, CALL]),
        ],
        "tools": [WEATHER],
    },
    "tools in the system turn": {"messages": [turn("system", "Be brief.", tools=json.dumps([WEATHER])), HI, YO]},
}


def ours(family: str, case: dict[str, Any], prompt: bool) -> str:
    bos, eos, _ = TOKENS[family]
    source = (HERE / "templates" / f"{family}.jinja").read_text(encoding="utf-8")
    template = ChatTemplate(source, {"bos_token": bos, "eos_token": eos, **DATE})
    try:
        return template.render(case["messages"], prompt, case.get("tools"))
    except TemplateUnusable as error:
        return f"refused: {error.__cause__}"


def theirs(family: str, case: dict[str, Any], prompt: bool) -> str:
    bos, eos, _ = TOKENS[family]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token=bos, eos_token=eos)
    tokenizer.chat_template = (HERE / "templates" / f"{family}.jinja").read_text(encoding="utf-8")
    try:
        text = tokenizer.apply_chat_template(
            case["messages"], tools=case.get("tools"), tokenize=False, add_generation_prompt=prompt, **DATE
        )
    except TemplateError as error:
        return f"refused: {error}"
    assert isinstance(text, str)
    return text


def written(family: str) -> Iterator[str]:
    for name, case in CASES.items():
        for prompt in (False, True):
            yield f"##### {name}{', generation prompt' if prompt else ''}\n{ours(family, case, prompt)}\n"


THOUGHTLESS = [family for family in TOKENS if family != "qwen3"]


@pytest.mark.parametrize("family", TOKENS)
def test_rendering_equals_transformers(family: str) -> None:
    for name, case in CASES.items():
        if name == "thoughts apart" and family in THOUGHTLESS:
            continue  # transformers drops thoughts that the template does not ask for; we write them
        for prompt in (False, True):
            assert ours(family, case, prompt) == theirs(family, case, prompt), name


@pytest.mark.parametrize("family", THOUGHTLESS)
def test_thoughts_given_apart_are_written_where_the_template_does_not_ask_for_them(family: str) -> None:
    apart, within = CASES["thoughts apart"], {"messages": [HI, turn("assistant", THOUGHT + "Yo.")]}
    assert ours(family, apart, False) == theirs(family, within, False)


@pytest.mark.parametrize("family", TOKENS)
def test_rendering_is_what_it_was(family: str) -> None:
    assert "".join(written(family)) == (HERE / "golden" / f"{family}.txt").read_text(encoding="utf-8")


if __name__ == "__main__":
    for family in TOKENS:
        (HERE / "golden" / f"{family}.txt").write_text("".join(written(family)), encoding="utf-8")
