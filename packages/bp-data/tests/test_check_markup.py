"""Strings of chat templates inside the text."""

from bp_data import ChatTokenizer
from bp_data.check.markup import Markup


def said(text: str, tokenizer: ChatTokenizer | None = None) -> list[str]:
    return [message for _, message, _ in Markup(tokenizer)(text)]


def test_markers_of_templates_are_found() -> None:
    assert said("a <|im_start|>system <|eot_id|> [INST] <|im_start|>") == [
        "the text holds <|im_start|>, <|eot_id|>, [INST]"
    ]
    assert said("<b>bold</b> a | b, [1], list[INSTANCE], <s>struck</s>, <think>") == []


def test_the_special_tokens_of_the_model_are_found_too(mistral: ChatTokenizer, smol: ChatTokenizer) -> None:
    assert said("<s>struck</s>", mistral) == ["the text holds <s>, </s>"]
    assert said("<repo_name>x", smol) == ["the text holds <repo_name>"]
    assert said("<repo_name>x") == []
