"""Answers of gpt-oss, with channels, in the tags that other models write."""

import pytest

from bp_core.harmony import in_tags, is_harmony, may_become_harmony

ANALYSIS = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
CALLED = '<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}}</tool_call>'


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("<|channel|>final<|message|>Rain.<|return|>", "Rain."),
        (f"{ANALYSIS}<|channel|>final<|message|>Rain.", "<think>Hm.</think>Rain."),
        (' to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Oslo"}<|call|>', CALLED),
        (
            f'{ANALYSIS}<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{{"city": "Oslo"}}',
            f"<think>Hm.</think>{CALLED}",
        ),
        (f"{ANALYSIS}<|channel|>commentary<|message|>I look.<|end|>", "<think>Hm.</think>I look."),
        ("<|channel|>analysis<|message|>Hm", "<think>Hm"),
        ("<|channel|>analysis<|message|>Hm.<|end|>", "<think>Hm.</think>"),
        ("<|channel|>analysis", ""),
        (
            "<|channel|>commentary to=functions.now<|message|><|call|>",
            '<tool_call>{"name": "now", "arguments": {}}</tool_call>',
        ),
    ],
)
def test_channels_become_tags(text, tags):
    assert is_harmony(text) and in_tags(text) == tags


@pytest.mark.parametrize("text", ["Rain.", "to=5", "tomorrow", "A <|channel|> is a token.", "", "<think>Hm.</think>"])
def test_other_answers_stay(text):
    assert not is_harmony(text)


def test_the_beginning_of_a_call_may_become_one():
    assert all(map(may_become_harmony, ["", " t", " to", "to=", " to=functions.get_weather"]))
    assert not any(map(may_become_harmony, ["ton", "Rain", "<|channel|>final"]))
