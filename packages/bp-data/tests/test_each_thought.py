"""Every thought of a conversation is learned, once, after the history that the model will see at that turn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bp_data import ChatTokenizer, Prepared, prepare
from bp_data.check import check
from bp_data.check.config import CheckConfig
from bp_data.masking.reasoning import Limits
from bp_data.preparing import prepared as folder
from bp_data.preparing.conversations import among
from bp_data.preparing.hold_out import hold_out
from bp_data.preparing.losses import trimmed

Build = Callable[..., ChatTokenizer]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str, thought: str = "", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **({"reasoning_content": thought} if thought else {}), **more}


TURNS = [
    user("A"),
    answer("no thought yet"),
    user("B"),
    answer("second", "thought two"),
    user("C"),
    answer("", "thought three", tool_calls=[{"function": {"name": "look", "arguments": {}}}]),
    {"role": "tool", "content": "seen"},
    answer("third", "thought four"),
    user("D"),
    answer("<think>thought five</think>fourth"),
    user("E"),
    answer("no more thoughts"),
    user("and off"),
]
LOOK = {"name": "look", "description": "", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": LOOK}]
ROW = {"messages": TURNS, "tools": TOOLS}
ENDS = (4, 8, 10, 12)  # where the examples end


@pytest.fixture(params=["smollm2", "qwen3"])
def tokenizer(request: Any, model_tokenizer: Build, templates: dict[str, str]) -> ChatTokenizer:
    found = model_tokenizer(request.param)
    return found if found.knows_tools else found.with_tools("hermes")


def made(tokenizer: ChatTokenizer, *rows: Any, **settings: Any) -> Prepared:
    return prepare([*rows], tokenizer, max_length=2048, **settings)


def learned(tokenizer: ChatTokenizer, tokens: Any, trained: Any) -> list[tuple[str, str]]:
    """The stretches of text that are learned, each after all that stands before it."""
    found = []
    flags = bytes(trained)
    end = 0
    while (start := flags.find(1, end)) >= 0:
        end = flags.find(0, start)
        end = len(flags) if end < 0 else end
        found.append((tokenizer.decode(tokens[:start]), tokenizer.decode(tokens[start:end])))
    return found


def test_each_thought_is_learned_once_where_the_template_shows_it(tokenizer: ChatTokenizer) -> None:
    prepared = made(tokenizer, ROW)
    assert len(prepared.examples) == len(ENDS) and prepared.report.rows == 1
    found = [each for example in prepared.examples for each in learned(tokenizer, example.tokens, example.trained)]
    answers = [index for index, turn in enumerate(TURNS) if turn["role"] == "assistant"]
    assert len(found) == len(answers)  # each answer once
    everything = "".join(text for _, text in found)
    for thought in ("thought two", "thought three", "thought four", "thought five"):
        assert everything.count(thought) == 1
    messages = [{**turn, "content": turn["content"]} for turn in TURNS]
    for (before, text), index in zip(found, answers, strict=True):
        prompt = tokenizer.decode(tokenizer.prompt(messages[:index], TOOLS))
        if index in (3, 5, 7, 9, 11):  # the last answer of its example, or one between its calls
            assert before == prompt, index
        assert (messages[index].get("reasoning_content") or "thought") in text or index in (1, 11)


def test_how_many_is_said(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    prepared = made(tokenizer, ROW, {"messages": TURNS[:2]})
    assert (prepared.report.rows, prepared.report.examples, prepared.report.thoughts_apart) == (2, 5, 3)
    told = trimmed(prepared.report)
    assert told and "3 examples more, so that each thought" in told.message and "--train-on last" in told.message
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW), encoding="utf-8")
    report = check(path, CheckConfig(), tokenizer)
    (finding,) = report.findings.of("several-thoughts")
    assert finding.message == "4 examples, one for each thought" and not report.findings.of("not-written")


def test_only_the_last_answer_is_learned_where_that_is_asked_for(tokenizer: ChatTokenizer) -> None:
    (example,) = made(tokenizer, {"messages": TURNS[2:4] + TURNS[8:10]}, train_on="last").examples
    ((_, text),) = learned(tokenizer, example.tokens, example.trained)
    assert "thought five" in text


def test_a_row_with_one_thought_or_in_whose_history_none_is_left_out_is_one_example(tokenizer: ChatTokenizer) -> None:
    for turns in (TURNS[:4], TURNS[4:8], [*TURNS[:2], user("B"), answer("plain")]):
        assert len(made(tokenizer, {"messages": turns, "tools": TOOLS}).examples) == 1
    keeps = tokenizer.with_template(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<think>{{ m.reasoning_content }}"
        "</think>{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    (example,) = made(keeps, {"messages": [user("B"), answer("b", "one"), user("C"), answer("c", "two")]}).examples
    assert [text for _, text in learned(keeps, example.tokens, example.trained)] == [
        "<think>one</think>b<|im_end|>",
        "<think>two</think>c<|im_end|>",
    ]


def test_answers_without_loss_stay_so(tokenizer: ChatTokenizer) -> None:
    turns = [user("B"), answer("b", "one", train=False), user("C"), answer("c", "two"), user("D"), answer("d", "three")]
    examples = made(tokenizer, {"messages": turns}).examples
    texts = [text for example in examples for _, text in learned(tokenizer, example.tokens, example.trained)]
    assert len(examples) == 2 and "one" not in "".join(texts) and "two" in texts[0] and "three" in texts[1]


def test_traces_are_judged_one_by_one(tokenizer: ChatTokenizer) -> None:
    long = " ".join(["hm"] * 50)
    turns = [user("B"), answer("b", "short"), user("C"), answer("c", long), user("D"), answer("d", "short, too")]
    prepared = made(tokenizer, {"messages": turns}, traces=Limits(1, 20))
    texts = [text for each in prepared.examples for _, text in learned(tokenizer, each.tokens, each.trained)]
    assert len(texts) == 2 and "hm hm" not in "".join(texts)
    assert prepared.report.traces["kept"] == 1 and prepared.report.thoughts_dropped == 1


def test_the_examples_of_a_row_are_held_out_together(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    rows = [
        {"messages": [user(f"B{n}"), answer("b", f"one {n}"), user("C"), answer("c", f"two {n}")]} for n in range(12)
    ]
    prepared = made(tokenizer, *rows)
    folder.write(prepared, tmp_path)
    for source in (prepared, folder.read(tmp_path)):
        kept, taken = hold_out(source, 0.3, 7)
        assert len(kept.examples) + len(taken) == 24 and len(taken) == 8
        texts = "".join(tokenizer.decode(example.tokens) for example in taken)
        for number in range(12):
            assert (f"one {number}\n" in texts) == (f"two {number}\n" in texts)
        asked = among(source.conversations, taken, 99)
        assert len(asked) == 4 and all(f"B{talk.turns[0]['content'][1:]}" in texts for talk in asked)
