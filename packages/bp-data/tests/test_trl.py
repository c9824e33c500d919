"""The masks of TRL: its training templates mark what the assistant writes, and transformers makes a mask of that."""

import importlib.util
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from bp_data import ChatTokenizer, Record, Row, convert, mask

pytestmark = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="TRL is not installed")
FAMILIES = ["qwen2_5", "qwen3", "llama3", "gemma", "gemma3", "smollm2"]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"place": "Köln"}}}
DIALOGUE = [
    {"role": "user", "content": "hi <b>é漢</b>"},
    {"role": "assistant", "content": "yo\n\n- a\n- b"},
    {"role": "user", "content": "more"},
    {"role": "assistant", "content": "No more. "},
]
CALLED = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "blue"},
    {"role": "assistant", "content": "It is blue."},
]
THOUGHTS = [DIALOGUE[0], {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyo"}]
Build = Callable[..., ChatTokenizer]


def training_template(family: str, templates: dict[str, str]) -> str:
    """TRL's own, which it uses in place of the model's; for SmolLM2, of which TRL has none, made in the same way."""
    if family == "smollm2":
        written = "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
        assert written in templates[family]
        answer = "{% generation %}{{ message['content'] + '<|im_end|>\n' }}{% endgeneration %}"
        marked = f"{{{{'<|im_start|>assistant\n'}}}}{answer}"
        chosen = f"{{% if message['role'] == 'assistant' %}}{marked}{{% else %}}{written}{{% endif %}}"
        return templates[family].replace(written, chosen)
    spec = importlib.util.find_spec("trl")
    assert spec and spec.submodule_search_locations
    return (Path(spec.submodule_search_locations[0]) / "chat_templates" / f"{family}_training.jinja").read_text()


@lru_cache
def fast_tokenizer(ours: ChatTokenizer) -> PreTrainedTokenizerFast:
    copy = Tokenizer.from_str(ours._tokenizer.to_str())
    return PreTrainedTokenizerFast(tokenizer_object=copy, bos_token=ours.bos_token, eos_token=ours.eos_token)


def theirs(ours: ChatTokenizer, template: str, turns: list[dict[str, Any]], tools: Any) -> tuple[list[int], list[int]]:
    """Ids and mask as TRL's SFTTrainer makes them of a conversation, less white space around what is trained.

    TRL trains the line end after the terminator too, and with Qwen2.5 the one before the answer, which is the prompt's.
    """
    fast = fast_tokenizer(ours)
    made = fast.apply_chat_template(
        turns, tools=tools, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, trained = list(made["input_ids"]), list(made["assistant_masks"])
    for step in (1, -1):
        before = 0
        for index in range(len(ids))[::step]:
            if trained[index] and not before and not fast.decode([ids[index]]).strip():
                trained[index] = 0
            before = trained[index]
    return ids, trained


def ours(tokenizer: ChatTokenizer, turns: list[dict[str, Any]], tools: Any) -> tuple[list[int], list[int]]:
    record = convert(Row({"messages": turns, "tools": tools}, "f:7"))
    assert isinstance(record, Record)
    masked = mask(record, tokenizer)
    return masked.tokens.tolist(), list(masked.trained)


def conversations(family: str) -> list[tuple[list[dict[str, Any]], Any]]:
    found: list[tuple[list[dict[str, Any]], Any]] = [(DIALOGUE[:2], None), (DIALOGUE, None)]
    if family != "gemma":
        found.append(([{"role": "system", "content": "be brief"}, *DIALOGUE], None))
    if family.startswith("qwen"):
        found += [(CALLED, [WEATHER]), (THOUGHTS, None)]
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_template_with_markers_gives_the_mask_of_trl(
    family: str, model_tokenizer: Build, templates: dict[str, str]
) -> None:
    template = training_template(family, templates)
    tokenizer = model_tokenizer(family, template)
    for turns, tools in conversations(family):
        tokens, trained = ours(tokenizer, turns, tools)
        ids, expected = theirs(tokenizer, template, turns, tools)
        assert tokens == ids
        if family == "qwen2_5":  # its markers take in the line end before the answer, and so do we
            trained = [
                flag and (trained[i - 1] or tokenizer.decode([tokens[i]]) != "\n") for i, flag in enumerate(trained)
            ]
        assert trained == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_the_models_own_template_gives_the_same_mask(
    family: str, model_tokenizer: Build, templates: dict[str, str]
) -> None:
    template = training_template(family, templates)
    tokenizer = model_tokenizer(family)
    for turns, tools in conversations(family):
        if family == "qwen3" and len(turns) > 2:
            continue  # TRL's template writes earlier turns otherwise than the model's own
        assert ours(tokenizer, turns, tools) == theirs(tokenizer, template, turns, tools)


LETTERS = st.sampled_from([*"ahi ):\n\t0漢æ", "é", "👩", "\u0301", "<", "|"])
TEXT = st.lists(LETTERS, min_size=1, max_size=10).map("".join).filter(lambda text: bool(text.strip()))


@pytest.mark.parametrize("family", ["llama3", "gemma3", "smollm2"])
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(TEXT, min_size=2, max_size=4).filter(lambda texts: len(texts) % 2 == 0))
def test_any_dialogue_gives_the_same_ids_and_mask(
    family: str, texts: list[str], model_tokenizer: Build, templates: dict[str, str]
) -> None:
    turns = [{"role": ("user", "assistant")[i % 2], "content": text.strip()} for i, text in enumerate(texts)]
    tokenizer = model_tokenizer(family)
    assert ours(tokenizer, turns, None) == theirs(tokenizer, training_template(family, templates), turns, None)
