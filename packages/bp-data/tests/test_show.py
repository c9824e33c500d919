from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bp_core.errors import TemplateUnusable
from bp_data import ChatTokenizer, Record, mask
from bp_data.show import Part, show

CONTENT = st.text(st.sampled_from([*"ahi ):\n\t0漢é👩🧿\u0301\u200d<|"]), min_size=1, max_size=12)
DIALOGUE = st.lists(st.tuples(CONTENT, CONTENT.filter(lambda text: bool(text.strip()))), min_size=1, max_size=3)
FAMILIES = ["smol", "llama", "mistral"]


def record(*pairs: tuple[str, str]) -> Record:
    return Record("openai", [{"role": role, "content": content} for role, content in pairs], "f:7")


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=50, deadline=None)
@given(pairs=DIALOGUE)
def test_tokens_and_mask_are_those_of_training_and_the_pieces_rejoin(
    family: str, pairs: list[tuple[str, str]], smol: ChatTokenizer, llama: ChatTokenizer, mistral: ChatTokenizer
) -> None:
    tokenizer = {"smol": smol, "llama": llama, "mistral": mistral}[family]
    row = record(*(turn for q, a in pairs for turn in (("user", q), ("assistant", a))))
    masked, shown = mask(row, tokenizer), show(row, tokenizer)
    assert shown.tokens == masked.tokens.tolist()
    assert bytes(shown.trained) == masked.trained
    assert "".join(shown.pieces) == "".join(text for text, _ in shown.stretches()) == masked.text
    assert len(shown.pieces) == len(shown.tokens)
    assert [part.role for part in shown.parts] == ["user", "assistant"] * len(pairs)
    assert sum(part.tokens for part in shown.parts) == len(shown.tokens)
    assert sum(part.trained for part in shown.parts) == sum(shown.trained)
    assert all((part.trained > 0) == (part.role == "assistant") for part in shown.parts)


@pytest.mark.parametrize("family", ["qwen2_5", "qwen3", "llama3_1", "mistral_v3", "phi4_mini", "gemma3"])
@settings(max_examples=20, deadline=None)
@given(pairs=DIALOGUE)
def test_the_pieces_rejoin_with_the_templates_of_well_known_models(
    family: str, pairs: list[tuple[str, str]], model_tokenizer: Callable[..., ChatTokenizer]
) -> None:
    row = record(*(turn for q, a in pairs for turn in (("user", q), ("assistant", a))))
    masked, shown = mask(row, model_tokenizer(family)), show(row, model_tokenizer(family))
    assert "".join(shown.pieces) == masked.text
    assert shown.tokens == masked.tokens.tolist()
    assert bytes(shown.trained) == masked.trained
    assert sum(part.tokens for part in shown.parts) == len(shown.tokens)


def test_each_turn_has_its_tokens_and_the_answer_is_the_trained_stretch(smol: ChatTokenizer) -> None:
    shown = show(record(("system", "s"), ("user", "q"), ("assistant", "a")), smol)
    assert list(shown.stretches()) == [
        ("<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n", False),
        ("a<|im_end|>", True),
        ("\n", False),
    ]
    assert shown.parts == [Part("system", 6, 0), Part("user", 6, 0), Part("assistant", 7, 2)]  # "ass", "istant"


def test_a_system_turn_that_the_template_writes_into_the_next_is_counted_with_it(byte_level: object) -> None:
    template = (
        "{% if messages[0].role == 'system' %}{% set first = messages[0].content + '/' %}{% set rest = messages[1:] %}"
        "{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
        "{% if not rest %}{{ raise_exception('a system turn only') }}{% endif %}"
        "{% for m in rest %}[{{ m.role }}]{{ first if loop.first }}{{ m.content }}</s>{% endfor %}"
        "{{ '[assistant]' if add_generation_prompt }}"
    )
    tokenizer = ChatTokenizer(byte_level("</s>"), template, eos_token="</s>")  # type: ignore[operator]
    shown = show(record(("system", "s"), ("user", "q"), ("assistant", "a")), tokenizer)
    assert [part.role for part in shown.parts] == ["system + user", "assistant"]
    assert sum(part.tokens for part in shown.parts) == len(shown.tokens)


def test_a_call_is_shown_with_its_turn(model_tokenizer: Callable[..., ChatTokenizer]) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    shown = show(Record("openai", turns, "f:7", tools=(call,)), model_tokenizer("qwen2_5"))
    assert [part.role for part in shown.parts] == ["user", "assistant"]
    assert [text for text, trained in shown.stretches() if trained] == [
        '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call><|im_end|>'
    ]


def test_a_bos_that_the_tokenizer_writes_is_a_piece_of_its_own(llama: ChatTokenizer) -> None:
    shown = show(Record("text", "hi", "f:7"), llama)
    assert list(zip(shown.pieces, shown.trained, strict=True)) == [
        ("<|begin_of_text|>", False), ("hi", True), ("<|eot_id|>", True),
    ]  # fmt: skip
    assert shown.parts == [Part("text", 3, 2)]


def test_a_row_that_training_refuses_is_refused(mistral: ChatTokenizer) -> None:
    with pytest.raises(TemplateUnusable) as caught:
        show(record(("user", "a"), ("user", "b"), ("assistant", "c")), mistral)
    assert caught.value.where == "f:7"
